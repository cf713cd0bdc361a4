"""Finds the attentions of a quantised network before it is rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tilewright.graph.quantised.calls import read_quantiser
from tilewright.graph.quantised.operators import read_constant
from tilewright.graph.value import shape_of
from tilewright.ops.attention.byte_form import FEWEST
from tilewright.ops.contraction.dot_products import QUAD

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.quantised.calls import Quantiser
    from tilewright.graph.rewriter import Rewriter

__all__ = ["ByteSite", "find_sites", "shift_of"]

#: What is done to scores: rounded by a quantiser, multiplied by a number, or a mask is added.
_Step: TypeAlias = "Quantiser | float | relax.Var"


@dataclass(frozen=True)
class ByteSite:
    """An attention of bytes in a network.

    Attributes:
        operands: what dequantises q, k (transposed) and v.
        steps: what is done to the scores, in order.
        weights: what quantises the probabilities, one after the other.
        result: what quantises the result.
        shape: of the scores.
        inside: the variables between, in the order of their bindings.
    """

    operands: tuple[Quantiser, Quantiser, Quantiser]
    steps: tuple[_Step, ...]
    weights: tuple[Quantiser, ...]
    result: Quantiser
    shape: tuple[int, ...]
    inside: tuple[relax.Var, ...]


def find_sites(walk: Rewriter, bindings: Sequence[relax.VarBinding]) -> dict[relax.Var, ByteSite]:
    """The attentions of bytes by the variables that hold their results.

    Args:
        walk: knows the network's weights.
        bindings: all bindings of the network, in order.
    """
    finder = _Finder(walk, bindings)
    found = (finder.find(softmax) for softmax in finder.softmaxes)
    return dict(pair for pair in found if pair is not None)


class _Finder:
    """Reads the bindings of a network.

    Attributes:
        softmaxes: the variables that hold the result of a softmax.
    """

    def __init__(self, walk: Rewriter, bindings: Sequence[relax.VarBinding]) -> None:
        from tvm import relax

        self._walk = walk
        self._bound: Mapping[relax.Var, relax.Expr] = {b.var: b.value for b in bindings}
        self._order = {b.var: i for i, b in enumerate(bindings)}
        self._readers: dict[relax.Var, list[relax.Var]] = {}
        self.softmaxes = [b.var for b in bindings if self._name(b.var) == "nn.softmax"]
        for binding in bindings if self.softmaxes else ():

            def visit(part: relax.Expr, reader: relax.Var = binding.var) -> None:
                if isinstance(part, relax.Var):
                    self._readers.setdefault(part, []).append(reader)

            relax.analysis.post_order_visit(binding.value, visit)

    def find(self, softmax: relax.Var) -> tuple[relax.Var, ByteSite] | None:
        """The variable of the result and the attention around a softmax; None if it is none of bytes."""
        call = self._bound[softmax]
        shape = shape_of(call)
        if int(call.attrs.axis) not in (-1, len(shape) - 1):
            return None
        inside = {softmax}
        below = self._descend(softmax, inside)
        scores = self._climb(call.args[0], inside, None)
        if below is None or scores is None:
            return None
        (weights, second, final), (product, steps) = below, scores
        first = self._bound[product].args
        operands = [self._quantiser(var, "dequantise") for var in (*first, self._bound[second].args[1])]
        result = self._quantiser(final, "quantise")
        if result is None or any(operand is None for operand in operands):
            return None
        shapes = [shape_of(var) for var in (*first, self._bound[second].args[1])]
        (*batch, queries, depth), (*_, keys), (*_, width) = shapes
        fits = shapes[1] == (*batch, depth, keys) and shapes[2] == (*batch, keys, width)
        if not fits or min(queries, keys, depth, width) < FEWEST or depth % QUAD or shape != (*batch, queries, keys):
            return None
        readers = {reader for var in inside for reader in self._readers.get(var, [])}
        if not readers <= inside | {final}:
            return None
        ordered = tuple(sorted(inside, key=lambda var: self._order[var]))
        known = tuple(operand for operand in operands if operand is not None)
        assert len(known) == 3
        return final, ByteSite(known, tuple(steps), weights, result, shape, ordered)

    def _descend(
        self, softmax: relax.Var, inside: set[relax.Var]
    ) -> tuple[tuple[Quantiser, ...], relax.Var, relax.Var] | None:
        """What quantises the probabilities, the product with the values, and the variable of the quantised result.

        None if probabilities have other readers. What replaces those that are no numbers is left out: bytes are.

        Args:
            softmax: gives the probabilities.
            inside: gets the variables between.
        """
        weights: list[Quantiser] = []
        var, opened = softmax, False  # whether ``var`` holds bytes
        while True:
            readers = dict.fromkeys(self._readers.get(var, []))
            tests = {reader for reader in readers if self._name(reader) == "isnan"}
            inside |= tests
            following = [reader for reader in readers if reader not in tests]
            if len(following) != 1:
                return None
            (reader,) = following
            inside.add(reader)
            name, quantiser = self._name(reader), self._quantiser(reader)
            if quantiser is not None and (quantiser.kind == "dequantise") == opened:
                if opened and not quantiser.same_as(weights[-1]):
                    return None
                if not opened and quantiser.zero + shift_of(quantiser.dtype) != 0.0:
                    return None
                if not opened and not (weights and quantiser.same_as(weights[-1])):
                    weights.append(quantiser)
                opened = not opened
            elif opened or not weights:
                return None
            elif name == "matmul":
                break
            elif name != "where" or not self._replaces_nan(reader, var):
                return None
            var = reader
        finals = dict.fromkeys(self._readers.get(reader, []))
        if not self._bound[reader].args[0].same_as(var) or len(finals) != 1:
            return None
        (final,) = finals
        return tuple(weights), reader, final

    def _replaces_nan(self, var: relax.Var, kept: relax.Var) -> bool:
        """Whether ``where`` keeps ``kept`` except where that is no number."""
        condition, _, other = self._bound[var].args
        return bool(other.same_as(kept)) and self._name(condition) == "isnan"

    def _climb(
        self, var: relax.Expr, inside: set[relax.Var], opened: Quantiser | None
    ) -> tuple[relax.Var, list[_Step]] | None:
        """The product that gives the scores, and what is done with them until ``var``.

        Args:
            var: where to begin.
            inside: gets the variables between.
            opened: what dequantises below ``var``; None: nothing, or it has been quantised.
        """
        if var not in self._bound:
            return None
        name, quantiser = self._name(var), self._quantiser(var)
        if quantiser is not None:
            if (quantiser.kind == "quantise") != (opened is not None and quantiser.same_as(opened)):
                return None
            inside.add(var)
            closed = quantiser.kind == "quantise"
            found = self._climb(quantiser.data, inside, None if closed else quantiser)
            return found and (found[0], [*found[1], *([quantiser] if closed else [])])
        if opened is not None:
            return None
        inside.add(var)
        if name == "matmul":
            return var, []
        arguments = self._bound[var].args if name in ("add", "multiply", "divide") else []
        if name in ("multiply", "divide"):
            number = self._number(arguments[1])
            if number is None or not number:
                return None
            scores = self._climb(arguments[0], inside, None)
            return scores and (scores[0], [*scores[1], number if name == "multiply" else 1.0 / number])
        for scored, mask in (arguments, arguments[::-1]) if name == "add" else ():
            if shape_of(scored) != shape_of(var) or str(mask.ty.dtype) != "float32":
                continue
            here = set(inside)
            scores = self._climb(scored, here, None)
            if scores is not None and len(shape_of(mask)) <= len(shape_of(var)):
                inside |= here
                return scores[0], [*scores[1], mask]
        return None

    def _number(self, expr: relax.Expr) -> float | None:
        found = read_constant(self._walk, self._walk.values.get(expr, expr), 0)
        return float(found.reshape(())) if found is not None and found.size == 1 and np.isfinite(found).all() else None

    def _name(self, var: relax.Expr) -> str:
        """The name of the operator that gives a variable; "" if none does."""
        from tvm import ir, relax

        value = self._bound.get(var) if isinstance(var, relax.Var) else None
        known = isinstance(value, relax.Call) and isinstance(value.op, ir.Op)
        return str(value.op.name).removeprefix("relax.") if known and value is not None else ""

    def _quantiser(self, var: relax.Expr, kind: str = "") -> Quantiser | None:
        """What quantises or dequantises to give a variable, if that has one known scale."""
        found = read_quantiser(self._walk, self._bound[var]) if self._name(var) == "call_tir" else None
        return found if found is not None and kind in ("", found.kind) else None


def shift_of(dtype: str) -> float:
    """What makes bytes of ``dtype`` unsigned when it is added."""
    return 128.0 if dtype == "int8" else 0.0
