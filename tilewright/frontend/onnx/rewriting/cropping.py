"""Rewriting of CenterCropPad. ONNX Runtime has no kernel for it, and its function in onnx computes shapes."""

from __future__ import annotations

import numpy as np
import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes, read_ints
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["crop_and_pad"]


@rewriting("CenterCropPad")
def crop_and_pad(graph: Graph, node: onnx.NodeProto) -> bool:
    """CenterCropPad(x, shape) --> Pad(Slice(x)). If an odd number is cut or added, the larger half is at the end."""
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if before is None:
        return False
    if after is None:
        given = graph.ints(node.input[1])
        if given is None:
            return False
        wanted = list(before)
        for axis, size in zip(read_ints(read_attributes(node).get("axes"), range(len(before))), given, strict=True):
            wanted[axis] = size
        after = tuple(wanted)
    x = node.input[0]
    cut = [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if new < old]
    if cut:
        starts = np.asarray([(before[axis] - after[axis]) // 2 for axis in cut], np.int64)
        sizes = np.asarray([after[axis] for axis in cut], np.int64)
        x = graph.op("Slice", x, starts, starts + sizes, np.asarray(cut, np.int64))
    begins = [max(0, new - old) // 2 for old, new in zip(before, after, strict=True)]
    ends = [max(0, new - old) - begin for old, new, begin in zip(before, after, begins, strict=True)]
    graph.op("Pad", x, np.asarray([*begins, *ends], np.int64), out=node.output[0])
    return True
