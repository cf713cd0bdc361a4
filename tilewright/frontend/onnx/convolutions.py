"""Checks that the inputs of convolutions fit their weights.

ONNX's shape inference does not check it, and ONNX Runtime fails only when the model runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from tilewright.errors import ShapeError
from tilewright.frontend.onnx.rewriting.graph import read_attributes, read_ints
from tilewright.frontend.onnx.values import DOMAINS, find_fixed, infer_types

__all__ = ["check_convolutions"]


def check_convolutions(model: onnx.ModelProto) -> None:
    """Refuse a convolution whose input has other channels than its weights take, or is smaller than its window.

    Raises:
        ShapeError: there is one. The message names it, with the shapes.
    """
    nodes = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose") and n.domain in DOMAINS]
    types = infer_types(model) if nodes else {}
    for node in nodes:
        data, weight = (find_fixed(types.get(name)) for name in node.input[:2])
        if data is None or weight is None or len(data.shape) != len(weight.shape) or len(data.shape) < 3:
            continue
        (group,) = read_ints([read_attributes(node).get("group", 1)], (1,))
        called = f"{node.op_type} ({node.name or node.output[0]})"
        takes = weight.shape[1] * group if node.op_type == "Conv" else weight.shape[0]
        if data.shape[1] != takes:
            raise ShapeError(
                f"a convolution takes as many channels as its weights have, but the input {node.input[0]!r} of "
                f"{called} is {list(data.shape)}, and its weights {list(weight.shape)} with group={group} take {takes} "
                "channels; export the model again, with an input that fits"
            )
        if node.op_type == "Conv":
            _check_window(node, called, data.shape[2:], weight.shape[2:])


def _check_window(node: onnx.NodeProto, called: str, image: Sequence[int], kernel: Sequence[int]) -> None:
    """Refuse a window that is larger than the padded image."""
    attributes, rank = read_attributes(node), len(image)
    kind = attributes.get("auto_pad", "NOTSET")
    if kind not in ("NOTSET", "VALID"):
        return
    pads = read_ints(attributes.get("pads") if kind == "NOTSET" else None, [0] * 2 * rank)
    steps = read_ints(attributes.get("dilations"), [1] * rank)
    for extent, taps, step, pad in zip(image, kernel, steps, zip(pads[:rank], pads[rank:], strict=True), strict=True):
        if extent and extent + sum(pad) < (taps - 1) * step + 1:
            raise ShapeError(
                f"a window is no larger than the padded image, but the image of {called} is {list(image)}, and its "
                f"window {list(kernel)}; give a larger input"
            )
