"""The functions of a layer norm in training and of its gradient as plain loops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.elementwise.float32 import number
from tilewright.ops.function import KEPT
from tilewright.ops.mark import Mark
from tilewright.ops.norms.form import GRADIENT, NORM, NormGradient, TrainingNorm
from tilewright.ops.statements import load, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.written import declare, make_written_function

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import PrimFunc, Stmt

__all__ = ["norm_gradient", "training_norm"]


@lru_cache(KEPT)
def training_norm(form: TrainingNorm) -> PrimFunc:
    """A layer norm of rows: a PrimFunc with the parameters of ``form.shapes``, all float32."""
    from tvm import tirx

    buffers = {name: declare(name, shape) for name, shape in form.shapes.items()}
    data, scale, shift, out, moments = buffers.values()
    row, share = make_counter("row"), number(1.0 / form.columns)
    mean, inverse = [row, make_index(0)], [row, make_index(1)]

    def centred(column: Expr) -> Expr:
        return load(data, [row, column]) - load(moments, mean)

    def element(column: Expr) -> Stmt:
        value = centred(column) * load(moments, inverse) * load(scale, [column]) + load(shift, [column])
        return store(out, value, [row, column])

    variance = load(moments, inverse) * share + number(form.epsilon)
    body = make_sequence(
        [
            store(moments, number(0.0), mean),
            _over(form.columns, lambda column: _add(moments, load(data, [row, column]), mean)),
            store(moments, load(moments, mean) * share, mean),
            store(moments, number(0.0), inverse),
            _over(form.columns, lambda column: _add(moments, centred(column) * centred(column), inverse)),
            store(moments, number(1.0) / tirx.sqrt(variance), inverse),
            _over(form.columns, element),
        ]
    )
    body = make_loop(row, form.rows, body)
    return make_written_function(list(buffers.values()), len(form.results), body, [], Mark(NORM, form.detail))


@lru_cache(KEPT)
def norm_gradient(form: NormGradient) -> PrimFunc:
    """The gradients of a layer norm: a PrimFunc with the parameters of ``form.shapes``, all float32.

    With s = gradient * scale and n = (data - mean) * inverse, the gradient of the data is
    inverse * (s - mean(s) - n * mean(s * n)), plus the residual if there is one. The gradient of the scale is the sum
    over all rows of gradient * n, and that of the shift is the sum of the gradient.
    """
    buffers = {name: declare(name, shape) for name, shape in form.shapes.items()}
    dy, data, mean, inverse, scale = (buffers[n] for n in ("gradient", "data", "mean", "inverse", "scale"))
    result, sums = buffers["result"], buffers["sums"]
    means = declare("means", (2,))
    row, share = make_counter("row"), number(1.0 / form.columns)
    first, second = make_index(0), make_index(1)

    def normal(column: Expr) -> Expr:
        return (load(data, [row, column]) - load(mean, [row])) * load(inverse, [row])

    def scaled(column: Expr) -> Expr:
        return load(dy, [row, column]) * load(scale, [column])

    def element(column: Expr) -> Stmt:
        value = scaled(column) - load(means, [first]) * share - normal(column) * (load(means, [second]) * share)
        value = value * load(inverse, [row])
        if form.residual:
            value = value + load(buffers["residual"], [row, column])
        return store(result, value, [row, column])

    def zero(place: Expr, column: Expr) -> Stmt:
        return store(sums, number(0.0), [place, column])

    steps = [
        *(store(means, number(0.0), [place]) for place in (first, second)),
        _over(form.columns, lambda column: _add(means, scaled(column), [first])),
        _over(form.columns, lambda column: _add(means, scaled(column) * normal(column), [second])),
        _over(form.columns, element),
        _over(form.columns, lambda column: _add(sums, load(dy, [row, column]) * normal(column), [first, column])),
        _over(form.columns, lambda column: _add(sums, load(dy, [row, column]), [second, column])),
    ]
    clear = [_over(form.columns, functools.partial(zero, place)) for place in (first, second)]
    body = make_sequence([*clear, make_loop(row, form.rows, make_sequence(steps))])
    return make_written_function(list(buffers.values()), len(form.results), body, [means], Mark(GRADIENT, form.detail))


def _over(extent: int, element: Callable[[Expr], Stmt]) -> Stmt:
    column = make_counter("column")
    return make_loop(column, extent, element(column))


def _add(buffer: Var, value: Expr, place: list[Expr]) -> Stmt:
    return store(buffer, load(buffer, place) + value, place)
