"""Rewrites Einsum into products of matrices."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.rewriting.shapes import as_shape

__all__ = ["einsum", "parse"]


@dataclass(frozen=True)
class _Operand:
    """A tensor and the labels of its axes."""

    name: str
    labels: tuple[str, ...]


@rewriting("Einsum")
def einsum(graph: Graph, node: onnx.NodeProto) -> bool:
    """Einsum("ij,jk->ik", a, b) --> MatMul(a, b), with transpositions and sums if they are needed.

    More than two operands are multiplied from left to right. TVM computes all of them in one loop.
    """
    shapes = [graph.shape(name) for name in node.input]
    if any(shape is None or 0 in shape for shape in shapes):
        return False
    known = [shape for shape in shapes if shape is not None]
    terms, result = parse(str(read_attributes(node)["equation"]), [len(shape) for shape in known])
    extents = _measure(terms, known)
    operands = [
        _tidy(graph, name, term, shape, extents) for name, term, shape in zip(node.input, terms, known, strict=True)
    ]
    left = operands[0]
    for number, right in enumerate(operands[1:], 1):
        later = {label for operand in operands[number + 1 :] for label in operand.labels} | set(result)
        left = _multiply(graph, left, right, later, extents)
    left = _sum_out(graph, left, set(result))
    _arrange(graph, left, result, node.output[0])
    return True


def parse(equation: str, ranks: Sequence[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """The labels of the operands' axes, and those of the result.

    The axes of an ellipsis get the labels ``.0``, ``.1``, ..., from the last axis to the first.

    Raises:
        ValueError: the equation does not fit the operands.
    """
    plain = equation.replace(" ", "")
    sources, arrow, target = plain.partition("->")
    texts = sources.split(",")
    if len(texts) != len(ranks):
        raise ValueError(f"an equation has one term for each operand, but {equation!r} has {len(texts)}")
    terms = [_label(text, rank) for text, rank in zip(texts, ranks, strict=True)]
    dots = sorted({label for term in terms for label in term if label[0] == "."}, key=lambda v: -int(v[1:]))
    if arrow:
        before, ellipsis, after = target.partition("...")
        return terms, (*before, *(dots if ellipsis else ()), *after)
    every = [label for term in terms for label in term if label[0] != "."]
    return terms, (*dots, *sorted(label for label in set(every) if every.count(label) == 1))


def _label(text: str, rank: int) -> tuple[str, ...]:
    before, ellipsis, after = text.partition("...")
    count = rank - len(before) - len(after)
    if count < 0 or (count and not ellipsis):
        raise ValueError(f"a term has one label for each axis, but {text!r} is for a tensor of rank {rank}")
    return (*before, *(f".{place}" for place in reversed(range(count))), *after)


def _measure(terms: Sequence[tuple[str, ...]], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The extent of each label: the largest extent of its axes. Other axes have this extent, or 1."""
    extents: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, extent in zip(term, shape, strict=True):
            extents[label] = max(extent, extents.get(label, 1))
    return extents


def _tidy(graph: Graph, name: str, term: tuple[str, ...], shape: tuple[int, ...], extents: dict[str, int]) -> _Operand:
    """An operand without repeated labels, and without axes that are broadcast."""
    labels = list(term)
    for label in dict.fromkeys(term):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            mask = np.eye(extents[label]).reshape(
                [extents[label] if axis in (first, second) else 1 for axis in range(len(labels))]
            )
            diagonal = graph.op("Mul", name, graph.like(name, mask))
            name = graph.op("ReduceSum", diagonal, as_shape((second,)), keepdims=0)
            del labels[second]
    inner = graph.shape(name)
    assert inner is not None
    kept = [(label, extent) for label, extent in zip(labels, inner, strict=True) if extent == extents[label]]
    if len(kept) < len(labels):
        name = graph.op("Reshape", name, as_shape(tuple(extent for _, extent in kept)))
    return _Operand(name, tuple(label for label, _ in kept))


def _sum_out(graph: Graph, operand: _Operand, kept: Collection[str]) -> _Operand:
    """The operand summed over labels that are not in ``kept``."""
    axes = [axis for axis, label in enumerate(operand.labels) if label not in kept]
    if not axes:
        return operand
    name = graph.op("ReduceSum", operand.name, as_shape(tuple(axes)), keepdims=0)
    return _Operand(name, tuple(label for label in operand.labels if label in kept))


def _arrange(graph: Graph, operand: _Operand, labels: Sequence[str], out: str = "") -> str:
    """The tensor with its axes in the order of ``labels``."""
    order = [operand.labels.index(label) for label in labels]
    if order == list(range(len(order))):
        return graph.op("Identity", operand.name, out=out) if out else operand.name
    return graph.op("Transpose", operand.name, out=out, perm=order)


def _multiply(
    graph: Graph, left: _Operand, right: _Operand, later: Collection[str], extents: dict[str, int]
) -> _Operand:
    """The product of two operands, summed over the labels that are not needed later."""
    left = _sum_out(graph, left, {*later, *right.labels})
    right = _sum_out(graph, right, {*later, *left.labels})
    shared = [label for label in left.labels if label in right.labels]
    batch = [label for label in shared if label in later]
    summed = [label for label in shared if label not in later]
    rows = [label for label in left.labels if label not in shared]
    columns = [label for label in right.labels if label not in shared]

    def size(labels: Sequence[str]) -> int:
        return math.prod(extents[label] for label in labels)

    labels = (*batch, *rows, *columns)
    shape = tuple(extents[label] for label in labels)
    first = _arrange(graph, left, [*batch, *rows, *summed])
    second = _arrange(graph, right, [*batch, *summed, *columns])
    if not summed:
        first = graph.op("Reshape", first, as_shape((size(batch), size(rows), 1)))
        second = graph.op("Reshape", second, as_shape((size(batch), 1, size(columns))))
        product = graph.op("Mul", first, second)
    else:
        first = graph.op("Reshape", first, as_shape((size(batch), size(rows), size(summed))))
        second = graph.op("Reshape", second, as_shape((size(batch), size(summed), size(columns))))
        product = graph.op("MatMul", first, second)
    return _Operand(graph.op("Reshape", product, as_shape(shape)), labels)
