"""Builds executables from the programs of tasks, and writes them into directories."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.compiling.kernels import Kernels, Library, compile_machine
from tilewright.errors import OutputError, UnsupportedOperatorError
from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.manifest import FORMAT, LIBRARY, NAME, WEIGHTS, read_manifest, seal
from tilewright.executable.narrow import narrow_array
from tilewright.executable.plan import Plan
from tilewright.executable.replacing import replace_directory
from tilewright.executable.runtime.features import find_needed_features
from tilewright.executable.runtime.library import find_compiler
from tilewright.executable.segment import SegmentJson, data_name, file_name
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.data import save_onnx
from tilewright.frontend.onnx.half import narrow_weights
from tilewright.frontend.torch.model import SUFFIX, write_program
from tilewright.graph.tasks import Extraction
from tilewright.scratch import explained
from tilewright.target import Target
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import ir, tirx

__all__ = ["build", "build_machine", "build_untuned", "check_compiler", "publish", "replace_kernels"]


def check_compiler() -> None:
    """Raise ``CompilerError`` if there is no C compiler, so that a command ends before it spends its budget."""
    find_compiler()


def build(
    extraction: Extraction,
    functions: Mapping[str, tirx.PrimFunc],
    out: Path,
    extra: Mapping[str, object],
    kernels: Kernels | None = None,
) -> Executable:
    """Compile a network, and write it as an executable.

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
    arrays: list[Array] = [recipe.apply(extraction.network.weights) for recipe in extraction.recipes]
    if extraction.plan is not None:
        arrays += extraction.plan.constants

    def compiled(path: Path) -> Plan | None:
        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            return (kernels or Kernels(extraction, Path(folder))).library(functions, path).plan

    return _write(compiled, extraction.target, extraction.network, arrays, out, extra)


def replace_kernels(executable: Path, library: Library, out: Path) -> None:
    """Write an executable once more with other kernels.

    Args:
        executable: the executable's directory.
        library: the kernels, of the same extraction as the executable, since both use the same weights.
        out: the directory to write. It may be ``executable`` itself.

    Raises:
        OutputError: a file cannot be read or written.
    """
    manifest = read_manifest(executable) | {"plan": None if library.plan is None else library.plan.to_json()}
    with replace_directory(out) as part:
        try:
            shutil.copyfile(library.path, part / LIBRARY)
            for name in manifest["sha256"]:
                if name not in (LIBRARY, NAME):
                    _same_file(executable / name, part / name)
            _seal(part, manifest)
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
            _seal(part, {**given, **extra})
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
    return _write(partial(compile_machine, module, target), target, network, weights, out, extra)


def _write(
    compiled: Callable[[Path], Plan | None],
    target: Target,
    network: Network,
    arrays: Sequence[Array],
    out: Path,
    extra: Mapping[str, object],
) -> Executable:
    """Write an executable. ``compiled`` writes its library into a file, and returns its plan."""
    check_compiler()
    _check_replaceable(out)
    with replace_directory(out) as part:
        plan = compiled(part / LIBRARY)
        try:
            _fill(part, target, network, arrays, extra, plan)
        except OSError as exc:
            raise explained(exc, f"the executable cannot be written to {out}", part) from exc
    return load_executable(out)


def _fill(
    part: Path,
    target: Target,
    network: Network,
    arrays: Sequence[Array],
    extra: Mapping[str, object],
    plan: Plan | None,
) -> None:
    """Write the files of an executable other than its library."""
    kept = {f"w{i}": narrow_array(array) for i, array in enumerate(arrays)}
    named: dict[str, Any] = {name: array for name, (array, _) in kept.items()}  # for NumPy, options may be among them
    np.savez(part / WEIGHTS, **named)
    narrow = {name: kind for name, (_, kind) in kept.items() if kind}
    manifest = {
        "format": FORMAT,
        "name": network.name,
        "inputs": [dataclasses.asdict(s) for s in network.inputs],
        "outputs": [dataclasses.asdict(s) for s in network.outputs],
        "target": {
            "mcpu": target.mcpu,
            "cores": target.cores,
            "machine": target.machine,
            "key": target.key,
            "features": find_needed_features(target.tvm),
        },
        "model": _keep_model(network, part),
        "plan": None if plan is None else plan.to_json(),
        **({"narrow": narrow} if narrow else {}),
        **({"segments": _write_segments(network, part)} if network.segments else {}),
        **extra,
    }
    _seal(part, manifest)


def _write_segments(network: Network, folder: Path) -> list[SegmentJson]:
    """Write the models of the parts that ONNX Runtime runs. Returns their entries in the manifest."""
    entries: list[SegmentJson] = []
    for number, segment in enumerate(network.segments):
        save_onnx(narrow_weights(segment.model), folder / file_name(number), data_name(number))
        entries.append(
            {
                "inputs": list(segment.inputs),
                "outputs": list(segment.outputs),
                "given": list(segment.given),
                "returned": list(segment.returned),
                "reasons": list(segment.reasons),
                "operators": list(segment.operators),
            }
        )
    return entries


def _seal(folder: Path, manifest: Mapping[str, object]) -> None:
    """Write the manifest with the checksums of all files in ``folder``."""
    text = seal(manifest, folder, sorted(file.name for file in folder.iterdir()))
    (folder / NAME).write_text(text, encoding="utf-8")


def _keep_model(network: Network, folder: Path) -> str | None:
    """Write the model that the executable is made from. Returns the name of its file; None if there is no model."""
    if network.onnx is not None:
        save_onnx(network.onnx, folder / "model.onnx")
        return "model.onnx"
    if network.program is not None:
        write_program(network.program, folder / f"model{SUFFIX}")
        return f"model{SUFFIX}"
    return None
