"""From best schedules to an executable, in memory and on disk."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import CompilerError, OutputError
from tilewright.network.executable import FORMAT, Executable, load_executable, sha256
from tilewright.network.load import load
from tilewright.network.network import Network
from tilewright.network.plan import Plan
from tilewright.network.replacing import replacing
from tilewright.network.tasks import Extraction
from tilewright.runtime.library import compile_runtime, find_compiler
from tilewright.target import Target

__all__ = ["build", "build_untuned", "check_compiler", "save_onnx"]


def check_compiler() -> None:
    """Raise ``CompilerError`` where there is no compiler for the executable: better now than after the budget."""
    find_compiler()


def build(extraction: Extraction, functions: Mapping[str, Any], out: Path, extra: Mapping[str, Any]) -> Executable:
    """Compile the network with ``functions`` (a PrimFunc by task key) and write it into the directory ``out``.

    Tasks without a function are compiled as they are. The directory appears whole or not at all.

    Raises:
        CompilerError: compiling or linking failed.
        OutputError: ``out`` cannot be written.
    """
    module = extraction.module.clone()  # the extraction may be built again with other functions
    for use in extraction.uses:
        function = functions.get(use.task.key)
        if function is None:
            continue
        for name in use.functions:
            module.update_func(module.get_global_var(name), function.with_attr("global_symbol", name))
    arrays = [recipe.apply(extraction.network.weights) for recipe in extraction.rewritten.recipes]
    if extraction.plan is not None:
        arrays += extraction.plan.constants
    return _write(module, extraction.target, extraction.network, arrays, out, extra, extraction.plan)


def build_untuned(model: Path, target: Target, out: Path) -> Executable:
    """TVM's default build of an ONNX model, as a user of TVM gets it, into the directory ``out``."""
    network = load(model)
    return _write(network.module, target, network, list(network.weights.values()), out, {"untuned": True})


def _write(
    module: Any,
    target: Target,
    network: Network,
    arrays: Sequence[NDArray[Any]],
    out: Path,
    extra: Mapping[str, Any],
    plan: Plan | None = None,
) -> Executable:
    check_compiler()
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise OutputError(f"--out names a new directory or an executable to replace, but {out} holds other files")
    with replacing(out) as part:
        try:
            _compile(module, target, plan, part / "kernels.so")
        except (RuntimeError, ValueError, TypeError) as exc:
            raise CompilerError(f"the network cannot be compiled: {(str(exc).splitlines() or ['?'])[0][:300]}") from exc
        try:
            _fill(part, target, network, arrays, extra, plan)
        except OSError as exc:
            raise OutputError(f"the executable cannot be written to {out}: {exc}") from exc
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
    np.savez(part / "weights.npz", **named)
    model = None
    if network.onnx is not None:
        model = "model.onnx"
        save_onnx(network.onnx, part / model)
    manifest = {
        "format": FORMAT,
        "name": network.name,
        "inputs": [dataclasses.asdict(s) for s in network.inputs],
        "outputs": [dataclasses.asdict(s) for s in network.outputs],
        "target": {"mcpu": target.mcpu, "cores": target.cores, "machine": target.machine, "key": target.key},
        "model": model,
        "plan": None if plan is None else plan.to_json(),
        "sha256": {name: sha256(part / name) for name in ("kernels.so", "weights.npz")},
        **extra,
    }
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _compile(module: Any, target: Target, plan: Plan | None, out: Path) -> None:
    """Write the library: the plan's kernels with the runtime, or a program of the virtual machine of Relax."""
    import tvm
    from tvm import relax

    with tvm.transform.PassContext(opt_level=3):
        if plan is None:
            relax.build(module, target.tvm).export_library(str(out), cc=find_compiler())
            return
        wanted = set(plan.kernels)
        functions = {
            var: function.with_attr("global_symbol", var.name_hint)
            for var, function in module.functions_items()
            if var.name_hint in wanted
        }
        kernels = tvm.compile(tvm.ir.IRModule(functions), target=target.tvm)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        runtime = Path(folder, "runtime.o")
        compile_runtime(runtime)
        kernels.export_library(
            str(out), addons=[str(runtime)], cc=find_compiler(), options=["-pthread", "-Wl,-Bsymbolic"]
        )


def save_onnx(model: Any, path: Path) -> None:
    """Save with the weights inside, or beside it where they pass protobuf's limit of 2 GB."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, str(path), save_as_external_data=copy.ByteSize() > 1 << 30, location="model.bin")
