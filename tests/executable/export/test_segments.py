"""Libraries for C of networks that ONNX Runtime runs in part.

Tests that run ONNX Runtime's library need a release of ONNX Runtime for C, which no package has: see CONTRIBUTING.md.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from typer.testing import CliRunner

from tests.c_libraries import build_buckets, compile_c, run_bare
from tests.executables import read, reseal
from tests.models import TARGET, built, runs
from tests.targets import lane_target, require
from tilewright.cli import app
from tilewright.errors import OutputError
from tilewright.executable.executable import load_executable
from tilewright.executable.export.library import export_library
from tilewright.executable.export.onnxruntime import VARIABLE, find_onnxruntime, find_release
from tilewright.executable.runtime.library import find_compiler
from tilewright.target import Target
from tilewright.tensor import Array

pytestmark = runs

CHECKS = Path(__file__).with_name("segments.c")
#: Kernels before and after a segment, which fails if an index of ``i`` is too large.
MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,64] x, int64[3] i) => (float[N,64] y, int64[2,3] g) {
  a = Relu(x)
  n = NonZero(a)
  g = Gather<axis = 1>(n, i)
  k = Shape(n)
  f = Cast<to = 1>(k)
  m = ReduceMax<keepdims = 0>(f)
  e = Exp(a)
  y = Add(e, m)
}"""
#: What valgrind finds inside of ONNX Runtime 1.32: when it starts, it copies four bytes to themselves.
KNOWN = "{\n  onnxruntime\n  Memcheck:Overlap\n  fun:__memcpy_chk\n  obj:*/libonnxruntime.so*\n}\n"
needs_runtime = pytest.mark.skipif(
    find_onnxruntime(None) is None,
    reason=f"{VARIABLE} names no release of ONNX Runtime for C, and pkg-config knows none",
)
needs_pkg_config = pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")


def build_parted(folder: Path, target: Target = TARGET) -> Path:
    """The executable ``folder/out`` with two buckets, each with a segment."""
    require(target)
    return build_buckets(folder, parser.parse_model(MODEL), [{"x": (n, 64), "i": (3,)} for n in (16, 48)], target)


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_parted(tmp_path_factory.mktemp("parted"))


def draw(rows: int) -> tuple[Array, Array]:
    return np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32), np.array([0, 7, -1])


def join(arrays: list[Array] | tuple[Array, ...]) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


@needs_runtime
def test_outputs_are_those_of_python_in_two_threads_at_once(parted: Path, tmp_path: Path) -> None:
    exported = export_library(parted, tmp_path / "c", "net")
    program = compile_c(CHECKS, tmp_path / "c", "net", tmp_path / "checks")
    for bucket, rows in enumerate((16, 48)):
        done = run_bare(program, str(bucket), "50", data=join(inputs := draw(rows)))
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == join(load_executable(parted)(*inputs))
    assert "libonnxruntime.so of release 1.18 or" in exported.header.read_text()
    for file in ("cmake/net/net-config.cmake", "pkgconfig/net.pc"):
        assert "It needs libonnxruntime.so of ONNX Runtime 1.18 or later." in (tmp_path / "c/lib" / file).read_text()


@needs_runtime
def test_a_network_without_kernels(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[9,9] x) => (int64[2] k) { n = NonZero(x) k = Shape(n) }'
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    _, executable = built(tmp_path / "m.onnx", tmp_path / "out", lean=False)
    export_library(tmp_path / "out", tmp_path / "c", "net", weights_file=True)
    program = compile_c(tmp_path / "c/share/doc/net/example.c", tmp_path / "c", "net", tmp_path / "example")
    x = np.eye(9, dtype=np.float32)
    done = run_bare(program, data=x.tobytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == join(executable(x)) == np.array([2, 9]).tobytes()


@needs_runtime
def test_the_address_sanitizer_finds_nothing(parted: Path, tmp_path: Path) -> None:
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
    (tmp_path / "probe.c").write_text("int main(void) { return 0; }")
    probe = subprocess.run([*find_compiler(), *flags, tmp_path / "probe.c", "-o", tmp_path / "probe"], check=False)
    if probe.returncode or run_bare(tmp_path / "probe").returncode:
        pytest.skip("there is no address sanitizer here")
    export_library(parted, tmp_path / "c", "net", flags=(*flags, "-Wl,-z,undefs"))
    program = compile_c(CHECKS, tmp_path / "c", "net", tmp_path / "checks", flags)
    done = run_bare(program, "1", "5", data=join(draw(48)))
    assert (done.returncode, done.stderr) == (0, b"")


@needs_runtime
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    export_library(build_parted(tmp_path, lane_target(8)), tmp_path / "c", "net")  # valgrind knows no AVX-512
    program = compile_c(CHECKS, tmp_path / "c", "net", tmp_path / "checks", ["-g", "-DFORKS=0"])
    (tmp_path / "known").write_text(KNOWN)
    tool = ["valgrind", "-q", "--fair-sched=yes", "--leak-check=full", "--error-exitcode=9"]
    tool += [f"--suppressions={tmp_path / 'known'}", str(program), "0", "1"]
    done = subprocess.run(tool, input=join(draw(16)), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


#: The beginning of a library for x86-64, and the only function that is looked for.
LIBRARY = b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + (62).to_bytes(2, "little")
LIBRARY += b"\0OrtGetApiBase\0"


def write_release(folder: Path, version: int = 40, library: bytes = LIBRARY) -> Path:
    """A directory that looks like a release of ONNX Runtime for C."""
    (folder / "include").mkdir(parents=True)
    (folder / "include/onnxruntime_c_api.h").write_text(f"#pragma once\n#define ORT_API_VERSION {version}\n")
    (folder / "lib").mkdir()
    (folder / "lib/libonnxruntime.so.1").write_bytes(library)
    return folder


def set_opset(out: Path, opset: int) -> None:
    manifest = read(out)
    manifest["segments"][1]["opset"] = opset
    reseal(out, manifest)


def remove_header(release: Path) -> None:
    (release / "include/onnxruntime_c_api.h").unlink()


def remove_library(release: Path) -> None:
    (release / "lib/libonnxruntime.so.1").unlink()


def write_header(text: str) -> Callable[[Path], object]:
    return lambda release: (release / "include/onnxruntime_c_api.h").write_text(text)


def write_library(content: bytes) -> Callable[[Path], object]:
    return lambda release: (release / "lib/libonnxruntime.so.1").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, r"/ort does not exist; unpack a release"),
        (remove_header, r"has no onnxruntime_c_api.h in include, include/onnxruntime, .* --onnxruntime"),
        (remove_library, r"has no libonnxruntime.so in lib, lib64; unpack a release"),
        (write_header("#define ORT_API_VERSION 17\n"), r"need release 1.18 or later, but .* has version 17 of the API"),
        (write_header("nothing\n"), r"should define ORT_API_VERSION, but it does not; unpack the release again"),
        (write_library(b""), r"libonnxruntime.so.1 cannot be read: .*; unpack the release again"),
        (write_library(LIBRARY[:-2]), r"should be ONNX Runtime's shared library, but it has no OrtGetApiBase"),
        (
            write_library(LIBRARY.replace(b"\x3e\0", b"\xb7\0")),
            r"the executable is for x86_64, but .* is for aarch64; unpack the release for the executable's",
        ),
    ],
    ids=["no directory", "no header", "no library", "old", "no version", "empty", "another library", "another machine"],
)
def test_a_release_that_will_not_do_is_refused_before_anything_is_written(
    damage: Callable[[Path], object], says: str, parted: Path, tmp_path: Path
) -> None:
    damage(write_release(tmp_path / "ort"))
    with pytest.raises(OutputError, match=says):
        export_library(parted, tmp_path / "c", "net", onnxruntime=tmp_path / "ort")
    assert not (tmp_path / "c").exists()


