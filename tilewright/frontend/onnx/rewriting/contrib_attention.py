"""Rewritings of the attention operators of ONNX Runtime's own domain.

The module ``attention`` explains the names of extents.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tilewright.frontend.onnx.rewriting.attention import Rule, merge_heads, rotate, score, split_heads, weigh
from tilewright.frontend.onnx.rewriting.contrib import DOMAIN, number, optional, wanted
from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes, read_ints
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.rewriting.shapes import as_shape

__all__ = ["attention", "multi_head_attention", "rotary_embedding"]

#: The number that is added to the score of a masked key, as in ONNX Runtime.
_LEFT_OUT = -10000.0


@rewriting("Attention", domain=DOMAIN)
def attention(graph: Graph, node: onnx.NodeProto) -> bool:
    """Attention(x, weights, bias) --> q, k, v = Split(x * weights + bias), then attention of the heads."""
    x, weights = node.input[:2]
    shape, heads = graph.shape(x), int(number(node, "num_heads", 0))
    total = graph.shape(weights)
    refused = number(node, "do_rotary", 0) or number(node, "past_present_share_buffer", 0) or optional(node, 6)
    if shape is None or total is None or not heads or refused or 0 in shape:
        return False
    sizes = read_ints(read_attributes(node).get("qkv_hidden_sizes"), (total[1] // 3,) * 3)
    product = graph.op("MatMul", x, weights)
    if optional(node, 2):
        product = graph.op("Add", product, node.input[2])
    names = [graph.new_name(part) for part in ("query", "key", "value")]
    graph.ops("Split", product, as_shape(tuple(sizes)), outs=names, axis=-1)
    query, key, value = (split_heads(graph, name, heads) for name in names)
    past = optional(node, 4)
    if past:
        key, value = (_after_past(graph, past, place, name) for place, name in enumerate((key, value)))
    if wanted(node, 1):
        parts = []
        for name in (key, value):
            inner = graph.shape(name)
            assert inner is not None
            parts.append(graph.op("Reshape", name, as_shape((1, *inner))))
        graph.op("Concat", *parts, out=wanted(node, 1), axis=0)
    bias = _bias(graph, node, (query, key), optional(node, 3), optional(node, 5))
    if bias is None:
        return False
    _attend(graph, node, (query, key, value), bias, wanted(node, 3))
    return True


def _after_past(graph: Graph, past: str, place: int, name: str) -> str:
    """The keys (place 0) or the values (place 1) after those of the past (2, B, H, P, D)."""
    before = graph.op("Gather", past, np.asarray(place, dtype=np.int64), axis=0)
    return graph.op("Concat", before, name, axis=2)


@rewriting("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(graph: Graph, node: onnx.NodeProto) -> bool:
    """MultiHeadAttention(q, k, v, bias) --> attention of the heads of q, k, v, to each of which its bias is added."""
    shape, heads = graph.shape(node.input[0]), int(number(node, "num_heads", 0))
    if shape is None or not heads or 0 in shape or optional(node, 8) or optional(node, 9):
        return False
    parts = _unpack(graph, node, heads)
    if parts is None:
        return False
    query, key, value = parts
    past = optional(node, 6)
    if past:
        key = graph.op("Concat", past, key, out=wanted(node, 1), axis=2)
        value = graph.op("Concat", optional(node, 7), value, out=wanted(node, 2), axis=2)
    else:
        for name, place in ((key, 1), (value, 2)):
            if wanted(node, place):
                graph.op("Identity", name, out=wanted(node, place))
    bias = _bias(graph, node, (query, key), optional(node, 4), optional(node, 5))
    assert bias is not None
    _attend(graph, node, (query, key, value), bias, wanted(node, 3))
    return True


def _unpack(graph: Graph, node: onnx.NodeProto, heads: int) -> tuple[str, str, str] | None:
    """The queries, keys and values, of shape (B, H, S, D); None if they are packed in an unknown way."""
    names = [node.input[0], optional(node, 1), optional(node, 2)]
    shapes = [graph.shape(name) if name else None for name in names]
    bias, mask = optional(node, 3), optional(node, 4)
    mask_shape = graph.shape(mask) if mask else None
    if mask and (mask_shape is None or not _is_mask(mask_shape, shapes)):
        return None
    packed = shapes[0] is not None and len(shapes[0]) == 5
    if packed:  # (B, S, H, 3, D)
        names = [graph.op("Gather", names[0], np.asarray(i, dtype=np.int64), axis=3) for i in range(3)]
    elif shapes[1] is not None and len(shapes[1]) == 5:  # (B, T, H, 2, D)
        names[1:] = [graph.op("Gather", names[1], np.asarray(i, dtype=np.int64), axis=3) for i in range(2)]
    elif not names[1] or not names[2]:
        return None
    biases = _split_bias(graph, bias, names, heads) if bias else ["", "", ""]
    made = []
    for name, part in zip(names, biases, strict=True):
        inner = graph.shape(name)
        if inner is None:
            return None
        if len(inner) == 4 and name not in node.input:  # (B, S, H, D)
            flat = graph.op("Reshape", name, as_shape((inner[0], inner[1], inner[2] * inner[3])))
        elif len(inner) == 4:  # (B, H, S, D), without bias
            made.append(name)
            continue
        else:
            flat = name
        made.append(split_heads(graph, graph.op("Add", flat, part) if part else flat, heads))
    return made[0], made[1], made[2]


def _is_mask(mask: tuple[int, ...], shapes: list[tuple[int, ...] | None]) -> bool:
    """Whether the shape of a mask is supported: (B,), (B, T), (B, S, T) or (B, 1, S, T)."""
    batch = (shapes[0] or (0,))[0]
    return bool(mask) and mask[0] == batch


def _split_bias(graph: Graph, bias: str, names: list[str], heads: int) -> list[str]:
    sizes = []
    for name in names:
        shape = graph.shape(name)
        assert shape is not None
        sizes.append(shape[2] if len(shape) == 3 else heads * shape[3])
    parts = [graph.new_name("bias") for _ in names]
    graph.ops("Split", bias, as_shape(tuple(sizes)), outs=parts, axis=0)
    return parts


def _bias(graph: Graph, node: onnx.NodeProto, heads: tuple[str, str], mask: str, added: str) -> str | None:
    """Write the bias of scores. Returns its name; empty: there is no bias; None: the node is not supported."""
    query, key = (graph.shape(name) for name in heads)
    assert query is not None
    assert key is not None
    batch, count, total = query[0], query[2], key[2]
    parts: list[str] = []
    if mask:
        shape = graph.shape(mask)
        if shape is None:
            return None
        kept = _kept(graph, mask, shape, (batch, total))
        if kept is None:
            return None
        value = number(node, "mask_filter_value", _LEFT_OUT)
        parts.append(graph.op("Where", kept, graph.like(heads[0], 0), graph.like(heads[0], value)))
    if number(node, "unidirectional", 0):
        allowed = np.arange(total) <= np.arange(count).reshape(-1, 1) + total - count
        zero, lowest = graph.like(heads[0], 0), _lowest(graph, heads[0])
        parts.append(graph.constant(np.where(allowed, zero, lowest)))
    if added:
        parts.append(added)
    if not parts:
        return ""
    name = parts[0]
    for part in parts[1:]:
        name = graph.op("Add", name, part)
    return name


def _lowest(graph: Graph, name: str) -> NDArray[np.generic]:
    """Half of the lowest number of a tensor's element type, so that a bias can be added to it."""
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(graph.elem_type(name)))
    return graph.like(name, float(np.finfo(kind).min) / 2)


