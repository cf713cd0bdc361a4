"""What rewritings of quantised operators have in common: their inputs, and numbers with a scale and a zero point."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.graph import Graph

__all__ = [
    "MICROSOFT",
    "as_float",
    "as_int32",
    "as_scalar",
    "as_scalar_or_vector",
    "dequantised",
    "input_name",
    "quantised",
    "rounded",
]

#: The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"


def input_name(node: onnx.NodeProto, place: int) -> str:
    """The name of an input; empty if it is absent."""
    return str(node.input[place]) if place < len(node.input) else ""


def as_float(graph: Graph, name: str) -> str:
    """A tensor of integers as float32."""
    return graph.op("Cast", name, to=TensorProto.FLOAT)


def as_scalar(graph: Graph, name: str) -> str:
    """A scale or zero point in the shape of a scalar, if it is one."""
    shape = graph.shape(name)
    return (
        name if shape in ((), None) or np.prod(shape or ()) != 1 else graph.op("Reshape", name, np.zeros(0, np.int64))
    )


def as_scalar_or_vector(graph: Graph, name: str) -> str:
    """A scale or zero point as DequantizeLinear takes it: a scalar if it is one number."""
    return as_scalar(graph, name) if graph.shape(name) == (1,) else name


def as_int32(graph: Graph, name: str, zero: str) -> str:
    """A tensor of integers as int32, minus its zero point."""
    wide = graph.op("Cast", name, to=TensorProto.INT32)
    return graph.op("Sub", wide, graph.op("Cast", as_scalar(graph, zero), to=TensorProto.INT32)) if zero else wide


def dequantised(graph: Graph, x: str, scale: str, zero: str) -> str:
    """A tensor as real numbers, with one scale for the whole tensor."""
    return graph.op("DequantizeLinear", x, as_scalar(graph, scale), as_scalar(graph, zero) if zero else None)


def quantised(graph: Graph, x: str, scale: str, zero: str, out: str, kind: int) -> str:
    """Real numbers as integers of the element type ``kind``."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    zero_point = as_scalar(graph, zero) if zero else np.zeros((), dtype)
    return graph.op("QuantizeLinear", x, as_scalar(graph, scale), zero_point, out=out)


def rounded(graph: Graph, x: str, zero: str, out: str, kind: int) -> str:
    """Round numbers in units of the result's scale to integers, and add the zero point."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    zero_point = as_scalar(graph, zero) if zero else np.zeros((), dtype)
    return graph.op("QuantizeLinear", x, np.ones((), np.float32), zero_point, out=out)
