"""Builds executables from the programs of tasks, and writes them into directories."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.compiling.files import merge_weights, seal_manifest, write_bucket_files, write_files
from tilewright.compiling.kernels import Kernels, Library, compile_machine, objects_beside
from tilewright.errors import OutputError, UnsupportedOperatorError
from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.manifest import LIBRARY, NAME, OBJECTS, read_manifest
from tilewright.executable.replacing import replace_directory
from tilewright.executable.runtime.library import find_compiler_of
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.graph.buckets import Buckets, Extracted
from tilewright.scratch import explained
from tilewright.target import Target
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import ir, tirx

__all__ = ["build", "build_machine", "build_untuned", "check_compiler", "publish", "replace_kernels", "write"]


def check_compiler(triple: str = "") -> None:
    """Raise ``CompilerError`` if there is no C compiler, so that a command ends before it spends its budget.

    Args:
        triple: LLVM's name of the platform that is compiled for; empty: this one.
    """
    find_compiler_of(triple)


def build(
    extraction: Extracted,
    functions: Mapping[str, tirx.PrimFunc],
    out: Path,
    extra: Mapping[str, object],
    kernels: Kernels | None = None,
) -> Executable:
    """Compile a network, write it as an executable, and load it. Arguments and errors are those of :func:`write`."""
    write(extraction, functions, out, extra, kernels)
    return load_executable(out)


def write(
    extraction: Extracted,
    functions: Mapping[str, tirx.PrimFunc],
    out: Path,
    extra: Mapping[str, object],
    kernels: Kernels | None = None,
) -> None:
    """Compile a network, and write it as an executable, which may be for another platform.

    Args:
        extraction: the network.
        functions: the programs of its tasks, by ``Task.key``. Other tasks are compiled as they are.
        out: the executable's directory, which appears whole or not at all.
        extra: further JSON-able entries of the manifest.
        kernels: compiles the kernels of ``extraction``, and may have compiled some before; None: none was compiled.

    Raises:
        CompilerError: compiling or linking failed.
        OutputError: ``out`` cannot be written.
    """
    weights = merge_weights(extraction)

    def compiled(path: Path) -> Library:
        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            return (kernels or Kernels(extraction, Path(folder))).library(functions, path)

    def fill(part: Path, library: Library) -> None:
        if isinstance(extraction, Buckets):
            write_bucket_files(part, extraction, weights, library.plans, extra)
        else:
            write_files(part, extraction.network, extraction.target, weights.arrays, library.plan, extra)

    _write(compiled, fill, out, extraction.target.triple)


def replace_kernels(executable: Path, library: Library, out: Path) -> None:
    """Write an executable once more with other kernels.

    Args:
        executable: the executable's directory.
        library: the kernels, of the same extraction as the executable, since both use the same weights.
        out: the directory to write. It may be ``executable`` itself.

    Raises:
        OutputError: a file cannot be read or written.
    """
    manifest = read_manifest(executable)
    if buckets := manifest.get("buckets"):
        for bucket, plan in zip(buckets, library.plans, strict=True):
            bucket["plan"]["calls"] = plan.to_json()["calls"]  # the numbers of weights are those of the executable
    else:
        manifest["plan"] = None if library.plan is None else library.plan.to_json()
    with replace_directory(out) as part:
        try:
            shutil.copyfile(library.path, part / LIBRARY)
            if objects_beside(library.path).is_file():
                shutil.copyfile(objects_beside(library.path), part / OBJECTS)
            for name in manifest["sha256"]:
                if name not in (LIBRARY, OBJECTS, NAME):
                    _same_file(executable / name, part / name)
            seal_manifest(part, manifest)
        except OSError as exc:
            raise explained(exc, f"the executable in {executable} cannot be given other kernels", part) from exc


def publish(executable: Path, out: Path, extra: Mapping[str, object]) -> None:
    """Write an executable once more, into the directory where users look for it.

    Args:
        executable: the executable's directory, which stays as it is.
        out: the directory to write, which appears whole or not at all. An executable in it is replaced.
        extra: further JSON-able entries of the manifest.

    Raises:
        OutputError: a file cannot be read or written, or ``out`` holds other files than an executable's.
    """
    _check_replaceable(out)
    given = read_manifest(executable)
    with replace_directory(out) as part:
        try:
            for name in given["sha256"]:
                if name != NAME:
                    _same_file(executable / name, part / name)
            seal_manifest(part, {**given, **extra})
        except OSError as exc:
            raise explained(exc, f"the executable cannot be written to {out}", part) from exc


def _check_replaceable(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / NAME).is_file():
        raise OutputError(f"--out names a new directory or an executable to replace, but {out} holds other files")


def _same_file(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source`` if the file system can do that, or else a copy."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def build_untuned(model: Path, target: Target, out: Path) -> Executable:
    """Write TVM's default build of a model, as a user of TVM gets it. Raises as :func:`build_machine` and ``load`` do.

    A model of which a part would run in ONNX Runtime is refused with ``UnsupportedOperatorError``.

    Args:
        model: the file of an ONNX model.
        target: what it is compiled for.
        out: the executable's directory.
    """
    network = load(model)
    if network.segments:
        raise UnsupportedOperatorError(
            "TVM builds a network whose operators it imports, but some of this model's run in ONNX Runtime: "
            f"{network.segments[0].reasons[0]}"
        )
    return build_machine(network, network.module, list(network.weights.values()), target, out, {"untuned": True})


def build_machine(
    network: Network,
    module: ir.IRModule,
    weights: Sequence[Array],
    target: Target,
    out: Path,
    extra: Mapping[str, object],
) -> Executable:
    """Compile a Relax module for its virtual machine, and write it as an executable.

    Args:
        network: the network that the module computes.
        module: the module. Its kernels are compiled as they are.
        weights: the arguments of its function ``main`` after the inputs.
        target: what it is compiled for.
        out: the executable's directory, which appears whole or not at all.
        extra: further JSON-able entries of the manifest.

    Raises:
        CompilerError: compiling or linking failed.
        OutputError: ``out`` cannot be written.
    """

    def fill(part: Path, library: Library) -> None:
        write_files(part, network, target, weights, None, extra)

    def compiled(path: Path) -> Library:
        compile_machine(module, target, path)
        return Library(path)

    _write(compiled, fill, out)
    return load_executable(out)


def _write(
    compiled: Callable[[Path], Library], fill: Callable[[Path, Library], None], out: Path, triple: str = ""
) -> None:
    """Write an executable.

    Args:
        compiled: writes its library into a file.
        fill: writes the other files into a directory.
        out: the executable's directory.
        triple: LLVM's name of the platform that the library is for; empty: this one.
    """
    check_compiler(triple)
    _check_replaceable(out)
    with replace_directory(out) as part:
        library = compiled(part / LIBRARY)
        try:
            fill(part, library)
        except OSError as exc:
            raise explained(exc, f"the executable cannot be written to {out}", part) from exc
