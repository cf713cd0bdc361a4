"""Nodes with their inputs, many in one model, so that one build tries all of them.

A model's outputs are compared with ONNX Runtime's, node by node. A node that is left to a segment counts as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.compiling.build import build
from tilewright.frontend.load import load
from tilewright.graph.left_out import extract_all
from tilewright.ops.registry import make_space
from tilewright.target import Target
from tilewright.tensor import Array
from tilewright.verify.reference_process import multiplies_bytes

__all__ = ["Constant", "Finding", "Trial", "compose", "find_differences", "run_reference"]


@dataclass(frozen=True)
class Constant:
    """An input of a node that is a constant of the model.

    Attributes:
        values: its values.
        kind: its element type, as ``onnx.TensorProto`` numbers them; None: that of ``values``.
    """

    values: Array
    kind: int | None = None


#: An input of a node: an array that the model is given, a constant, or None for an optional input that is absent.
Input: TypeAlias = "Array | Constant | None"


@dataclass(frozen=True)
class Trial:
    """A node with its inputs.

    Attributes:
        operator: its type.
        inputs: its inputs.
        attributes: its attributes.
        outputs: how many of its outputs are used.
        domain: the domain of the operator.
        error: the largest difference from ONNX Runtime, relative to the largest element; for integers, in units.
    """

    operator: str
    inputs: Sequence[Input]
    attributes: Mapping[str, object] = field(default_factory=dict)
    outputs: int = 1
    domain: str = ""
    error: float = 1e-5


@dataclass(frozen=True)
class Finding:
    """What became of a trial.

    Attributes:
        name: of the trial.
        outcome: ``right``, ``wrong``, or ``segment``.
        message: how it differs, or why it is in a segment.
    """

    name: str
    outcome: str
    message: str = ""


def compose(trials: Mapping[str, Trial], opset: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """One model of many nodes, and its inputs by name. The outputs of a trial are ``name_0``, ``name_1``, ..."""
    nodes, values, weights, feeds, results = [], [], [], {}, []
    for name, trial in trials.items():
        names = []
        for place, given in enumerate(trial.inputs):
            own = f"{name}_in{place}"
            if given is None:
                names.append("")
                continue
            names.append(own)
            if isinstance(given, Constant):
                kind = given.kind or helper.np_dtype_to_tensor_dtype(given.values.dtype)
                if given.kind is None:
                    weights.append(numpy_helper.from_array(given.values, own))
                else:
                    weights.append(helper.make_tensor(own, kind, given.values.shape, given.values.reshape(-1).tolist()))
            else:
                values.append(
                    helper.make_tensor_value_info(own, helper.np_dtype_to_tensor_dtype(given.dtype), given.shape)
                )
                feeds[own] = given
        outs = [f"{name}_{k}" for k in range(trial.outputs)]
        results += outs
        node = helper.make_node(trial.operator, names, outs, name=name, domain=trial.domain)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in trial.attributes.items())
        nodes.append(node)
    ends = [onnx.ValueInfoProto(name=out) for out in results]
    graph = helper.make_graph(nodes, "trials", values, ends, weights)
    domains = {"": opset} | {trial.domain: 1 for trial in trials.values() if trial.domain}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in domains.items()])
    model.ir_version = 10
    return onnx.shape_inference.infer_shapes(model), feeds


def run_reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """ONNX Runtime's outputs, by name: without optimisation, unless that makes sums of products of bytes exact."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # only optimising takes note of it
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if multiplies_bytes(model) else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def find_differences(trials: Mapping[str, Trial], folder: Path, opset: int = 20) -> list[Finding]:
    """Build all trials as one model with default schedules, run it, and compare its outputs with ONNX Runtime's.

    Args:
        trials: by name.
        folder: an empty directory for files.
        opset: the version of ONNX's operators.
    """
    model, feeds = compose(trials, opset)
    wanted = run_reference(model, feeds)
    for value in model.graph.output:
        if not value.HasField("type"):  # the onnx package knows nothing of operators of other domains
            right = wanted[value.name]
            kind = helper.np_dtype_to_tensor_dtype(right.dtype)
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, right.shape))
    path = folder / "trials.onnx"
    onnx.save(model, str(path))
    extraction = extract_all(load(path), Target.parse("native"))
    functions = {}
    for use in extraction.uses:
        space = make_space(use.task, extraction.target)
        functions[use.task.key] = space.schedule(space.default()).mod["main"]
    executable = build(extraction, functions, folder / "out", {})
    results = executable(*[feeds[spec.name] for spec in executable.inputs])
    given = dict(zip([spec.name for spec in executable.outputs], results, strict=True))
    executable.close()
    reasons = [reason for segment in extraction.network.segments for reason in segment.reasons]
    findings = []
    for name, trial in trials.items():
        outs = [f"{name}_{k}" for k in range(trial.outputs)]
        said = next(filter(None, (_compare(given[out], wanted[out], trial.error) for out in outs)), "")
        left = next((reason for reason in reasons if f"({name}" in reason), "")
        outcome = "wrong" if said else "segment" if left else "right"
        findings.append(Finding(name, outcome, said or left))
    return findings


def _compare(found: Array, right: Array, error: float) -> str:
    """How two arrays differ; empty if they agree."""
    if (found.dtype, found.shape) != (right.dtype, right.shape):
        return f"{found.dtype} {list(found.shape)} instead of {right.dtype} {list(right.shape)}"
    if not right.size:
        return ""
    a, b = found.astype(np.float64), right.astype(np.float64)
    if right.dtype.kind == "f":
        error *= max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
    elif right.dtype.kind in "iub" and error < 1:
        error = 0.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(a - b))
    off = np.where(np.isnan(off), np.inf, off)
    if (off <= error).all():
        return ""
    place = tuple(int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
    return f"{np.count_nonzero(off > error)} of {off.size} differ: {found[place]} instead of {right[place]} at {place}"
