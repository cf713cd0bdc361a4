"""Finds attention in a rewritten network: a product, what is done with its scores, a softmax, and another product.

    s = batch_matmul(q, k); s = multiply(s, scale); s = add(s, mask); p = softmax(s); y = batch_matmul(p, v)
    -->
    y = attention(q, k, v, mask)

The products were rewritten to read their operands in place (:mod:`tilewright.graph.token_products`), and the one
function reads and writes the same places. Scales are known numbers. Masks are added in the function. A constant mask
that hides the keys after a query is not read at all, since the function leaves those keys out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.network import Network
from tilewright.graph.rewrite import Rewritten
from tilewright.graph.value import shape_of
from tilewright.graph.weights import Recipe
from tilewright.ops.attention import Attention, Dims, Place
from tilewright.ops.contraction.expression import Product
from tilewright.ops.rows import Guard
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax

__all__ = ["AttentionSite", "find_attentions"]

#: Fewest queries and keys for which one function is proposed. A vector of scores holds queries.
_FEWEST = 4
#: A score of at most this is no score: what models write for minus infinity is the smallest float32, or half of it.
_HIDDEN = -1e30
#: What the places of a product are in an attention: of the scores' operands, and of the values and the result.
_SCORES = {"m": "query", "k": "depth", "n": "key"}
_RESULT = {"m": "query", "k": "key", "n": "width"}


@dataclass(frozen=True)
class AttentionSite:
    """An attention in a network.

    Attributes:
        form: the attention.
        operands: of its function, in the order of ``form.shapes``.
        orders: how the dimensions of operands are permuted before, by the operands' places. A vector of scores holds
            queries, so the queries of a mask lie side by side.
        recipes: of those of them that are weights, permuted when the executable is built.
        bindings: of the operators that it replaces, in their order. The last one binds the result.
    """

    form: Attention
    operands: tuple[relax.Expr, ...]
    orders: Mapping[int, tuple[int, ...]]
    recipes: Mapping[int, Recipe]
    bindings: tuple[relax.VarBinding, ...]


def find_attentions(rewritten: Rewritten, network: Network) -> list[AttentionSite]:
    """The attentions of a network, in their order."""
    if not rewritten.softmaxes or not rewritten.products:
        return []
    finder = _Finder(rewritten, network)
    return [site for softmax in finder.softmaxes if (site := finder.read(softmax)) is not None]


@dataclass(frozen=True)
class _Scores:
    """What was found of the scores, from the softmax upwards.

    Attributes:
        scale: their factor.
        masks: what is added to them, with the dimensions in which they lie.
        hidden: what a constant mask that hides the keys after a query adds to them, at most; None without such a mask.
    """

    scale: float = 1.0
    masks: tuple[tuple[relax.Expr, tuple[int, ...]], ...] = ()
    hidden: float | None = None

    @property
    def readable(self) -> bool:
        """Whether keys that are hidden can be left out.

        With other masks, a row may read no key that is not hidden. A softmax then tells minus infinity from a finite
        number.
        """
        return self.hidden is None or not self.masks or self.hidden == -math.inf


class _Finder:
    """Reads the bindings of a network's function.

    Attributes:
        softmaxes: the variables that hold the result of a softmax.
    """

    def __init__(self, rewritten: Rewritten, network: Network) -> None:
        self._rewritten = rewritten
        main = rewritten.module["main"]
        inputs = len(network.parameters)
        weights = zip(main.params[inputs:], rewritten.recipes, strict=True)
        known = {name for name in network.weights if name not in network.varying}
        self._recipes = {var: recipe for var, recipe in weights if recipe.source in known}
        self._weights: Mapping[str, Array] = network.weights
        self._bound: dict[relax.Var, relax.VarBinding] = {}
        self._readers: dict[relax.Var, list[relax.Var]] = {}
        self._order: dict[relax.Var, int] = {}
        for block in main.body.blocks:
            for binding in block.bindings:
                self._order[binding.var] = len(self._order)
                self._bound[binding.var] = binding
                for read in _variables(binding.value):
                    self._readers.setdefault(read, []).append(binding.var)
        self._readers.setdefault(main.body.body, []).append(main.body.body)
        self.softmaxes = [var for var in self._order if self._function(var) in rewritten.softmaxes]

    def read(self, softmax: relax.Var) -> AttentionSite | None:
        """The attention around a softmax; None if there is none."""
        inside: list[relax.Var] = [softmax]
        # Down to the product with the values.
        result = softmax
        while True:
            reader = self._only_reader(result)
            if reader is None:
                return None
            inside.append(reader)
            second = self._rewritten.products.get(self._function(reader))
            if second is not None:
                break
            if self._operator(reader) != "reshape":
                return None
            result = reader
        values = self._arguments(reader)
        if not values[0].same_as(result) or values[1].same_as(result):
            return None
        # Up to the product that gives the scores.
        found = self._climb(self._arguments(softmax)[0], _Scores(), inside)
        if found is None:
            return None
        product, scores = found
        first = self._rewritten.products[self._function(product)]
        form = _describe(first, second, scores, self._rewritten.softmaxes[self._function(softmax)])
        if form is None:
            return None
        operands = (*self._arguments(product), values[1], *(mask for mask, _ in scores.masks))
        found_orders = [(3 + i, _find_order(dims)) for i, dims in enumerate(form.masks)]
        orders = {place: order for place, order in found_orders if order is not None}
        recipes = {place: self._permute(operands[place], order) for place, order in orders.items()}
        known = {place: recipe for place, recipe in recipes.items() if recipe is not None}
        masks = [_permuted(dims, orders.get(3 + i)) for i, dims in enumerate(form.masks)]
        bindings = [self._bound[var] for var in sorted(inside, key=lambda var: self._order[var])]
        return AttentionSite(replace(form, masks=tuple(masks)), operands, orders, known, tuple(bindings))

    def _permute(self, expr: relax.Expr, order: tuple[int, ...]) -> Recipe | None:
        """How a weight is made with its dimensions in another order; None for what is no weight."""
        if self._operator(expr) == "reshape":
            recipe = self._recipes.get(self._arguments(expr)[0])
        else:
            recipe = self._recipes.get(expr)
        return None if recipe is None else recipe.reshape(shape_of(expr)).transpose(order)

    def _climb(self, var: relax.Expr, scores: _Scores, inside: list[relax.Var]) -> tuple[relax.Var, _Scores] | None:
        """The product above ``var``, and what is done with its scores. Adds the variables between to ``inside``."""
        from tvm import relax

        if not isinstance(var, relax.Var) or var not in self._bound or self._only_reader(var) is None:
            return None
        inside.append(var)
        if self._function(var) in self._rewritten.products:
            return var, scores
        name, arguments = self._operator(var), self._arguments(var)
        if name == "reshape":
            return self._climb(arguments[0], scores, inside)
        if name in ("multiply", "divide"):
            number = self._number(arguments[1])
            if number is None or (name == "divide" and number == 0.0):
                return None
            # What is added below is not scaled, so the scale belongs to the product.
            scale = scores.scale * number if name == "multiply" else scores.scale / number
            return self._climb(arguments[0], replace(scores, scale=scale), inside)
        if scores.scale != 1.0:
            return None  # what is added here would be scaled
        if name == "where":
            hidden = self._number(arguments[2])
            if hidden is None or hidden > _HIDDEN or not self._hides(arguments[0], shape_of(self._bound[var].value)):
                return None
            return self._climb(arguments[1], replace(scores, hidden=hidden), inside)
        if name != "add":
            return None
        for scored, mask in (tuple(arguments), tuple(arguments)[::-1]):
            more = self._add_mask(mask, shape_of(var), scores)
            if more is None or shape_of(scored) != shape_of(var):
                continue
            here = list(inside)
            found = self._climb(scored, more, here)
            if found is not None:
                inside[:] = here
                return found
        return None

    def _add_mask(self, mask: relax.Expr, shape: tuple[int, ...], scores: _Scores) -> _Scores | None:
        from tvm import relax

        if not isinstance(mask, relax.Var) or str(mask.ty.dtype) != "float32":
            return None
        hidden = self._hidden(mask)
        if hidden is not None:
            return replace(scores, hidden=hidden)
        return replace(scores, masks=((mask, shape), *scores.masks))

    # Known numbers

    def _constant(self, expr: relax.Expr) -> Array | None:
        """The array that an expression holds in every call; None if that is not known."""
        from tvm import ir, relax

        if isinstance(expr, ir.GenericConst):
            return np.asarray(expr.value.numpy())
        if isinstance(expr, relax.Var) and self._operator(expr) == "reshape":
            array = self._constant(self._arguments(expr)[0])
            return None if array is None else array.reshape(shape_of(expr))
        recipe = self._recipes.get(expr)
        return None if recipe is None else np.asarray(recipe.apply(self._weights))

    def _number(self, expr: relax.Expr) -> float | None:
        """The number that an expression holds; None if it is not one known number."""
        if math.prod(shape_of(expr)) != 1:
            return None
        array = self._constant(expr)
        number = None if array is None or array.dtype.kind not in "fi" else float(array.reshape(()))
        return None if number is None or not (math.isfinite(number) or number < 0) else number

    def _hidden(self, mask: relax.Expr) -> float | None:
        """The largest number of a mask for keys after a query; None if it is not 0 for the others, or hides none."""
        array = self._matrix(mask)
        if array is None or array.dtype != np.float32:
            return None
        seen = _seen(array)
        most = float(array[~seen].max())
        return most if (array[seen] == 0.0).all() and most <= _HIDDEN else None

    def _hides(self, condition: relax.Expr, shape: tuple[int, ...]) -> bool:
        """Whether a condition holds for the keys up to a query alone."""
        array = self._matrix(condition)
        return array is not None and array.shape == shape[-2:] and bool((array.astype(bool) == _seen(array)).all())

    def _matrix(self, expr: relax.Expr) -> Array | None:
        """A constant matrix that all matrices of a batch share, with at least as many columns as rows."""
        shape = shape_of(expr)
        if len(shape) < 2 or math.prod(shape[:-2]) != 1 or not 1 < shape[-2] <= shape[-1]:
            return None
        array = self._constant(expr)
        return None if array is None else array.reshape(shape[-2:])

    # Bindings

    def _only_reader(self, var: relax.Var) -> relax.Var | None:
        """The variable whose expression alone reads ``var``; None if several do."""
        readers = self._readers.get(var, [])
        return readers[0] if len(readers) == 1 and not readers[0].same_as(var) else None

    def _operator(self, var: relax.Var) -> str:
        """The name of Relax's operator that gives a variable; "" if none does."""
        from tvm import ir, relax

        value = self._bound[var].value if var in self._bound else var
        known = isinstance(value, relax.Call) and isinstance(value.op, ir.Op)
        return str(value.op.name).removeprefix("relax.") if known else ""

    def _function(self, var: relax.Var) -> str:
        """The name of the function whose call gives a variable; "" if no call does."""
        return str(self._bound[var].value.args[0].name_hint) if self._operator(var) == "call_tir" else ""

    def _arguments(self, var: relax.Var) -> list[relax.Expr]:
        value = self._bound[var].value
        return list(value.args[1].fields) if self._operator(var) == "call_tir" else list(value.args)


