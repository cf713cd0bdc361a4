"""Calls ONNX Runtime's quantiser, ``onnxruntime.quantization``, in a process of its own.

A model may crash ONNX Runtime, and the quantiser prints. Neither reaches the calling process.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tilewright.errors import ModelError, OutputError, ProcessError, TilewrightError
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.quantising.accuracy import OutputAccuracy, compare_outputs, run_model
from tilewright.quantising.calibration import CALIBRATORS, calibrate, make_reader
from tilewright.quantising.plan import QuantisingPlan
from tilewright.quantising.samples import (
    ModelInput,
    Sample,
    draw_samples,
    hold_out,
    how_to_make_samples,
    take_samples,
)
from tilewright.wording import counted, describe_error, did_you_mean

if TYPE_CHECKING:
    import onnx

    from tilewright.tensor import Array

__all__ = ["Quantised", "list_model_inputs", "quantise"]

#: Operators of quantised models. A model that has one is not quantised again.
_QUANTISED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"),
    *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits"),
)
#: Weights of more bytes are written to a file beside the model's, since protobuf's messages end at 2 GiB.
_MOST_INSIDE = 1 << 30


@dataclass(frozen=True)
class Quantised:
    """A quantised model, and what quantising has cost.

    Attributes:
        operators: how many operators of each kind compute on integers in the quantised model, by name.
        wide: those that stay in floating point because an operand or a result is too wide for bytes, by name.
        calibrated: the number of samples that ranges were taken from.
        judged: the number of samples that outputs were compared on.
        held_out: whether no sample was used for both.
        outputs: the comparison with the model in floating point; empty if there were no samples.
        bytes_before, bytes_after: the sizes of the weights of both models.
    """

    operators: dict[str, int]
    wide: dict[str, int]
    calibrated: int
    judged: int
    held_out: bool
    outputs: tuple[OutputAccuracy, ...]
    bytes_before: int
    bytes_after: int


def quantise(plan: QuantisingPlan) -> Quantised:
    """Write a quantised model. The file ``plan.out`` appears whole or not at all.

    Raises:
        ModelError: the model cannot be read, is quantised already, or the quantiser refuses it.
        ShapeError: samples do not fit the model's inputs.
        OutputError: the file cannot be written.
        TilewrightError: samples are missing, or a name to exclude does not exist.
    """
    try:
        with IsolatedCall(quantise_here, plan) as call:
            return cast(Quantised, call.result())
    except ProcessError as error:
        raise ModelError(
            f"ONNX Runtime quantises the model, but it failed: {error}; leave operators out with --exclude"
        ) from error


def quantise_here(plan: QuantisingPlan) -> Quantised:
    """As :func:`quantise`, in this process, in which ONNX Runtime may print or crash."""
    import onnx

    from tilewright.frontend.onnx.file import read_proto
    from tilewright.frontend.onnx.rewriting.upgrade import upgrade

    logging.disable(logging.WARNING)
    model = read_proto(plan.model)
    inputs = list_model_inputs(model)
    if kind := next((node.op_type for node in model.graph.node if node.op_type in _QUANTISED), ""):
        raise ModelError(f"a model is quantised once, but {plan.model} has {kind} already; tune it as it is")
    samples = _make_samples(plan, inputs)
    calibrating, judging = ([], samples) if plan.dynamic else hold_out(samples)
    names = [value.name for value in model.graph.output]
    wanted = _run(plan.model, judging)
    before = _count_bytes(model)
    model.ir_version = max(model.ir_version, 8)  # before 4, all weights are inputs
    upgrade(model)
    for number, node in enumerate(model.graph.node):  # the quantiser leaves nodes out by their names
        node.name = node.name or f"{node.op_type}_{number}"
    with _make_folder(plan.out) as text:
        made = Path(text) / plan.out.name
        quantised, wide = _call_quantiser(plan, model, calibrating, made)
        found = _run(made, judging)
        after = _count_bytes(onnx.load(str(made), load_external_data=False))
        _publish(Path(text), plan.out)
    return Quantised(
        dict(sorted(quantised.items())),
        dict(sorted(wide.items())),
        len(calibrating),
        len(judging),
        plan.dynamic or len(samples) > 1,
        tuple(compare_outputs(names, wanted, found)),
        before,
        after,
    )


def list_model_inputs(model: onnx.ModelProto) -> list[ModelInput]:
    """The inputs of a model.

    Raises:
        ModelError: one is no tensor.
    """
    from onnx import helper

    from tilewright.frontend.onnx.shapes import list_inputs, read_declared

    declared = read_declared(model)
    found = []
    for value in list_inputs(model):
        kind = value.type.tensor_type.elem_type
        if value.name not in declared or not kind:
            raise ModelError(f"inputs are tensors, but {value.name!r} of this model is none; export it otherwise")
        found.append(ModelInput(value.name, declared[value.name], helper.tensor_dtype_to_np_dtype(kind)))
    return found


def _make_samples(plan: QuantisingPlan, inputs: Sequence[ModelInput]) -> list[Sample]:
    if not inputs and not plan.dynamic:
        raise ModelError(
            "static quantising takes the ranges of tensors from samples of inputs, but this model has no inputs; use "
            "it as it is"
        )
    if plan.random:
        return draw_samples(inputs, plan.random, plan.shapes, plan.seed)
    samples = take_samples(plan.samples, inputs)
    if not samples and not plan.dynamic:
        raise TilewrightError(
            "static quantising takes the ranges of tensors from samples, but there are none; "
            + how_to_make_samples(inputs)
        )
    return samples


def _run(path: Path, samples: Sequence[Sample]) -> list[list[Array]]:
    if not samples:
        return []
    try:
        return run_model(path, samples)
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ModelError(
            f"ONNX Runtime runs the model on the samples, but it failed: {describe_error(error)}; "
            "check the samples, and whether the model is whole"
        ) from error


def _call_quantiser(
    plan: QuantisingPlan, model: onnx.ModelProto, samples: Sequence[Sample], out: Path
) -> tuple[Counter[str], Counter[str]]:
    """Fold the model, and quantise it.

    Returns how many operators of each kind compute on integers, and how many cannot, because they are too wide.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large, wide = _count_bytes(model) > _MOST_INSIDE, Counter[str]()
    raw, folded = (str(out.parent / name) for name in ("raw.onnx", "folded.onnx"))
    try:
        onnx.save(model, raw, save_as_external_data=large, location="raw.bin")
        quant_pre_process(raw, folded, skip_symbolic_shape=True, save_as_external_data=large)
        nodes = list(onnx.load(folded, load_external_data=False).graph.node)
        excluded = _find_excluded(plan.exclude, [*model.graph.node, *nodes])
        common = {
            "per_channel": plan.per_channel,
            "weight_type": QuantType.QInt8,
            "reduce_range": plan.reduce_range,
            "nodes_to_exclude": excluded,
            "op_types_to_quantize": _find_only(plan.only, nodes),
            "use_external_data_format": large,
        }
        if plan.dynamic:
            excluded += [f"{name}_MatMul" for name in excluded]  # what it makes of Gemm before
            quantize_dynamic(folded, str(out), extra_options={"MatMulConstBOnly": True}, **common)
        else:
            ranges = out.parent / "ranges.json"
            kept = _find_wide(calibrate(plan.calibration, folded, samples, ranges, large), nodes, plan.only)
            excluded += [node.name for node in kept]
            wide.update(node.op_type for node in kept)
            options = _static_options(plan) | {"calibration_cache_path": ranges}
            quantize_static(folded, str(out), make_reader(samples), **options, **common)
    except TilewrightError:
        raise
    except Exception as error:  # the quantiser raises many kinds
        remedy = _advise(model, plan.dynamic)
        raise ModelError(
            f"ONNX Runtime's quantiser takes the model, but it says: {describe_error(error)}; {remedy}"
        ) from error
    found = _count_quantised(onnx.load(str(out), load_external_data=False))
    if not found:
        raise ModelError(
            f"a quantised model computes on integers somewhere, but no operator of this one can; {_explain(plan, wide)}"
        )
    return found, wide


