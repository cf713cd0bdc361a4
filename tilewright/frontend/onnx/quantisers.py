"""Checks that scales and zero points fit the tensors that they are for.

ONNX's shape inference does not check it, and ONNX Runtime fails only when the model runs.
"""

from __future__ import annotations

import math

import onnx

from tilewright.errors import ShapeError
from tilewright.frontend.onnx.rewriting.graph import read_attributes, read_ints
from tilewright.frontend.onnx.rewriting.quantisation import MICROSOFT
from tilewright.frontend.onnx.values import DOMAINS, find_fixed, infer_types

__all__ = ["check_quantisers"]

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def check_quantisers(model: onnx.ModelProto) -> None:
    """Refuse scales, zero points, axes, blocks, and biases of quantised convolutions that do not fit.

    Raises:
        ShapeError: there is one. The message names the operator, with the shapes.
    """
    known = (*DOMAINS, MICROSOFT)
    nodes = [n for n in model.graph.node if n.op_type in (*_QUANTISERS, "QLinearConv") and n.domain in known]
    types = infer_types(model) if nodes else {}
    for node in nodes:
        shapes = [None if fixed is None else fixed.shape for fixed in (find_fixed(types.get(n)) for n in node.input)]
        called = f"{node.op_type} ({node.name or node.output[0]})"
        if node.op_type == "QLinearConv":
            _check_convolution(called, shapes)
        elif len(shapes) > 1 and shapes[0] is not None and shapes[1] is not None:
            _check_quantiser(node, called, shapes[0], shapes[1], shapes[2] if len(shapes) > 2 else None)


def _check_quantiser(
    node: onnx.NodeProto, called: str, data: tuple[int, ...], scales: tuple[int, ...], zeros: tuple[int, ...] | None
) -> None:
    attributes = read_attributes(node)
    ((axis,), (block,)) = (read_ints([attributes.get(name, d)], (d,)) for name, d in (("axis", 1), ("block_size", 0)))
    if zeros is not None and zeros != scales and math.prod(zeros) * math.prod(scales) != 1:
        raise ShapeError(
            f"there are as many zero points as scales, but those of {called} are {list(zeros)} and {list(scales)}; "
            "quantise the model again"
        )
    if math.prod(scales) == 1:
        return
    rank = len(data)
    place = 0 if rank == 1 else axis
    if not -rank <= place < rank:
        raise ShapeError(
            f"the axis of scales is one of the tensor's, but {called} has axis {axis}, and its tensor is {list(data)}; "
            "quantise the model again"
        )
    extent = data[place]
    wanted = [extent]
    if block > 0:
        wanted = [*data]
        wanted[place] = -(-extent // block)
    if [*scales] != wanted:
        along = f"axis {axis}" + (f" in blocks of {block}" if block > 0 else "")
        raise ShapeError(
            f"a tensor has one scale, one for each index of an axis, or one for each block, but {called} has "
            f"{list(scales)} scales for {list(data)} along {along}, which takes {wanted}; quantise the model again"
        )


def _check_convolution(called: str, shapes: list[tuple[int, ...] | None]) -> None:
    """Refuse several scales of the data or of the result, and biases and weight scales of another number."""
    shapes = [*shapes, *[None] * (9 - len(shapes))]
    weight = shapes[3]
    for place, what in ((1, "data"), (6, "result")):
        found = shapes[place]
        if found is not None and math.prod(found) != 1:
            raise ShapeError(
                f"a quantised convolution has one scale for its {what}, but {called} has {list(found)}; quantise the "
                "model again"
            )
    for place, what in ((4, "scales"), (8, "biases")):
        found = shapes[place]
        allowed = (1, weight[0]) if weight and what == "scales" else (weight[0],) if weight else ()
        if found is not None and weight and math.prod(found) not in allowed:
            raise ShapeError(
                f"a quantised convolution has as many {what} as output channels, but {called} has {list(found)}, and "
                f"its weights are {list(weight)}; quantise the model again"
            )
