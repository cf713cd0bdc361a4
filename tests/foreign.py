"""Libraries for C that are built for other processors, and run by QEMU's emulation of user programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.models import defaults
from tilewright.compiling.build import write
from tilewright.compiling.objects import Objects
from tilewright.errors import CompilerError
from tilewright.executable.export.library import export_library
from tilewright.executable.export.objects import write_objects
from tilewright.executable.manifest import FORMAT, NAME, OBJECTS, WEIGHTS, seal
from tilewright.executable.plan import ARENA, Call, Plan, Tensor
from tilewright.executable.runtime.cross import find_cross_compiler
from tilewright.executable.runtime.library import find_compiler_of
from tilewright.graph.tasks import Extraction
from tilewright.target import Target
from tilewright.tensor import TensorSpec

__all__ = [
    "ARM",
    "TRIPLE",
    "arm_target",
    "compile_foreign",
    "export_foreign",
    "export_kernels",
    "needs_arm",
    "run_foreign",
    "run_network",
]

TRIPLE = "aarch64-linux-gnu"
ARM = f"llvm:cortex-a76:{TRIPLE}"
#: Where the C library of the other platform may be: Debian's package libc6-arm64-cross has it in the first place.
_ROOTS = (f"/usr/{TRIPLE}", "/")
_LOADER = "lib/ld-linux-aarch64.so.1"


def _find_root() -> str:
    """The directory with the C library of aarch64; empty if there is none."""
    roots = (os.environ.get("QEMU_LD_PREFIX", ""), *_ROOTS)
    return next((root for root in roots if root and Path(root, _LOADER).exists()), "")


def _lack() -> str:
    """Why programs for aarch64 cannot be built and run here; empty if they can."""
    if shutil.which("qemu-aarch64") is None:
        return "qemu-aarch64 is not installed (Debian's package qemu-user)"
    if not _find_root():
        return "there is no C library for aarch64 (Debian's package libc6-arm64-cross)"
    try:
        find_cross_compiler(TRIPLE)
    except CompilerError as error:
        return str(error)
    return ""


needs_arm = pytest.mark.skipif(bool(_lack()), reason=_lack())


@cache
def arm_target() -> Target:
    return Target.parse(ARM)


def export_foreign(extraction: Extraction, folder: Path, functions: Mapping[str, Any] | None = None) -> Path:
    """Build a network for its target, and export it as ``net``. Returns the directory of the library.

    Args:
        extraction: the network.
        folder: where ``out`` and ``c`` are written.
        functions: the programs of its tasks; by default, the default ones.
    """
    write(extraction, defaults(extraction) if functions is None else dict(functions), folder / "out", {})
    export_library(folder / "out", folder / "c", "net")
    return folder / "c"


def compile_foreign(source: Path, prefix: Path, out: Path, triple: str = TRIPLE, flags: Sequence[str] = ()) -> Path:
    """Compile a C program against the library ``net``, as strictly as a user may."""
    strict = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O2", "-pthread")
    places = (f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib")
    command = [*find_compiler_of(triple), *strict, *flags, str(source), *places, "-lnet", "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def run_foreign(program: Path, data: bytes = b"", cpu: str = "cortex-a76") -> subprocess.CompletedProcess[bytes]:
    """Run a program for aarch64."""
    command = ["qemu-aarch64", "-cpu", cpu, "-L", _find_root(), str(program)]
    environment = {"PATH": os.environ.get("PATH", "")}
    return subprocess.run(command, input=data, capture_output=True, env=environment, check=False, timeout=300)


def export_kernels(functions: Mapping[str, Any], target: Target, folder: Path) -> tuple[Path, list[TensorSpec]]:
    """Export functions as a network of one kernel each, side by side. Returns the library's directory and its outputs.

    Args:
        functions: by name. The last parameter of each is its output.
        target: what they are compiled for.
        folder: where ``out`` and ``c`` are written.
    """
    tensors: list[Tensor] = []
    calls, place = [], 0
    for name, function in functions.items():
        first = len(tensors)
        for parameter in function.params:
            shape = tuple(int(extent) for extent in parameter.ty.shape)
            tensors.append(Tensor(ARENA, place, shape, str(parameter.ty.dtype)))
            place += -(-tensors[-1].bytes // 64) * 64
        calls.append(Call(name, tuple(range(first, len(tensors))), 1))
    inputs = tuple(number for call in calls for number in call.tensors[:-1])
    outputs = tuple(call.tensors[-1] for call in calls)
    plan = Plan(place, tuple(tensors), tuple(calls), inputs, outputs)
    ends = [
        [TensorSpec(f"t{number}", tensors[number].shape, tensors[number].dtype) for number in numbers]
        for numbers in (inputs, outputs)
    ]
    out = folder / "out"
    out.mkdir()
    write_objects(Objects(folder / "objects", target).compile(functions).values(), out / OBJECTS)
    np.savez(out / WEIGHTS)
    described = [[{"name": e.name, "shape": list(e.shape), "dtype": e.dtype} for e in each] for each in ends]
    manifest: dict[str, object] = {
        "format": FORMAT,
        "inputs": described[0],
        "outputs": described[1],
        "plan": plan.to_json(),
        "model": None,
        "target": {"features": target.extensions, "triple": target.triple},
    }
    (out / NAME).write_text(seal(manifest, out, [OBJECTS, WEIGHTS]))
    export_library(out, folder / "c", "net")
    return folder / "c", ends[1]


def run_network(
    outputs: Sequence[TensorSpec], prefix: Path, inputs: Sequence[NDArray[Any]], cpu: str = "cortex-a76"
) -> list[NDArray[Any]]:
    """The outputs of the library ``net`` in a directory, by its own example, on a processor that QEMU knows."""
    program = compile_foreign(prefix / "share/doc/net/example.c", prefix, prefix / "example")
    done = run_foreign(program, b"".join(np.ascontiguousarray(x).tobytes() for x in inputs), cpu)
    assert done.returncode == 0, done.stderr
    found, at = [], 0
    for spec in outputs:
        size = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        found.append(np.frombuffer(done.stdout[at : at + size], spec.dtype).reshape(spec.shape))
        at += size
    assert at == len(done.stdout)
    return found
