"""Attention of quantised networks: one function from bytes to bytes.

    s = quantise(matmul(dequantise(q), dequantise(k)))      perhaps with masks added, and rounded again
    p = quantise(softmax(dequantise(s)))
    y = quantise(matmul(dequantise(p), dequantise(v)))
    -->
    y = byte_attention(q, k, v, masks, scales, zero points)

The operators are found before the network is rewritten, and none of them is emitted by itself. The function reads q, k
and v where they lie. Bytes of q and k that are looked up in tables before, because the network scales them, are looked
up in the function.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph.quantised.calls import Quantiser, as_bytes
from tilewright.graph.quantised.computing import settle
from tilewright.graph.quantised.sites import ByteSite, find_sites, shift_of
from tilewright.graph.quantised.tables import realise
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import Atom, View
from tilewright.ops.attention import ByteAttention, Dims, Place, byte_attention
from tilewright.ops.attention.byte_form import BYTE_KIND
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["ByteAttentions"]


@dataclass(frozen=True)
class _Bytes:
    """Unsigned bytes as an attention reads them.

    Attributes:
        rows: the bytes, with rows and columns as the last dimensions.
        table: in which they are looked up ``(256,)``; None: they are not.
        zero: the zero point.
        scale: the scale.
    """

    rows: Value
    table: Array | None
    zero: float
    scale: float


class ByteAttentions:
    """Emits the functions of a network's attentions.

    Attributes:
        sites: the attentions by the variables that hold their results.
        inside: the variables that are computed by no operator of their own.

    Args:
        walk: emits the new graph, and knows the network's weights.
        bindings: all bindings of the network, in order.
    """

    def __init__(self, walk: Rewriter, bindings: Sequence[relax.VarBinding]) -> None:
        self._walk = walk
        self._moved: dict[tuple[relax.Expr, tuple[int, ...]], relax.Expr] = {}
        self.sites = find_sites(walk, bindings)
        self.inside = {var for site in self.sites.values() for var in site.inside}

    def emit(self, site: ByteSite) -> Value | None:
        """The value of an attention's result; None if its operands do not lie so that a function could read them."""
        found = [self._read(name, operand) for name, operand in zip("qkv", site.operands, strict=True)]
        known = [operand for operand in found if operand is not None]
        if len(known) != len(found):
            return None
        names = (("query", "depth"), ("key", "depth"), ("key", "width"))
        views = [self._lie(operand.rows) for operand in known]
        laid = [_places(view, *own) for view, own in zip(views, names, strict=True)]
        dims = [own for own in laid if own is not None]
        batches = [[[a.extent for a in dim if a.extent > 1] for dim in view.dims[:-2]] for view in views]
        if len(dims) != len(laid) or any(batch != batches[0] for batch in batches):
            return None
        scores = _Scores(site, known[0].scale * known[1].scale, batches[0])
        if scores.masks is None:
            return None
        masks = [self._lay_mask(var, own) for var, own in scores.masks]
        form = ByteAttention(
            batch=tuple(extent for dim in batches[0] for extent in dim) or (1,),
            queries=site.shape[-2],
            keys=site.shape[-1],
            depth=views[0].shape[-1],
            width=views[2].shape[-1],
            q=dims[0],
            k=dims[1],
            v=dims[2],
            out=tuple(("query", 0) if place == ("key", 0) else place for _, place in dims[2] if place[0] != "fixed"),
            masked=tuple(scores.masked),
            masks=tuple(own for _, own in masks),
            tables=(known[0].table is not None, known[1].table is not None),
            roundings=len(site.weights),
        )
        arguments = [
            self._walk.reshape(operand.rows.base, tuple(extent for extent, _ in own))
            for operand, own in zip(known, dims, strict=True)
        ]
        tables = [operand.table for operand in known if operand.table is not None]
        steps = [1.0, *(quantiser.scale for quantiser in site.weights)]
        factors = [above / below for above, below in itertools.pairwise(steps)]
        scales = [*scores.scales, *factors, steps[-1] * known[2].scale / site.result.scale]
        zeros = [*(operand.zero for operand in known), site.result.zero + shift_of(site.result.dtype)]
        arguments += [*self._weights(tables), *(mask for mask, _ in masks)]
        arguments += self._weights([np.asarray(scales, np.float32), np.asarray(zeros, np.int32)])
        result = self._walk.call(byte_attention(form), arguments, form.kinds["out"][0], BYTE_KIND, "uint8")
        made = Value((*site.shape[:-1], form.width), base=result, view=_view(form, batches[0]), dtype="uint8")
        return as_bytes(made, site.result.dtype)

    def _weights(self, arrays: Sequence[Array]) -> list[relax.Expr]:
        return [self._walk.add_weight(self._walk.make_weight(array)) for array in arrays]

    def _read(self, name: str, operand: Quantiser) -> _Bytes | None:
        """The bytes of ``q``, ``k`` or ``v`` that are dequantised; those of ``k`` are turned: they are transposed."""
        value = self._walk.values.get(operand.data)
        if not isinstance(value, Value) or value.recipe is not None:
            return None
        if name == "v":  # it has no table in the function
            realise(value)
        shift, table = shift_of(operand.dtype), None
        source = value
        if value.table is not None:
            source, table = value.table.source, (value.table.numbers + shift).astype(np.uint8)
        elif value.scaled_form is not None:
            (term, *more) = value.scaled_form.terms
            source = term.value
            levels = not more and term.offset is None and term.computed is None and not value.scaled_form.limited
            if not levels or not np.all(term.scale == 1.0) or not np.all(value.scaled_form.shift == -shift):
                return None
        if source.dtype != "uint8" or source.recipe is not None or source.shape != value.shape:
            return None
        view = self._walk.make_view(source)
        rows = source.seen(view)
        if name == "k":
            count = len(view.dims)
            rows = source.seen(view.permute((*range(count - 2), count - 1, count - 2)))
        return _Bytes(rows, table, operand.zero + shift, operand.scale)

    def _lie(self, value: Value) -> View:
        """How bytes lie in their base, whose columns lie side by side. They are made a base of their own otherwise."""
        view = self._walk.make_view(value).merge()
        if max(len(view.dims[-1]), len(view.dims[-2])) > 1 or view.atoms[-1:] != list(view.dims[-1]):
            self._walk.materialise(value)
            view = self._walk.make_view(value).merge()
        return view

    def _lay_mask(self, var: relax.Expr, dims: Dims) -> tuple[relax.Expr, Dims]:
        """A mask and how it lies: vectors of scores hold queries, so the queries of a mask come last."""
        from tvm import relax

        value = self._walk.values.get(var, var)
        tensor = value
        if isinstance(value, Value):
            settle(self._walk, value)
            tensor = self._walk.make_plain(value)
        places = [place for _, place in dims]
        if ("query", 0) not in places[:-1]:
            return tensor, dims
        at = places.index(("query", 0))
        order = (*(axis for axis in range(len(dims)) if axis != at), at)
        if (var, order) not in self._moved:  # the attentions of all layers may have the same mask
            self._moved[var, order] = self._walk.emit(relax.op.permute_dims(tensor, list(order)))
        return self._moved[var, order], tuple(dims[axis] for axis in order)


