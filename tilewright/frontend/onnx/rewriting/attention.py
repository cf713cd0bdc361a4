"""Rewritings of attention and of rotary embeddings.

Names of extents: B batch, H heads of the query, G heads of the key (H is a multiple of G), S queries, T keys, D the
size of a head, E the size of a value's head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.rewriting.shapes import as_shape

__all__ = ["Scores", "merge_heads", "negative", "rotate", "score", "split_heads", "weigh"]


@dataclass(frozen=True)
class Scores:
    """The stages of scores (B, H, S, T), by name.

    Attributes:
        raw: the products of queries and keys, times the scale.
        capped: the same after the soft cap.
        biased: the same after the bias was added.
        weights: the same after softmax.
    """

    raw: str
    capped: str
    biased: str
    weights: str


def split_heads(graph: Graph, name: str, heads: int) -> str:
    """(B, S, H * D) --> (B, H, S, D)."""
    shape = graph.shape(name)
    assert shape is not None
    batch, length, hidden = shape
    apart = graph.op("Reshape", name, as_shape((batch, length, heads, hidden // heads)))
    return graph.op("Transpose", apart, perm=[0, 2, 1, 3])


def merge_heads(graph: Graph, name: str, out: str) -> str:
    """(B, H, S, D) --> (B, S, H * D)."""
    shape = graph.shape(name)
    assert shape is not None
    batch, heads, length, size = shape
    apart = graph.op("Transpose", name, perm=[0, 2, 1, 3])
    return graph.op("Reshape", apart, as_shape((batch, length, heads * size)), out=out)


def negative(graph: Graph, name: str) -> NDArray[np.generic]:
    """Minus infinity in the element type of a tensor."""
    return graph.like(name, -math.inf)


@dataclass(frozen=True)
class Rule:
    """How scores are computed.

    Attributes:
        scale: factor of the products.
        cap: the soft cap; 0: there is none.
        bias: the name of a tensor that is added, and can be broadcast to (B, H, S, T); empty: nothing is added.
        guarded: whether a query has weights of 0 if the bias of all its keys is minus infinity.
        precision: the element type in which softmax is computed; 0: that of the scores.
    """

    scale: float
    cap: float = 0.0
    bias: str = ""
    guarded: bool = False
    precision: int = 0


def score(graph: Graph, query: str, key: str, rule: Rule) -> Scores:
    """Write the weights of the keys (B, G, T, D) for the queries (B, H, S, D)."""
    shape, keys = graph.shape(query), graph.shape(key)
    assert shape is not None
    assert keys is not None
    batch, heads, length, size = shape
    groups, total = keys[1], keys[2]
    scaled = query if rule.scale == 1.0 else graph.op("Mul", query, graph.like(query, rule.scale))
    if groups != heads:  # the queries of the heads that share a key are rows of one product
        scaled = graph.op("Reshape", scaled, as_shape((batch, groups, heads // groups * length, size)))
    raw = graph.op("MatMul", scaled, graph.op("Transpose", key, perm=[0, 1, 3, 2]))
    if groups != heads:
        raw = graph.op("Reshape", raw, as_shape((batch, heads, length, total)))
    capped = raw
    if rule.cap > 0:
        bent = graph.op("Tanh", graph.op("Div", raw, graph.like(raw, rule.cap)))
        capped = graph.op("Mul", bent, graph.like(raw, rule.cap))
    biased = graph.op("Add", capped, rule.bias) if rule.bias else capped
    kind = graph.elem_type(query)
    wide = graph.op("Cast", biased, to=rule.precision) if rule.precision not in (0, kind) else biased
    weights = graph.op("Softmax", wide, axis=-1)
    if wide != biased:
        weights = graph.op("Cast", weights, to=kind)
    if rule.guarded and rule.bias:
        top = graph.op("ReduceMax", rule.bias, as_shape((-1,)), keepdims=1)
        masked = graph.op("Equal", top, negative(graph, rule.bias))
        weights = graph.op("Where", masked, graph.like(weights, 0), weights)
    return Scores(raw, capped, biased, weights)


def weigh(graph: Graph, weights: str, value: str) -> str:
    """Multiply weights (B, H, S, T) by values (B, G, T, E). Returns the name of the result (B, H, S, E)."""
    shape, values = graph.shape(weights), graph.shape(value)
    assert shape is not None
    assert values is not None
    batch, heads, length, total = shape
    groups, size = values[1], values[3]
    if groups == heads:
        return graph.op("MatMul", weights, value)
    rows = graph.op("Reshape", weights, as_shape((batch, groups, heads // groups * length, total)))
    return graph.op("Reshape", graph.op("MatMul", rows, value), as_shape((batch, heads, length, size)))


def _number(node: onnx.NodeProto, name: str, default: float) -> float:
    value = read_attributes(node).get(name, default)
    assert isinstance(value, int | float)
    return value


def _optional(node: onnx.NodeProto, place: int) -> str:
    return node.input[place] if place < len(node.input) else ""


def _wanted(node: onnx.NodeProto, place: int) -> str:
    return node.output[place] if place < len(node.output) else ""


@rewriting("Attention")
def attention(graph: Graph, node: onnx.NodeProto) -> bool:
    """Attention(q, k, v) --> MatMul(Softmax(MatMul(q * scale, Transpose(k)) + bias), v), with its further outputs.

    TVM's converter of this name serves the operator of another domain.
    """
    query, key, value = node.input[:3]
    shapes = [graph.shape(name) for name in (query, key, value)]
    if any(shape is None or 0 in shape for shape in shapes):
        return False
    flat = len(shapes[0] or ()) == 3
    if flat:
        heads, groups = int(_number(node, "q_num_heads", 0)), int(_number(node, "kv_num_heads", 0))
        if not heads or not groups:
            return False
        query = split_heads(graph, query, heads)
        key, value = split_heads(graph, key, groups), split_heads(graph, value, groups)
    past = _optional(node, 4)
    if past:
        key = graph.op("Concat", past, key, out=_wanted(node, 1), axis=2)
        value = graph.op("Concat", _optional(node, 5), value, out=_wanted(node, 2), axis=2)
    else:
        for name, place in ((key, 1), (value, 2)):
            if _wanted(node, place):
                graph.op("Identity", name, out=_wanted(node, place))
    shape = graph.shape(query)
    assert shape is not None
    rule = Rule(
        scale=_number(node, "scale", 1 / math.sqrt(shape[3])),
        cap=_number(node, "softcap", 0.0),
        bias=_Bias(graph, node, query, key).write(),
        guarded=bool(_optional(node, 3) or _optional(node, 6) or _number(node, "left_window_size", -1) >= 0),
        precision=int(_number(node, "softmax_precision", 0)) or _default_precision(graph, query),
    )
    scores = score(graph, query, key, rule)
    result = weigh(graph, scores.weights, value)
    if flat:
        merge_heads(graph, result, node.output[0])
    else:
        graph.op("Identity", result, out=node.output[0])
    if _wanted(node, 3):
        stages = (scores.raw, scores.capped, scores.biased, scores.weights)
        graph.op("Identity", stages[int(_number(node, "qk_matmul_output_mode", 0))], out=_wanted(node, 3))
    return True


def _default_precision(graph: Graph, name: str) -> int:
    """The element type of softmax: float32 for float16; 0, the type of the scores, for others."""
    return TensorProto.FLOAT if graph.elem_type(name) == TensorProto.FLOAT16 else 0


@dataclass(frozen=True)
class _Bias:
    """The bias of a node's scores: masks, and bounds on the positions of keys.

    Attributes:
        graph: the graph.
        node: the node.
        query: the queries (B, H, S, D).
        key: all keys (B, G, T, D).
    """

    graph: Graph
    node: onnx.NodeProto
    query: str
    key: str

    @property
    def _lengths(self) -> tuple[int, int]:
        query, key = self.graph.shape(self.query), self.graph.shape(self.key)
        assert query is not None
        assert key is not None
        return query[2], key[2]

    def write(self) -> str:
        """Write the sum of all parts. Returns its name; empty if there is none."""
        parts = [part for part in (self._mask(), self._bounds(), self._filled()) if part]
        if not parts:
            return ""
        total = parts[0]
        for part in parts[1:]:
            total = self.graph.op("Add", total, part)
        return total

    def _allow(self, allowed: str) -> str:
        """0 where a tensor of bool is true, minus infinity elsewhere."""
        return self.graph.op("Where", allowed, self.graph.like(self.query, 0), negative(self.graph, self.query))

    def _mask(self) -> str:
        graph, name = self.graph, _optional(self.node, 3)
        shape = graph.shape(name) if name else None
        if not name:
            return ""
        assert shape is not None
        if graph.elem_type(name) == TensorProto.BOOL:
            name = self._allow(name)
        missing = self._lengths[1] - shape[-1]
        if missing > 0 and shape[-1] != 1:
            rest = np.full((*shape[:-1], missing), negative(graph, self.query))
            name = graph.op("Concat", name, rest, axis=-1)
        return name

    def _bounds(self) -> str:
        """The causal bound, and the bounds of a window."""
        graph, node = self.graph, self.node
        left, right = (int(_number(node, f"{side}_window_size", -1)) for side in ("left", "right"))
        causal = bool(_number(node, "is_causal", 0))
        if left < 0 and right < 0 and not causal:
            return ""
        count, total = self._lengths
        queries, keys = np.arange(count).reshape(-1, 1), np.arange(total)
        past = _optional(node, 4)
        offset = 0
        if past:
            shape = graph.shape(past)
            assert shape is not None
            offset = shape[2]
        filled = _optional(node, 6)
        if filled and not past:
            return self._moved_bounds(filled, left, right, causal)
        place = queries + offset
        allowed = np.ones((count, total), dtype=np.bool_)
        if causal:
            allowed &= keys <= place
        if left >= 0:
            allowed &= keys >= place - left
        if right >= 0:
            allowed &= keys <= place + right
        return graph.constant(np.where(allowed, graph.like(self.query, 0), negative(graph, self.query)))

    def _moved_bounds(self, filled: str, left: int, right: int, causal: bool) -> str:
        """The bounds, if the number of keys before the queries is computed for each batch."""
        graph = self.graph
        count, total = self._lengths
        column = graph.op("Reshape", filled, as_shape((-1, 1, 1, 1)))
        place = graph.op("Add", column, (np.arange(count, dtype=np.int64) - count).reshape(1, 1, -1, 1))
        keys = np.arange(total, dtype=np.int64).reshape(1, 1, 1, -1)
        limits = []
        if causal:
            limits.append(graph.op("LessOrEqual", keys, place))
        if left >= 0:
            limits.append(graph.op("GreaterOrEqual", keys, graph.op("Sub", place, np.asarray(left, dtype=np.int64))))
        if right >= 0:
            limits.append(graph.op("LessOrEqual", keys, graph.op("Add", place, np.asarray(right, dtype=np.int64))))
        allowed = limits[0]
        for limit in limits[1:]:
            allowed = graph.op("And", allowed, limit)
        return self._allow(allowed)

    def _filled(self) -> str:
        """Which keys are in use, if their number is computed for each batch."""
        graph, name = self.graph, _optional(self.node, 6)
        if not name:
            return ""
        keys = np.arange(self._lengths[1], dtype=np.int64).reshape(1, 1, 1, -1)
        return self._allow(graph.op("Less", keys, graph.op("Reshape", name, as_shape((-1, 1, 1, 1)))))


@rewriting("RotaryEmbedding")
def rotary_embedding(graph: Graph, node: onnx.NodeProto) -> bool:
    """RotaryEmbedding(x, cos, sin) --> Concat(cos * a - sin * b, sin * a + cos * b), for the halves a, b of a head."""
    x, cos, sin = node.input[:3]
    shape, places = graph.shape(x), _optional(node, 3)
    if shape is None or 0 in shape or graph.shape(cos) is None:
        return False
    if places:
        cos, sin = (graph.op("Gather", table, places, axis=0) for table in (cos, sin))
    heads, size = int(_number(node, "num_heads", 0)), int(_number(node, "rotary_embedding_dim", 0))
    if len(shape) == 3 and not heads:
        return False
    rotate(graph, x, (cos, sin), (heads, size, bool(_number(node, "interleaved", 0))), node.output[0])
    return True


def rotate(graph: Graph, x: str, tables: tuple[str, str], how: tuple[int, int, bool], out: str) -> None:
    """Write a rotary embedding.

    Args:
        graph: the graph.
        x: of shape (B, H, S, D) or (B, S, H * D).
        tables: cosines and sines, of shape (B, S, R / 2), or with 1 instead of B.
        how: three values. The number of heads, which a tensor of rank 3 needs. R, the number of elements of a head that
            are rotated; 0 means all. Whether the elements of a pair are neighbours; otherwise they are in two halves.
        out: the name of the result.
    """
    heads, size, interleaved = how
    shape = graph.shape(x)
    assert shape is not None
    flat = len(shape) == 3
    batch, length = (shape[0], shape[1]) if flat else (shape[0], shape[2])
    heads = heads if flat else shape[1]
    head = shape[2] // heads if flat else shape[3]
    size = size or head
    apart = graph.op("Reshape", x, as_shape((batch, length, heads, head))) if flat else x
    rotated, rest = apart, ""
    if size < head:
        rotated, rest = graph.ops("Split", apart, as_shape((size, head - size)), outs=_two(graph), axis=-1)
    batched = (graph.shape(tables[0]) or (1,))[0]
    column = (batched, length, 1, size // 2) if flat else (batched, 1, length, size // 2)
    cos, sin = (graph.op("Reshape", table, as_shape(column)) for table in tables)
    first, second = _halves(graph, rotated, size, interleaved)
    real = graph.op("Sub", graph.op("Mul", cos, first), graph.op("Mul", sin, second))
    imaginary = graph.op("Add", graph.op("Mul", sin, first), graph.op("Mul", cos, second))
    if interleaved:
        inner = graph.shape(real)
        assert inner is not None
        pairs = [graph.op("Reshape", name, as_shape((*inner, 1))) for name in (real, imaginary)]
        joined = graph.op("Reshape", graph.op("Concat", *pairs, axis=-1), as_shape((*inner[:-1], size)))
    else:
        joined = graph.op("Concat", real, imaginary, axis=-1)
    if rest:
        joined = graph.op("Concat", joined, rest, axis=-1)
    graph.op("Reshape", joined, as_shape(shape), out=out)


def _two(graph: Graph) -> tuple[str, str]:
    return graph.new_name("part"), graph.new_name("part")


def _halves(graph: Graph, x: str, size: int, interleaved: bool) -> tuple[str, str]:
    """The elements of pairs along the last axis: the even and the odd ones, or the first and the second half."""
    if not interleaved:
        first, second = graph.ops("Split", x, as_shape((size // 2, size // 2)), outs=_two(graph), axis=-1)
        return first, second
    shape = graph.shape(x)
    assert shape is not None
    pairs = graph.op("Reshape", x, as_shape((*shape[:-1], size // 2, 2)))
    first, second = (graph.op("Gather", pairs, np.asarray(i, dtype=np.int64), axis=-1) for i in (0, 1))
    return first, second
