"""Rewrites an ONNX model for the importer, and lets ONNX Runtime fold its constants."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.errors import ModelFormatError, TilewrightError, UnsupportedOperatorError
from tilewright.frontend.onnx.data import drop_doubles, fetch_data, fetch_tensor, graphs, serialize, write_model
from tilewright.frontend.onnx.file import copy_for_inference
from tilewright.frontend.onnx.half import widen
from tilewright.frontend.onnx.rewriting.integer_weights import hide_weights, show_weights
from tilewright.frontend.onnx.rewriting.rewrite import rewrite
from tilewright.frontend.onnx.tidy import (
    compare_booleans,
    compute_constants,
    drop_empty,
    drop_idle,
    keep_constants,
    own_weights,
)
from tilewright.scratch import check_space
from tilewright.tensor import Array

__all__ = ["FOLDED", "MISSING_KERNEL", "fold", "fold_conditions"]

#: The file of the model to compile.
FOLDED = "folded.onnx"
#: The name of the folded model's property that says why ONNX Runtime cannot run the model.
MISSING_KERNEL = "tilewright.missing_kernel"

#: The part of ONNX Runtime's messages that names a temporary file, which means nothing to users.
_PLACE = re.compile(r"Load model from \S+ failed:")
#: The part that names a function of ONNX Runtime's source, likewise.
_SOURCE = re.compile(
    r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)?(?: \[with .*?\])? (?:[^.]*? was false\. )?(?=[A-Z'\"])"
)


class _MissingKernelError(UnsupportedOperatorError):
    """ONNX Runtime knows an operator, but has no kernel for its element types."""


def fold_conditions(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """A model with open dimensions after ONNX Runtime's basic optimisation; the same model if that fails.

    Args:
        model: the model. All its data are in it, and in the result.
        folder: a directory for files.
    """
    place = folder / "open"
    place.mkdir()
    try:
        folded = _optimise(write_model(model, place / "model.onnx", "model.bin"), place)
        fetch_data(folded, place)
    except (ModelFormatError, UnsupportedOperatorError):
        return model
    return folded


def fold(written: onnx.ModelProto, folder: Path, optimised: bool) -> onnx.ModelProto:
    """The model to compile: float16 replaced by float32, rewritten, and with constants folded.

    Args:
        written: the model with fixed shapes, whose weights are in files in ``folder``; it is changed.
        folder: the directory of the weights, to which those of the result are written, too.
        optimised: whether ONNX Runtime folds constants and batch norms.

    Raises:
        ModelFormatError: ONNX Runtime refuses the model.
        UnsupportedOperatorError: ONNX Runtime does not know an operator.
    """
    _attempt(own_weights, written)
    _attempt(keep_constants, written)
    plain = onnx.ModelProto()
    plain.CopyFrom(written)
    _attempt(lambda model: widen(model, folder), written)
    _attempt(compare_booleans, written)
    try:
        folded = _fold_rewritten(written, plain, folder) if optimised else _rewritten(written, folder)
    except _MissingKernelError as exc:
        # ONNX Runtime has no convolution in float64, for example, but TVM compiles one.
        folded = _rewritten(written, folder)
        helper.set_model_props(folded, {MISSING_KERNEL: str(exc)})
    _attempt(lambda model: _split_batch_norms(model, folder), folded)
    _attempt(drop_empty, folded)
    _attempt(drop_idle, folded)
    _attempt(compute_constants, folded)
    return folded


def _attempt(rewrite: Callable[[onnx.ModelProto], object], model: onnx.ModelProto) -> None:
    """Rewrite a model. If that fails, which is a bug of ours, the model stays as it was."""
    before = onnx.ModelProto()
    before.CopyFrom(model)
    try:
        rewrite(model)
    except (TilewrightError, MemoryError, OSError):
        raise
    except Exception:  # the operators that are not rewritten are left to TVM's converters, or to ONNX Runtime
        if os.environ.get("TILEWRIGHT_DEBUG"):
            raise
        model.CopyFrom(before)


def _fold_rewritten(model: onnx.ModelProto, plain: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model rewritten for the importer, with constants and batch norms folded.

    The model is rewritten a second time after folding, since rewritings may need constants that folding has made. If
    ONNX Runtime refuses a rewritten model, because it lacks a kernel for some element type, that rewriting is undone.

    Args:
        model: the model, with float16 replaced by float32.
        plain: the model before that.
        folder: the directory of the weights.
    """
    try:
        folded = _optimise(_rewritten(model, folder), folder)
    except (ModelFormatError, UnsupportedOperatorError):
        try:
            folded = _optimise(model, folder)
        except ModelFormatError:  # an operator that takes float16 only
            folded = _optimise(plain, folder)
    again = _rewritten(folded, folder)
    if again is folded:
        return folded
    try:
        return _optimise(again, folder, "folded-again.bin")
    except (ModelFormatError, UnsupportedOperatorError):
        return folded