class _Scores:
    """The numbers by which scores are scaled, and the masks.

    Attributes:
        scales: of all steps, as ``ByteAttention`` has them.
        masked: how many masks are added before each rounding.
        masks: the variables that hold them, and how they lie; None: one of them does not lie so.

    Args:
        site: the attention.
        factor: the product of the scales of q and k.
        batch: the extents of the atoms of each dimension of the batch.
    """

    def __init__(self, site: ByteSite, factor: float, batch: list[list[int]]) -> None:
        self.scales: list[float] = []
        self.masked: list[int] = []
        masks: list[tuple[relax.Var, Dims]] = []
        laid: list[Dims | None] = []
        factors: list[float] = []
        for step in site.steps:
            if isinstance(step, Quantiser):
                low = -shift_of(step.dtype) - step.zero
                self.scales += [number / step.scale for number in (factor, *factors)]
                self.scales += [low, low + 255.0]
                self.masked.append(len(factors))
                factor, factors = step.scale, []
            elif isinstance(step, float):
                factor, factors = factor * step, [number * step for number in factors]
            else:
                laid.append(_lay(shape_of(step), site.shape, batch))
                masks.append((step, laid[-1] or ()))
                factors.append(1.0)
        self.scales += [factor, *factors]
        self.masked.append(len(factors))
        self.masks = None if any(dims is None for dims in laid) else masks


def _lay(mask: tuple[int, ...], scores: tuple[int, ...], batch: list[list[int]]) -> Dims | None:
    """How a mask lies that is added to scores; None if a dimension of it has several parts of the batch."""
    dims: list[tuple[int, Place]] = []
    starts = [sum(len(dim) for dim in batch[:axis]) for axis in range(len(batch))]
    for axis, extent in zip(range(len(scores) - len(mask), len(scores)), mask, strict=True):
        if extent == 1:
            dims.append((1, ("fixed", 0)))
        elif extent != scores[axis]:
            return None
        elif axis >= len(batch):
            dims.append((extent, (("query", "key")[axis - len(batch)], 0)))
        elif len(batch[axis]) == 1:
            dims.append((extent, ("batch", starts[axis])))
        else:
            return None
    return tuple(dims)


def _places(view: View, row: str, column: str) -> Dims | None:
    """How rows and columns lie in their base; None if the columns do not lie side by side."""
    parts = [a for dim in view.dims[:-2] for a in dim if a.extent > 1]
    known: dict[Atom, Place] = {a: ("batch", i) for i, a in enumerate(parts)}
    known |= {a: (row, 0) for a in view.dims[-2]} | {a: (column, 0) for a in view.dims[-1]}
    known |= {a: ("fixed", i) for a, i in view.fixed}
    laid = tuple((a.extent, known[a]) for a in view.atoms)
    return laid if laid and laid[-1][1] == (column, 0) else None


def _view(form: ByteAttention, batch: list[list[int]]) -> View:
    """The view of the result: batch, queries, columns."""
    shape = dict(zip(form.out, form.kinds["out"][0], strict=True))
    atoms = {place: Atom(extent) for place, extent in shape.items()}
    dims, number = [], 0
    for dim in batch:
        dims.append(tuple(atoms["batch", number + i] for i in range(len(dim))))
        number += len(dim)
    last = ((atoms["query", 0],), (atoms["width", 0],))
    return View(tuple((atoms[place],) for place in form.out), (*dims, *last))