def _seen(array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The places of a matrix whose key is not after the query."""
    rows, columns = array.shape
    return np.tri(rows, columns, columns - rows, dtype=bool)


def _describe(first: Product, second: Product, scores: _Scores, guard: Guard) -> Attention | None:
    """The attention of two products; None if they are none, or if no template would serve it."""
    between = [(first.batch[i] if kind == "batch" else getattr(first, kind), (kind, i)) for kind, i in first.out]
    read = [(extent, ("n", 0) if place == ("k", 0) else place) for extent, place in second.left]
    same = [d for d in between if d[0] > 1] == [d for d in read if d[0] > 1] and first.batch == second.batch
    if not same or (first.m, first.n) != (second.m, second.k) or min(first.m, first.n) < _FEWEST or second.n < 2:
        return None
    if not scores.readable:
        return None
    masks = [_lay_mask(shape_of(mask), shape, between) for mask, shape in scores.masks]
    laid = tuple(mask for mask in masks if mask is not None)
    out = tuple(_rename(place, _RESULT) for place in second.out)
    v = _rename_dims(second.right, _RESULT)
    if (
        len(laid) != len(masks)
        or v[-1][1] != ("width", 0)
        or out[-1] != ("width", 0)
        or not math.isfinite(scores.scale)
    ):
        return None
    q, k = _rename_dims(first.left, _SCORES), _rename_dims(first.right, _SCORES)
    return Attention(
        first.batch,
        first.m,
        first.n,
        first.k,
        second.n,
        q,
        k,
        v,
        out,
        scores.scale,
        laid,
        scores.hidden is not None,
        guard.safe,
        finite=guard.finite,
    )


def _lay_mask(mask: tuple[int, ...], shape: tuple[int, ...], scores: list[tuple[int, Place]]) -> Dims | None:
    """How a mask lies that is added to scores of ``shape``; None if dimensions of the scores are merged there."""
    places = iter([d for d in scores if d[0] > 1])
    axes: list[tuple[int, Place]] = [
        next(places, (0, ("", 0))) if extent > 1 else (1, ("fixed", 0)) for extent in shape
    ]
    if any(extent != wanted for (extent, _), wanted in zip(axes, shape, strict=True)) or len(mask) > len(shape):
        return None
    dims = []
    for extent, (whole, place) in zip(mask, axes[len(axes) - len(mask) :], strict=True):
        if extent not in (1, whole):
            return None
        dims.append((extent, _rename(place, _SCORES) if extent > 1 else ("fixed", 0)))
    return tuple(dims)


def _find_order(mask: Dims) -> tuple[int, ...] | None:
    """The order of a mask's dimensions in which queries come last; None if they need not move."""
    places = [place for _, place in mask]
    if ("query", 0) not in places[:-1]:
        return None
    at = places.index(("query", 0))
    return (*(axis for axis in range(len(mask)) if axis != at), at)


def _permuted(mask: Dims, order: tuple[int, ...] | None) -> Dims:
    return mask if order is None else tuple(mask[axis] for axis in order)


def _rename(place: Place, names: Mapping[str, str]) -> Place:
    return names.get(place[0], place[0]), place[1]


def _rename_dims(dims: tuple[tuple[int, Place], ...], names: Mapping[str, str]) -> Dims:
    return tuple((extent, _rename(place, names)) for extent, place in dims)


def _variables(expr: relax.Expr) -> list[relax.Var]:
    """The variables that an expression reads, each once."""
    from tvm import relax

    found: Counter[relax.Var] = Counter()

    def visit(part: relax.Expr) -> None:
        if isinstance(part, relax.Var):
            found[part] += 1

    relax.analysis.post_order_visit(expr, visit)
    return list(found)
