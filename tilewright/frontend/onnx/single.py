"""Models of a single operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tilewright.frontend.onnx.values import DOMAINS

__all__ = ["make_single"]

#: The oldest opset of such a model.
_LEAST_OPSET = 13


def make_single(
    node: onnx.NodeProto,
    arrays: Mapping[str, np.ndarray[Any, Any]],  # of any dtypes
    outputs: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None,  # of any dtypes
    opset: int | None,
) -> onnx.ModelProto:
    """A model of one operator.

    Args:
        node: the operator.
        arrays: its inputs by name. The model's inputs have their shapes and dtypes.
        outputs: dtype and shape of each output; None: they are inferred, as far as that is possible.
        opset: the version of the operators of its domain; None: the newest that has changed this operator.
    """
    taken = [_describe(name, array.dtype, array.shape) for name, array in arrays.items()]
    named = [name for name in node.output if name]
    if outputs is None:
        given = [onnx.ValueInfoProto(name=name) for name in named]
    else:
        given = [_describe(name, np.dtype(dtype), shape) for name, (dtype, shape) in zip(named, outputs, strict=False)]
    graph = helper.make_graph([node], node.op_type, taken, given)
    versions = {node.domain: opset or _newest(node)}
    if node.domain not in DOMAINS:
        versions[""] = _LEAST_OPSET
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model_gen_version(graph, opset_imports=imports)
    return model if outputs is not None else onnx.shape_inference.infer_shapes(model)


def _describe(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> onnx.ValueInfoProto:  # of any dtype
    kind = onnx.TensorProto.STRING if dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(dtype)
    return helper.make_tensor_value_info(name, kind, shape)


def _newest(node: onnx.NodeProto) -> int:
    """The newest opset of the node's domain that has changed its operator."""
    try:
        version = int(onnx.defs.get_schema(node.op_type, domain=node.domain).since_version)
    except onnx.defs.SchemaError:  # the onnx package does not know the domain
        return 1
    return max(version, _LEAST_OPSET) if node.domain in DOMAINS else version