def test_a_release_that_is_too_old_for_the_opset(parted: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(parted, tmp_path / "out"))
    assert [segment["opset"] for segment in read(out)["segments"]] == [18, 18]
    set_opset(out, 23)
    release = write_release(tmp_path / "ort", 22)
    with pytest.raises(OutputError, match=r"need release 1.23 or later, which opset 23 needs, but .* has version 22"):
        export_library(out, tmp_path / "c", "net", onnxruntime=release)
    assert find_release([23, 21]) == 23
    assert find_release([18]) == find_release([999]) == find_release([]) == 18


def test_without_a_release_the_segments_are_named(
    parted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    says = r"run in ONNX Runtime: segment 0 \(.*NonZero.*: NonZero \(n\).*; segment 1 .*; name .* --onnxruntime or "
    with pytest.raises(OutputError, match=says + f"{VARIABLE}, or install one that pkg-config finds"):
        export_library(parted, tmp_path / "c", "net")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(OutputError, match=f"{tmp_path} of {VARIABLE} has no onnxruntime_c_api.h"):
        export_library(parted, tmp_path / "c", "net")


def test_the_option_of_the_command_names_the_release(parted: Path, tmp_path: Path) -> None:
    release = write_release(tmp_path / "ort", 17)
    command = ["export", str(parted), "--c", str(tmp_path / "c"), "--name", "net", "--onnxruntime", str(release)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "need release 1.18 or later" in " ".join(done.output.split())
    assert not (tmp_path / "c").exists()


@needs_pkg_config
def test_a_package_is_found_by_pkg_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = write_release(tmp_path / "usr", 23)
    (release / "include/onnxruntime").mkdir()
    shutil.move(release / "include/onnxruntime_c_api.h", release / "include/onnxruntime")
    (tmp_path / "libonnxruntime.pc").write_text(
        f"includedir={release}/include\nlibdir={release}/lib\nName: r\nDescription: r\nVersion: 1.23.0\n"
    )
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PKG_CONFIG_PATH", str(tmp_path))
    found = find_onnxruntime(None)
    assert found is not None
    assert (found.release, found.packaged) == (23, True)
    assert (found.include, found.library.parent) == (release / "include/onnxruntime", release / "lib")
    assert str(release / "lib") not in "".join(flag for flag in found.flags if "ORIGIN" in flag)
    assert find_onnxruntime(None, "aarch64-linux-gnu") is None
    remove_library(release)
    with pytest.raises(OutputError, match=r"has no libonnxruntime\.so there"):
        find_onnxruntime(None)


@pytest.mark.parametrize(("key", "name"), [("returned", "y"), ("given", "s")])
def test_tensors_without_a_fixed_shape_are_refused(key: str, name: str, parted: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(parted, tmp_path / "out"))
    manifest: dict[str, Any] = read(out)
    manifest["segments"][1][key] = [name]
    reseal(out, manifest)
    with pytest.raises(OutputError, match=f"have numbers and a fixed shape, but '{name}', which segment 1 of"):
        export_library(out, tmp_path / "c", "net", onnxruntime=write_release(tmp_path / "ort"))
    assert not (tmp_path / "c").exists()
