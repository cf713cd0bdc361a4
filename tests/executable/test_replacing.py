"""The directory of an executable appears whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import started
from tilewright.errors import OutputError
from tilewright.executable import replacing as module
from tilewright.executable.replacing import replace_directory, reserve_out
from tilewright.scratch import claim


def write(out: Path, text: str) -> None:
    with replace_directory(out) as part:
        (part / "manifest.json").write_text(text)
        assert not out.exists() or (out / "manifest.json").read_text() != text


def stop_half_way(part: Path, error: type[BaseException]) -> None:
    (part / "manifest.json").write_text("half")
    raise error


@pytest.mark.parametrize("atomic", [True, False])
def test_new_and_then_replaced(tmp_path: Path, atomic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not atomic:
        monkeypatch.setattr(module, "_exchange", lambda one, other: False)
    out = tmp_path / "deep" / "out"
    write(out, "one")
    (out / "kernels.so").touch()
    write(out, "two")
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("manifest.json", "two")]
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    write(out, "one")
    with pytest.raises(error), replace_directory(out) as part:
        stop_half_way(part, error)
    assert os.listdir(tmp_path) == ["out"]
    assert (out / "manifest.json").read_text() == "one"


def test_what_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "link", Path()):
        with pytest.raises(OutputError, match="choose another --out"):
            write(out, "one")
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    part = tmp_path / "out.part"
    part.mkdir()
    for name in ("kernels.so", "weights.npz", "model.onnx"):
        (part / name).write_text("half")
    write(tmp_path / "out", "one")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["manifest.json"]


def test_what_is_not_ours_is_not_removed(tmp_path: Path) -> None:
    part = tmp_path / "out.part"
    part.mkdir()
    (part / "thesis.tex").write_text("ten years of work")
    with pytest.raises(OutputError, match=r"other files, such as thesis\.tex"):
        write(tmp_path / "out", "one")
    assert (part / "thesis.tex").exists()


def test_two_processes_do_not_write_into_one(tmp_path: Path) -> None:
    part = tmp_path / "out.part"
    part.mkdir()
    (part / "kernels.so").touch()
    other = claim(part)
    assert other is not None
    with pytest.raises(OutputError, match="another is at"):
        write(tmp_path / "out", "one")
    assert (part / "kernels.so").exists()
    os.close(other)
    write(tmp_path / "out", "one")


def test_a_reservation_ends_with_its_process(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    code = (
        "import sys; from pathlib import Path; from tilewright.executable.replacing import reserve_out\n"
        "with reserve_out(Path(sys.argv[1])):\n"
        "    print('reserved', flush=True); sys.stdin.read()"
    )
    with started([sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reserved\n"
        with pytest.raises(OutputError, match="another one is at"), reserve_out(out):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with reserve_out(out):
        write(out, "one")  # its owner can write it
        write(out, "two")
    assert os.listdir(out.parent) == ["out"]
