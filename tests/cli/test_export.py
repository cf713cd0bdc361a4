"""``tilewright export`` writes a library, or one message that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.executables import shared
from tests.models import runs
from tilewright.cli import app

__all__ = ["shared"]

pytestmark = runs


def test_a_library_is_named_after_its_network(shared: Path, tmp_path: Path) -> None:
    command = ["export", str(shared), "--c", str(tmp_path / "c"), "--weights", "file", "--json", str(tmp_path / "r")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r").read_text())
    assert report["name"] == "network_m"  # -lm names another library
    assert str(tmp_path / "c" / "lib" / "network_m.weights") in report["files"]
    assert all(file in done.output and Path(file).is_file() for file in report["files"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--name", "no-name"], "--name is a name in C"),
        (["--name", ""], "--name is a name in C"),
        (["--weights", "outside"], "--weights is 'inside' or 'file', but this is 'outside'"),
    ],
)
def test_wrong_options_end_with_one_message(options: list[str], says: str, shared: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(shared), "--c", str(tmp_path / "c"), *options])
    assert done.exit_code == 2
    assert says in done.output
    assert not (tmp_path / "c").exists()


def test_a_place_that_cannot_be_written(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file")
    done = CliRunner().invoke(app, ["export", str(shared), "--c", str(tmp_path / "c"), "--name", "net"])
    assert done.exit_code == 2
    assert "the library cannot be written to" in done.output
    assert "Not a directory; name another directory with --c" in done.output


@pytest.mark.parametrize("blocked", ["lib/libnet.so", "share"])
def test_nothing_is_written_if_one_file_cannot_be(blocked: str, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    if blocked == "share":
        out.mkdir()
        (out / blocked).write_text("a file")
    else:
        (out / blocked).mkdir(parents=True)
    before = sorted(out.rglob("*"))
    done = CliRunner().invoke(app, ["export", str(shared), "--c", str(out), "--name", "net"])
    assert done.exit_code == 2
    assert "the library cannot be written to" in done.output
    assert sorted(out.rglob("*")) == before


def test_what_is_no_executable(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), "--c", str(tmp_path / "c")])
    assert done.exit_code == 2
    assert "an executable is a directory with a manifest.json" in done.output
    assert done.output.endswith("No such file or directory; name another directory, or tune again\n")