def _explain(plan: QuantisingPlan, wide: Counter[str]) -> str:
    """Why no operator computes on integers, and what to do."""
    if wide:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(wide.items()))
        return f"numbers of {kinds} exceed 4096 on the samples; check the samples, or try --dynamic"
    if plan.exclude or plan.only:
        return "leave fewer out with --exclude or --only, or use the model as it is"
    return (
        "the quantiser takes operators with float32 or float16 weights, such as Conv and MatMul; use the model as it is"
    )


def _static_options(plan: QuantisingPlan) -> dict[str, object]:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

    return {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QInt8 if plan.symmetric else QuantType.QUInt8,
        "calibrate_method": CalibrationMethod[CALIBRATORS[plan.calibration]],
        "extra_options": {"ActivationSymmetric": plan.symmetric},
    }


def _find_excluded(names: Sequence[str], nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """The names of the nodes that are excluded, by their own names, by patterns of these, or by their operators."""
    from fnmatch import fnmatchcase

    kinds = {node.op_type for node in nodes}
    known = {node.name for node in nodes if node.name}
    for name in names:
        if name not in kinds and not any(own == name or fnmatchcase(own, name) for own in known):
            raise TilewrightError(
                f"--exclude names a node, a pattern of nodes or an operator of the model, but {name!r} is none"
                + (did_you_mean(name, [*kinds, *known]) or f"; its operators are: {', '.join(sorted(kinds))}")
            )
    return [
        node.name
        for node in nodes
        if node.name
        and (node.op_type in names or node.name in names or any(fnmatchcase(node.name, name) for name in names))
    ]


def _find_wide(wide: frozenset[str], nodes: Sequence[onnx.NodeProto], only: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the quantiser would take, and that read or write one of the tensors ``wide``."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    known = set(only) or {*QDQRegistry, *QLinearOpsRegistry}
    touching = (node for node in nodes if wide.intersection((*node.input, *node.output)))
    return [node for node in touching if node.name and node.op_type in known]


def _find_only(kinds: Sequence[str], nodes: Sequence[onnx.NodeProto]) -> list[str] | None:
    """The operators that are quantised; None: all that the quantiser takes."""
    known = {node.op_type for node in nodes}
    for kind in kinds:
        if kind not in known:
            raise TilewrightError(
                f"--only names an operator of the model, but {kind!r} is none"
                + (did_you_mean(kind, [*known]) or f"; its operators are: {', '.join(sorted(known))}")
            )
    return list(kinds) or None


def _count_quantised(model: onnx.ModelProto) -> Counter[str]:
    """How many operators of each kind compute on integers: of QDQ models, those between DequantizeLinear nodes."""
    real = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    found: Counter[str] = Counter()
    for node in model.graph.node:
        read = [name for name in node.input[:2] if name]
        if node.op_type in _QUANTISED[3:] or (node.op_type not in _QUANTISED and read and real.issuperset(read)):
            found[node.op_type] += 1
    return found


def _count_bytes(model: onnx.ModelProto) -> int:
    from tilewright.frontend.onnx.data import count_bytes, graphs, tensors

    return sum(count_bytes(tensor) for graph in graphs(model) for tensor in tensors(graph))


def _advise(model: onnx.ModelProto, dynamic: bool) -> str:
    """What to do where the quantiser failed. If a weight has no range, it says "scale issue", and not which one."""
    import numpy as np
    from onnx import numpy_helper

    read = {name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul") for name in node.input[1:2]}
    for tensor in model.graph.initializer:
        if tensor.name in read and tensor.data_type in (tensor.FLOAT, tensor.FLOAT16):
            finite = np.isfinite(numpy_helper.to_array(tensor))
            if not finite.all():
                bad = counted(int(finite.size - np.count_nonzero(finite)), "number")
                return f"{bad} of its weights {tensor.name!r} are NaN or infinite: export the model again"
    if dynamic:
        return "leave operators out with --exclude"
    return "check that no tensor overflows on the samples, leave operators out with --exclude, or try --dynamic"


def _make_folder(out: Path) -> tempfile.TemporaryDirectory[str]:
    """A directory beside a file, in which temporary files are made and then renamed to it."""
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise OutputError(
            f"--out names a file in a directory that can be written, but {out.parent} is none; name another"
        )
    try:
        return tempfile.TemporaryDirectory(prefix="tilewright-quantise-", dir=out.parent)
    except OSError as error:  # such as /proc, which seems to be writable
        raise OutputError(
            f"--out names a file in a directory that can be written, but {out.parent} is none: {error.strerror}; "
            "name another"
        ) from error


def _publish(folder: Path, out: Path) -> None:
    """Put the model and the file of its weights in their places."""
    try:
        for file in sorted(folder.iterdir(), reverse=True):  # weights before the model that refers to them
            if file.name.startswith(out.name):
                os.replace(file, out.parent / file.name)
    except OSError as error:
        raise OutputError(f"the quantised model cannot be written to {out}: {error.strerror}; name another") from error
