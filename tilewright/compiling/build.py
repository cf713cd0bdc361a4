"""From best schedules to an executable, in memory and on disk."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.compiling.kernels import Kernels, Library, compile_machine
from tilewright.errors import OutputError
from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.manifest import FORMAT, LIBRARY, NAME, WEIGHTS, read_manifest, sealed
from tilewright.executable.plan import Plan
from tilewright.executable.replacing import replacing
from tilewright.executable.runtime.features import needed_features
from tilewright.executable.runtime.library import find_compiler
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.data import save_onnx
from tilewright.frontend.torch.model import SUFFIX, write_program
from tilewright.graph.tasks import Extraction
from tilewright.scratch import explained
from tilewright.target import Target

__all__ = [
    "build",
    "build_scheduled",
    "build_untuned",
    "check_compiler",
    "publish",
    "replace_kernels",
    "save_onnx",
]


def check_compiler() -> None:
    """Raise ``CompilerError`` where there is no compiler for the executable: better now than after the budget."""
    find_compiler()


def build(
    extraction: Extraction,
    functions: Mapping[str, Any],
    out: Path,
    extra: Mapping[str, Any],
    kernels: Kernels | None = None,
) -> Executable:
    """Compile the network with ``functions`` (a PrimFunc by task key) and write it into the directory ``out``.

    Tasks without a function are compiled as they are. The directory appears whole or not at all. ``kernels`` are those
    of the extraction, if some are compiled already.

    Raises:
        CompilerError: compiling or linking failed.
        OutputError: ``out`` cannot be written.
    """
    arrays = [recipe.apply(extraction.network.weights) for recipe in extraction.rewritten.recipes]
    if extraction.plan is not None:
        arrays += extraction.plan.constants

    def compiled(path: Path) -> Plan | None:
        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            return (kernels or Kernels(extraction, Path(folder))).library(functions, path).plan

    return _write(compiled, extraction.target, extraction.network, arrays, out, extra)


def replace_kernels(executable: Path, library: Library, out: Path) -> None:
    """Write the executable in the directory ``executable`` with the kernels of ``library`` into the directory ``out``.

    Both must come of the same extraction, since they share weights. ``out`` may be ``executable`` itself.

    Raises:
        OutputError: a file cannot be read or written.
    """
    manifest = read_manifest(executable) | {"plan": None if library.plan is None else library.plan.to_json()}
    with replacing(out) as part:
        try:
            shutil.copyfile(library.path, part / LIBRARY)
            for name in manifest["sha256"]:
                if name not in (LIBRARY, NAME):
                    _same_file(executable / name, part / name)
            _seal(part, manifest)
        except OSError as exc:
            raise explained(exc, f"the executable in {executable} cannot be given other kernels", part) from exc


def publish(executable: Path, out: Path, extra: Mapping[str, Any]) -> None:
    """Put an executable that was built in the directory ``executable`` into ``out``, which is replaced if it is there.

    Args:
        executable: stays as it is.
        out: appears whole or not at all.
        extra: further entries of the manifest.

    Raises:
        OutputError: a file cannot be read or written, or ``out`` holds something else than an executable.
    """
    _check_replaceable(out)
    manifest = read_manifest(executable) | dict(extra)
    with replacing(out) as part:
        try:
            for name in manifest["sha256"]:
                if name != NAME:
                    _same_file(executable / name, part / name)
            _seal(part, manifest)
        except OSError as exc:
            raise explained(exc, f"the executable cannot be written to {out}", part) from exc


def _check_replaceable(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / NAME).is_file():
        raise OutputError(f"--out names a new directory or an executable to replace, but {out} holds other files")


def _same_file(source: Path, target: Path) -> None:
    """The file once more, without the space of a copy where the file system can do that."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def build_untuned(model: Path, target: Target, out: Path) -> Executable:
    """TVM's default build of an ONNX model, as a user of TVM gets it, into the directory ``out``."""
    network = load(model)
    compiled = partial(compile_machine, network.module, target)
    return _write(compiled, target, network, list(network.weights.values()), out, {"untuned": True})


def build_scheduled(module: Any, target: Target, network: Network, out: Path, extra: Mapping[str, Any]) -> Executable:
    """Compile a network that somebody else has fused and scheduled, and write it into the directory ``out``.

    Args:
        module: a Relax module with the weights as constants; its kernels are compiled as they are.
        target: what for.
        network: what it was made from.
        out: the directory.
        extra: entries of the manifest.

    Raises:
        CompilerError: compiling or linking failed.
        OutputError: ``out`` cannot be written.
    """
    return _write(partial(compile_machine, module, target), target, network, [], out, extra)


def _write(
    compiled: Callable[[Path], Plan | None],
    target: Target,
    network: Network,
    arrays: Sequence[NDArray[Any]],
    out: Path,
    extra: Mapping[str, Any],
) -> Executable:
    """Write an executable; ``compiled`` writes its library, and returns its plan."""
    check_compiler()
    _check_replaceable(out)
    with replacing(out) as part:
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
    arrays: Sequence[NDArray[Any]],
    extra: Mapping[str, Any],
    plan: Plan | None,
) -> None:
    """Write what belongs to an executable beside its library."""
    named: dict[str, Any] = {f"w{i}": a for i, a in enumerate(arrays)}
    np.savez(part / WEIGHTS, **named)
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
            "features": needed_features(target.tvm),
        },
        "model": _keep_model(network, part),
        "plan": None if plan is None else plan.to_json(),
        **extra,
    }
    _seal(part, manifest)


def _seal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of all files in ``folder``."""
    text = sealed(manifest, folder, sorted(file.name for file in folder.iterdir()))
    (folder / NAME).write_text(text, encoding="utf-8")


def _keep_model(network: Network, folder: Path) -> str | None:
    """Write the model that the executable is made from beside it; the name of its file, or None where there is none."""
    if network.onnx is not None:
        save_onnx(network.onnx, folder / "model.onnx")
        return "model.onnx"
    if network.program is not None:
        write_program(network.program, folder / f"model{SUFFIX}")
        return f"model{SUFFIX}"
    return None
