"""Finds the operators of an ONNX model that were imported wrong.

The results of all operators become outputs of the network. It is built without schedules, and runs once here and once
in ONNX Runtime. An operator is wrong if its results differ, but its inputs do not.

Where numbers are quantised, rounding turns a few bytes into their neighbours, and all results that follow differ by
more than rounding. So an operator with such a byte among what it was computed from is not called wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from tilewright.compiling.build import build
from tilewright.errors import MeasureError
from tilewright.frontend.load import read_model
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.data import copy_without_weights, save_onnx
from tilewright.frontend.onnx.values import COMPUTED, find_fixed, read_names
from tilewright.graph.left_out import extract_all
from tilewright.measure.isolated import IsolatedProcess
from tilewright.target import Target
from tilewright.tensor import Array
from tilewright.verify.reference_process import RuntimeSide, multiplies_bytes
from tilewright.verify.subject import ExecutableSide

__all__ = ["find_wrong_nodes"]

#: Differences up to these are no mistake. Floating-point numbers: the difference relative to the largest number.
#: Integers: the share of elements that differ. Both are choices.
_LARGEST_DIFFERENCE, _LARGEST_SHARE = 1e-3, 1e-3


def find_wrong_nodes(network: Network, target: Target, inputs: Sequence[Array]) -> dict[int, str]:
    """Why operators are wrong, by the numbers of their nodes: their results differ from ONNX Runtime's.

    Args:
        network: a network that was read from an ONNX model.
        target: the machine that it is compiled for.
        inputs: inputs of the network.

    Raises:
        TilewrightError: the network with all results as outputs cannot be built, or ONNX Runtime cannot run it.
    """
    partition, folded = network.partition, network.folded
    if partition is None or folded is None:
        return {}
    watched = _watched(folded, partition.types)
    model = _with_outputs(folded, watched, partition.types)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as name:
        folder = Path(name)
        save_onnx(model, folder / "model.onnx")
        extraction = extract_all(read_model(network.name, model, model, partition.reasons), target)
        build(extraction, {}, folder / "executable", {})
        names = tuple(spec.name for spec in network.inputs)
        with IsolatedProcess(ExecutableSide, (str(folder / "executable"),)) as ours:
            found = ours.call("run", list(inputs))
        runtime = (str(folder / "model.onnx"), names, multiplies_bytes(model))
        with IsolatedProcess(RuntimeSide, runtime) as theirs:
            theirs.wait()
            expected = theirs.call("outputs", list(inputs))
    outputs = [value.name for value in model.graph.output]
    if len(found) != len(outputs) or len(expected) != len(outputs):
        raise MeasureError("the numbers of outputs differ")
    results = list(zip(outputs, found, expected, strict=True))
    wrong = {name for name, ours_, theirs_ in results if not _agree(ours_, theirs_)}
    return _blame(folded, wrong, {name for name, ours_, theirs_ in results if _is_rounded_apart(ours_, theirs_)})


def _watched(model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto]) -> list[str]:
    """The names of results that become outputs: tensors of numbers with fixed shapes."""
    known = {value.name for value in model.graph.output}
    found = []
    for node in model.graph.node:
        for name in node.output:
            fixed = find_fixed(types.get(name))
            if name and name not in known and fixed is not None and fixed.elem_type in COMPUTED:
                found.append(name)
    return found


def _with_outputs(model: onnx.ModelProto, names: Sequence[str], types: Mapping[str, onnx.TypeProto]) -> onnx.ModelProto:
    made = copy_without_weights(model)
    made.graph.initializer.extend(model.graph.initializer)
    made.graph.output.extend(helper.make_value_info(name, types[name]) for name in names)
    return made


def _agree(found: Array, expected: Array) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if expected.dtype.kind != "f":
        return bool(np.mean(found != expected) <= _LARGEST_SHARE) if expected.size else True
    with np.errstate(all="ignore"):
        ours, theirs = found.astype(np.float64), expected.astype(np.float64)
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        scale = float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0))
        return bool(np.all(same | (np.abs(ours - theirs) <= _LARGEST_DIFFERENCE * scale + 1e-6)))


def _is_rounded_apart(found: Array, expected: Array) -> bool:
    """Whether bytes differ, and each by one."""
    if found.shape != expected.shape or found.dtype != expected.dtype or str(found.dtype) not in ("uint8", "int8"):
        return False
    return int(np.abs(found.astype(np.int64) - expected.astype(np.int64)).max(initial=0)) == 1


def _blame(model: onnx.ModelProto, wrong: set[str], rounded: set[str]) -> dict[int, str]:
    """The nodes with wrong results and right inputs, which come from no byte that was rounded otherwise."""
    found: dict[int, str] = {}
    after = set(rounded)
    for number, node in enumerate(model.graph.node):
        read = set(read_names(node))
        results = [name for name in node.output if name in wrong and name not in rounded]
        if read & after:
            after.update(node.output)
        elif results and not wrong & read:
            found[number] = f"its result {results[0]!r} differs from ONNX Runtime's; this is a bug in Tilewright"
    return found