def _rewritten(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """A copy of the model that was rewritten; the model itself if there is nothing to rewrite."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    changed: list[bool] = []
    _attempt(lambda each: changed.append(rewrite(each, folder)), made)
    return made if any(changed) else model


def _optimise(model: onnx.ModelProto, folder: Path, data: str = "folded.bin") -> onnx.ModelProto:
    """The model after ONNX Runtime's basic optimisation, which folds constants and batch norms.

    Args:
        model: a model whose weights are in files in ``folder``.
        folder: the directory, to which the weights of the result are written, too.
        data: the name of the file for these weights.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # more threads would wait actively, and disturb the tuner's measurements
    source, target = folder / "rewritten.onnx", folder / FOLDED
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Otherwise it would quantise float weights next to quantised operands, with scales that it computes itself.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    hidden = hide_weights(whole, folder)
    source.write_bytes(serialize(whole))
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        made = onnx.load_model_from_string(target.read_bytes())
        show_weights(made, hidden)
        drop_doubles(made)
        _rename_made(made, model)
        return made
    except Exception as exc:  # ONNX Runtime's errors share no base class
        check_space(folder)
        text = _SOURCE.sub("", _PLACE.sub("", str(exc)))
        line = text.strip().splitlines()[0][:300]
        if "not a registered" in text or "NOT_IMPLEMENTED" in text or "No Op registered" in text:
            kind = _MissingKernelError if "NOT_IMPLEMENTED" in text else UnsupportedOperatorError
            raise kind(
                f"every operator is one of ONNX's: {line}; replace it, or export it as standard operators"
            ) from exc
        if "bad_alloc" in text or "Failed to allocate memory" in text:
            raise MemoryError from exc
        raise ModelFormatError(
            _find_newer(text, model) or f"the model is not valid ONNX: {line}; export it again"
        ) from exc


def _find_newer(text: str, model: onnx.ModelProto) -> str:
    """The message for a model that is newer than ONNX Runtime knows; empty if it is not."""
    opset, version = re.search(r"till opset (\d+)", text), re.search(r"max supported IR version: (\d+)", text)
    if opset is not None:
        found = max(entry.version for entry in model.opset_import)
        return (
            f"a model has at most opset {opset[1]}, the newest that the installed ONNX Runtime knows, but this one has "
            f"opset {found}; export it with opset {opset[1]}, or install a newer onnxruntime"
        )
    if version is not None:
        return (
            f"a model has at most version {version[1]} of the file format (ir_version), the newest that the installed "
            f"ONNX Runtime knows, but this one has {model.ir_version}; save it with an older onnx, or install a newer "
            "onnxruntime"
        )
    return ""


def _split_batch_norms(model: onnx.ModelProto, folder: Path) -> None:
    """BatchNormalization(x) --> x * scale + shift, if ONNX Runtime found no convolution to fold it into."""
    graph = model.graph
    wanted = {name for n in graph.node if n.op_type == "BatchNormalization" for name in n.input[1:5]}
    arrays: dict[str, Array] = {}
    for tensor in graph.initializer:
        if tensor.name in wanted:
            fetch_tensor(tensor, folder)
            arrays[tensor.name] = numpy_helper.to_array(tensor)
    left = [n for n in graph.node if n.op_type == "BatchNormalization" and all(i in arrays for i in n.input[1:5])]
    ranks = _ranks(model) if left else {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "BatchNormalization" or node not in left or node.input[0] not in ranks:
            nodes.append(node)
            continue
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        gamma, beta, mean, var = (arrays[name].astype(np.float64) for name in node.input[1:5])
        scale = gamma / np.sqrt(var + epsilon)
        shift = beta - mean * scale
        column = (-1,) + (1,) * (ranks[node.input[0]] - 2)
        out = node.output[0]
        for suffix, values in (("scale", scale), ("shift", shift)):
            shaped = values.astype(np.float32).reshape(column)
            graph.initializer.append(numpy_helper.from_array(shaped, f"{out}__{suffix}"))
        nodes.append(helper.make_node("Mul", [node.input[0], f"{out}__scale"], [f"{out}__scaled"], f"{out}__mul"))
        nodes.append(helper.make_node("Add", [f"{out}__scaled", f"{out}__shift"], [out], f"{out}__add"))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for each in graphs(model) for node in each.node for name in node.input}
    used |= {output.name for each in graphs(model) for output in each.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:  # ONNX Runtime refuses unused ones
            del graph.initializer[index]


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The number of dimensions of each tensor whose shape can be inferred, by name."""
    graph = onnx.shape_inference.infer_shapes(copy_for_inference(model)).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def _rename_made(folded: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Rename the constants that ONNX Runtime has made. It would use the same names again when it optimises a segment.

    Args:
        folded: the optimised model, which is changed.
        model: the model before optimisation.
    """
    known = {name for graph in graphs(model) for node in graph.node for name in node.output}
    known |= {tensor.name for tensor in model.graph.initializer}
    made = [tensor for tensor in folded.graph.initializer if tensor.name not in known]
    free = (name for number in count() if (name := f"tilewright_constant{number}") not in known)
    names = {tensor.name: next(free) for tensor in made}
    for tensor in made:
        tensor.name = names[tensor.name]
    for graph in graphs(folded):
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        for output in graph.output:
            output.name = names.get(output.name, output.name)