def _kept(graph: Graph, mask: str, shape: tuple[int, ...], extents: tuple[int, int]) -> str | None:
    """Which keys a mask of integers keeps. It can be broadcast to (B, H, S, T); None: the mask is not supported."""
    batch, total = extents
    zero = np.zeros((), dtype=np.int32)
    wide = graph.op("Cast", mask, to=TensorProto.INT32) if graph.elem_type(mask) != TensorProto.INT32 else mask
    keys = np.arange(total, dtype=np.int32).reshape(1, 1, 1, -1)
    column = (batch, 1, 1, 1)
    if shape == (batch,):
        return graph.op("Less", keys, graph.op("Reshape", wide, as_shape(column)))
    if shape == (2 * batch,):
        names = (graph.new_name("ends"), graph.new_name("starts"))
        ends, starts = graph.ops("Split", wide, as_shape((batch, batch)), outs=names, axis=0)
        before = graph.op("Less", keys, graph.op("Reshape", ends, as_shape(column)))
        return graph.op("And", before, graph.op("GreaterOrEqual", keys, graph.op("Reshape", starts, as_shape(column))))
    if shape == (batch, total):
        return graph.op("Greater", graph.op("Reshape", wide, as_shape((batch, 1, 1, total))), zero)
    if len(shape) == 3 and shape[0] == batch and shape[2] == total:
        return graph.op("Greater", graph.op("Reshape", wide, as_shape((batch, 1, shape[1], total))), zero)
    return None


def _attend(graph: Graph, node: onnx.NodeProto, parts: tuple[str, str, str], bias: str, scores_out: str) -> None:
    """Write attention, and merge the heads of its result."""
    query, key, value = parts
    shape = graph.shape(query)
    assert shape is not None
    scale = number(node, "scale", 0.0) or 1 / math.sqrt(shape[3])
    scores = score(graph, query, key, Rule(scale=scale, bias=bias))
    merge_heads(graph, weigh(graph, scores.weights, value), node.output[0])
    if scores_out:
        graph.op("Identity", scores.biased, out=scores_out)


@rewriting("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(graph: Graph, node: onnx.NodeProto) -> bool:
    """RotaryEmbedding(x, places, cos, sin) --> rows of both tables by Gather, then the rotation of the halves."""
    x, places, cos, sin = node.input[:4]
    shape, where = graph.shape(x), graph.shape(places)
    tables = graph.shape(cos)
    if shape is None or where is None or tables is None or 0 in shape:
        return False
    if number(node, "is_packed_batching", 0) or number(node, "scale", 1.0) != 1.0:
        return False
    size = int(number(node, "rotary_embedding_dim", 0))
    heads = int(number(node, "num_heads", 0))
    flat = len(shape) == 3
    if flat and not heads:
        head = size or tables[1] * 2
        heads = shape[2] // head
    length = shape[1] if flat else shape[2]
    if len(where) == 1:
        places = graph.op("Add", places, np.arange(length, dtype=np.int64))
        places = graph.op("Reshape", places, as_shape((1, length)))
    rows = (graph.op("Gather", cos, places, axis=0), graph.op("Gather", sin, places, axis=0))
    rotate(graph, x, rows, (heads, size, bool(number(node, "interleaved", 0))), node.output[0])
    return True
