"""Libraries for C that are built for other processors: their outputs, and what a processor without them says."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.agreement import one_thread
from tests.c_libraries import compile_c, run_bare
from tests.conformance.lane_cases import CASES
from tests.executables import read as read_json
from tests.executables import reseal
from tests.foreign import arm_target, compile_foreign, export_foreign, needs_arm, run_foreign, run_network
from tests.models import defaults, normal, read
from tests.targets import lane_target
from tilewright.compiling.build import write
from tilewright.errors import CompilerError, OutputError, TargetError
from tilewright.executable.executable import load_executable
from tilewright.executable.export.library import export_library
from tilewright.executable.runtime.cross import find_cross_compiler
from tilewright.graph.tasks import extract

#: The models whose libraries are run.
NETWORKS = ("channel shuffle", "attention")


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, its executable for 64-bit Arm, and its library."""
    folder = tmp_path_factory.mktemp("arm")
    export_foreign(extract(read(CASES[request.param].write(folder / "m.onnx")), arm_target()), folder)
    return folder


@needs_arm
def test_a_library_for_arm_gives_the_outputs_of_onnx_runtime(network: Path) -> None:
    extraction = extract(read(network / "m.onnx"), arm_target())
    inputs = extraction.network.random_inputs(0)
    session = onnxruntime.InferenceSession(str(network / "m.onnx"), one_thread(), providers=["CPUExecutionProvider"])
    feeds = {spec.name: x for spec, x in zip(extraction.network.inputs, inputs, strict=True)}
    for ours, theirs in zip(
        run_network(extraction.network.outputs, network / "c", inputs), session.run(None, feeds), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=1e-4)
    assert "for cortex-a76" in (network / "c/include/net.h").read_text()


@needs_arm
@pytest.mark.parametrize("network", NETWORKS[:1], indirect=True)
def test_a_processor_without_an_instruction_is_told_its_name(network: Path) -> None:
    program = compile_foreign(network / "c/share/doc/net/example.c", network / "c", network / "refused")
    done = run_foreign(program, bytes(1 << 20), cpu="cortex-a53")
    assert done.returncode == 1
    assert b"a processor with dotprod, fullfp16, lse, rcpc, rdm, but this one has no such instructions" in done.stderr


@needs_arm
@pytest.mark.parametrize("network", NETWORKS[:1], indirect=True)
def test_python_does_not_load_code_for_another_processor(network: Path) -> None:
    assert read_json(network / "out")["target"]["triple"] == "aarch64-linux-gnu"
    with pytest.raises(TargetError, match="its kernels are for aarch64-linux-gnu, but this machine is"):
        load_executable(network / "out")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates an x86-64 processor")
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="there is no qemu-x86_64 (Debian: qemu-user)")
def test_a_library_for_avx_512_on_a_processor_without_it(tmp_path: Path) -> None:
    target = lane_target(16)
    extraction = extract(read(CASES["dense"].write(tmp_path / "m.onnx")), target)
    write(extraction, defaults(extraction), tmp_path / "out", {})
    export_library(tmp_path / "out", tmp_path / "c", "net")
    program = compile_c(tmp_path / "c/share/doc/net/example.c", tmp_path / "c", "net", tmp_path / "example")
    command = ["qemu-x86_64", "-cpu", "Nehalem", str(program)]
    done = subprocess.run(command, input=bytes(1 << 20), capture_output=True, timeout=120, check=False)
    assert done.returncode == 1  # and not the signal SIGILL
    assert b"avx512f" in done.stderr
    assert b"but this one has no such instructions" in done.stderr


def test_without_a_compiler_for_the_target_nothing_is_exported(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(shared, tmp_path / "out"))
    manifest = read_json(out)
    manifest["target"]["triple"] = "aarch64-linux-gnu"
    reseal(out, manifest)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompilerError, match=r"neither aarch64-linux-gnu-gcc nor zig; install zig with: pip install"):
        export_library(out, tmp_path / "c", "net")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("triple", [3, "", "a b", "../x"])
def test_a_triple_that_is_none(triple: object, shared: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(shared, tmp_path / "out"))
    manifest = read_json(out)
    manifest["target"]["triple"] = triple
    reseal(out, manifest)
    with pytest.raises(OutputError, match="the triple of its target names no platform"):
        load_executable(out)


@pytest.mark.parametrize(
    ("triple", "names"),
    [
        ("aarch64-linux-gnu", ["aarch64-linux-gnu-gcc"]),
        ("aarch64-linux-gnu", ["aarch64-linux-gnu-clang", "zig"]),
        ("x86_64-unknown-linux-musl", ["zig"]),
    ],
)
def test_an_installed_cross_compiler_comes_first(
    triple: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    command = find_cross_compiler(triple)
    assert command[0] == names[0]
    assert command[1:] in ((), ("cc", "-target", "x86_64-linux-musl"))
    (tmp_path / f"{triple}-gcc-12").touch(0o755)
    monkeypatch.setenv("CC", f"{triple}-gcc-12")
    assert find_cross_compiler(triple) == (f"{triple}-gcc-12",)
    monkeypatch.setenv("CC", f"{triple}-gcc-12 -O1")
    assert find_cross_compiler(triple) == (f"{triple}-gcc-12", "-O1")


zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="the package ziglang is not installed")


@zig
def test_zig_compiles_the_header_and_the_example(two_buckets: Path, tmp_path: Path) -> None:
    export_library(two_buckets, tmp_path / "c", "net")
    compiler, include = [sys.executable, "-m", "ziglang", "cc"], f"-I{tmp_path}/c/include"
    strict = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
    user = tmp_path / "user.cc"
    user.write_text("#include <net.h>\nint main() { return net_abi() == NET_ABI ? 0 : 1; }\n")
    command = [*compiler, "-c", "-std=c++11", *strict, include, str(user), "-o", str(tmp_path / "user.o")]
    subprocess.run(command, check=True)  # not linked: for that, zig compiles a C++ library first
    source, places = tmp_path / "c/share/doc/net/example.c", [f"-L{tmp_path}/c/lib", f"-Wl,-rpath,{tmp_path}/c/lib"]
    # With -O2, zig has compiled its own library for other tests, too.
    command = [*compiler, "-std=c99", *strict, "-O2", include, str(source), *places, "-lnet", "-o"]
    subprocess.run([*command, str(tmp_path / "example")], check=True)
    done = run_bare(tmp_path / "example", data=(x := normal(1, 8, 32, 32)).tobytes())
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"".join(np.ascontiguousarray(y).tobytes() for y in load_executable(two_buckets)(x))
