"""Machines that lack something: each ends with a message of its own, before time is spent, or works all the same."""

from __future__ import annotations

import json
import os
import pickle
import pty
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from onnx import helper

from tests.cli.test_bad_input import ROOT, call
from tests.models import conv_model, normal, save
from tests.processes import started
from tilewright.executable.executable import load_executable
from tilewright.executable.replacing import reserve_out
from tilewright.records import open_store

COMMAND = [sys.executable, "-m", "tilewright.cli"]
#: Runs the rest of its arguments where the directory $PLACE is a small file system of its own.
MOUNTED = 'mount -t tmpfs -o "$OPTIONS" tmpfs "$PLACE" && exec "$@"'


def run(
    *arguments: str | Path,
    before: Sequence[str] = (),
    without: Sequence[str] = (),
    limits: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command in other surroundings: behind other commands, without variables, within limits."""
    variables = {name: value for name, value in os.environ.items() if name not in without} | dict(environment or {})
    return subprocess.run(
        [*before, *COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=ROOT,
        env=variables,
        preexec_fn=limits,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], *says: str) -> None:
    """The command has ended with one message, which says all of that."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert "bug in Tilewright" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for text in says:
        assert text in done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return conv_model(tmp_path / "m.onnx")


@pytest.fixture
def mounted(tmp_path: Path) -> Callable[[str], tuple[list[str], dict[str, str]]]:
    """Makes what runs a command where a directory is a file system of its own, with some options of mount's."""
    place = tmp_path / "mounted"
    place.mkdir()

    def make(options: str) -> tuple[list[str], dict[str, str]]:
        before = ["unshare", "--mount", "sh", "-c", MOUNTED, "sh"]
        variables = {"PLACE": str(place), "OPTIONS": options}
        if shutil.which("unshare") is None or os.geteuid() != 0:
            pytest.skip("only the administrator can mount a file system, with unshare")
        tried = subprocess.run([*before, "true"], env=os.environ | variables, capture_output=True, check=False)
        if tried.returncode:
            pytest.skip(f"no file system can be mounted here: {tried.stderr.decode(errors='replace').strip()}")
        return before, variables

    return make


def test_temporary_files_where_no_program_may_run(
    tmp_path: Path, model: Path, mounted: Callable[[str], tuple[list[str], dict[str, str]]]
) -> None:
    before, variables = mounted("noexec")
    place, report = variables["PLACE"], tmp_path / "error.json"
    done = run(
        "tune",
        model,
        "--out",
        tmp_path / "o",
        "--json",
        report,
        before=before,
        environment={"TMPDIR": place, **variables},
    )
    refused(done, place, "noexec", "set TMPDIR to a directory that does")
    assert json.loads(report.read_text())["error"]["type"] == "ResourceError"
    assert not (tmp_path / "o").exists()


def test_full_disks(tmp_path: Path, model: Path, mounted: Callable[[str], tuple[list[str], dict[str, str]]]) -> None:
    before, variables = mounted("size=1m")
    place = variables["PLACE"]
    done = run("tune", model, "--out", tmp_path / "o", before=before, environment={"TMPDIR": place, **variables})
    refused(done, "the disk is full", place, "TMPDIR")
    done = run(
        "tune", model, "--out", Path(place, "o"), before=before, environment=variables | {"OPTIONS": "size=512k"}
    )
    refused(done, "the disk is full", place, "--out")
    # What is left suffices at the start, but not for an executable with 1.4 MB of weights.
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = save(tmp_path / "large.onnx", nodes, {"x": [1, 600]}, [1, 600], w=normal(600, 600))
    arguments: list[str | Path] = ["--out", Path(place, "o"), "--budget", "5s", "--records", tmp_path / "r.db"]
    done = run("tune", model, *arguments, before=before, environment=variables | {"OPTIONS": "size=1200k"})
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "the disk is full" in last
    assert place in last
    assert "--out" in last


@pytest.mark.parametrize("kind", ["-v", "-d"])
def test_too_little_memory(tmp_path: Path, model: Path, kind: str) -> None:
    number, size = (resource.RLIMIT_AS, 600 << 20) if kind == "-v" else (resource.RLIMIT_DATA, 200 << 20)
    report = tmp_path / "error.json"
    arguments: list[str | Path] = [model, "--out", tmp_path / "o", "--json", report]
    done = run("tune", *arguments, limits=lambda: resource.setrlimit(number, (size, size)))
    refused(done, "memory is missing", f"ulimit {kind}")
    assert json.loads(report.read_text())["error"]["type"] == "ResourceError"


def test_memory_that_ends_while_a_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.errors import ResourceError
    from tilewright.frontend.onnx.file import read_proto

    monkeypatch.setattr(os, "sysconf", lambda name: 1000 if name == "SC_PHYS_PAGES" else 16)
    with pytest.raises(ResourceError, match="memory is missing: the weights"):
        read_proto(conv_model(tmp_path / "m.onnx"))


def test_a_user_without_a_home_and_stdout_that_is_full(tmp_path: Path, model: Path) -> None:
    """Nobody knows the user, as in a container that was given a number; and what was made is kept all the same."""
    before = ["unshare", "--user", "--map-user=12345"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*before, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no command can be run as a user without an entry in the password file")
    without = ("HOME", "USER", "LOGNAME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "TILEWRIGHT_RECORDS")
    out, report = tmp_path / "o", tmp_path / "tune.json"
    refused(run("tune", model, "--out", out, before=before, without=without), "home directory", "--records")
    arguments: list[str | Path] = ["--out", out, "--budget", "5s", "--records", tmp_path / "r.db", "--json", report]
    full = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *before]
    done = run("tune", model, *arguments, before=full, without=without)
    assert done.returncode == 2
    assert "cannot be printed: No space left on device" in done.stderr.splitlines()[-1]
    assert "bug" not in done.stderr
    assert load_executable(out).inputs[0].shape == (1, 8, 10, 10)
    assert json.loads(report.read_text())["model"] == "m"
    open_store(tmp_path / "r.db").close()


def test_names_that_are_not_utf8_and_streams_that_are_closed(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    folder = tmp_path / f"folder-{odd}"
    folder.mkdir()
    model, out, report = conv_model(folder / f"m{odd}.onnx"), folder / f"o{odd}", folder / f"j{odd}.json"
    arguments: list[str | Path] = ["--out", out, "--budget", "5s", "--records", folder / f"r{odd}.db", "--json", report]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    done = run("tune", model, *arguments, before=closed)
    assert done.returncode == 0, report.read_text()
    assert json.loads(report.read_text())["model"] == r"m\udcff\udcfe"
    assert load_executable(out).inputs[0].shape == (1, 8, 10, 10)
    assert (folder / f"r{odd}.db").is_file()
    refused(run("run", out), "--input")
    refused(run("tasks", folder / f"none{odd}.onnx"), "No such file")
    done = run("tune", model, "--out", tmp_path / "o", environment={"TMPDIR": str(folder)})
    refused(done, "UTF-8", "set TMPDIR")


def test_an_output_that_another_command_is_writing(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "deep" / "o"
    with reserve_out(out):
        refused(run("tune", model, "--out", out), "another one is at", "--out")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("what", ["state dict", "pickle", "safetensors", "h5", "tflite", "graph", "xml", "lfs", "zip"])
def test_a_model_of_another_format(tmp_path: Path, what: str) -> None:
    contents: dict[str, tuple[str, bytes, str]] = {
        "state dict": ("m.pt", b"", "state dict"),
        "pickle": ("m.pth", pickle.dumps({"weight": 1}), "torch.export"),
        "safetensors": ("m.safetensors", (2).to_bytes(8, "little") + b"{}" + bytes(8), "safetensors"),
        "h5": ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "Keras"),
        "tflite": ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(100), "tf2onnx --tflite"),
        "graph": ("m.pb", b"\x0a\x05\x0a\x03abc", "TensorFlow"),
        "xml": ("m.xml", b'<?xml version="1.0"?><net name="m"/>', "OpenVINO"),
        "lfs": ("m.onnx", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "zip": ("m.onnx", b"", "unpack"),
    }
    name, content, says = contents[what]
    path = tmp_path / name
    path.write_bytes(content)
    if what in ("state dict", "zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data.pkl" if what == "state dict" else "m.onnx", b"anything")
    done = call("tune", path, "--out", tmp_path / "o")
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: a model is an ONNX file")
    assert str(path) in line
    assert says in line


def test_one_number_of_threads(model: Path, tmp_path: Path) -> None:
    report = tmp_path / "tasks.json"
    done = run(
        "tasks", model, "--records", tmp_path / "none.db", "--json", report, environment={"TVM_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "-1x-" in json.loads(report.read_text())["target"]


def test_libraries_print_nothing_that_a_user_sees(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["y"], name="determinant")]
    path = save(tmp_path / "m.onnx", nodes, {"x": [2, 4, 4]}, [2])
    done = run("tasks", path, "--records", tmp_path / "none.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Error converting" not in done.stdout  # what TVM's importer prints
    assert "Det (determinant): no converter serves it" in done.stdout


def test_a_terminal_that_is_gone(tmp_path: Path, model: Path) -> None:
    ours, theirs = pty.openpty()
    report = tmp_path / "tasks.json"
    command = [*COMMAND, "tasks", str(model), "--records", str(tmp_path / "none.db"), "--json", str(report)]
    with started(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait() == 2  # the result could not be printed
    assert json.loads(report.read_text())["tasks"]
