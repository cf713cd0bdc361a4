"""Joins the functions of a layer norm in training that read the same rows, so that the rows are read once.

    y = layer_norm(x, scale, shift); m = moments_of_rows(x)
    -->
    y, m = training_norm(x, scale, shift)

    d = layer_norm_gradient(dy, x, mean, inverse, scale); s = norm_sums(dy, x, mean, inverse); z = d + r
    -->
    z, s = norm_gradient(dy, x, mean, inverse, scale, r)

``r`` is the gradient of the residual connection around the norm. It is computed before the gradient of the norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.graph.again import count_uses
from tilewright.graph.calls import replace_calls
from tilewright.ops.norms import GRADIENT, NORM, NormGradient, TrainingNorm, norm_gradient, training_norm
from tilewright.ops.pixel_sums import NORM_SUMS
from tilewright.ops.rows import LAYER_NORM_GRADIENT, ROW_MOMENTS

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["join_norms"]

#: The name of functions that are layer norms.
_LAYER_NORM = "layer_norm"


@dataclass
class _Sites:
    """The calls that are joined.

    Attributes:
        firsts: the function that replaces a call, by the call.
        seconds: the calls that read the same rows later, and the call that is replaced for each.
        sums: the additions of a residual to the gradient of a norm, and the call that is replaced for each.
        residuals: what is added, by the call that is replaced.
    """

    firsts: dict[relax.Call, TrainingNorm | NormGradient] = field(default_factory=dict)
    seconds: dict[relax.Call, relax.Call] = field(default_factory=dict)
    sums: dict[relax.Call, relax.Call] = field(default_factory=dict)
    residuals: dict[relax.Call, relax.Expr] = field(default_factory=dict)


def join_norms(module: IRModule, moments: Mapping[str, float], lanes: int) -> IRModule:
    """The module with one function for each norm in training, and for each gradient of a norm.

    Args:
        module: a rewritten network.
        moments: what is added to variances, by the names of the functions that give the moments of rows.
        lanes: the float32 numbers in a vector register. They divide rows and columns of norms that are joined.
    """
    from tvm import relax

    sites = _find_sites(module, moments, lanes)
    if not sites.firsts:
        return module
    made: dict[TrainingNorm | NormGradient, relax.GlobalVar] = {}
    pairs: dict[relax.Call, relax.Var] = {}

    def replace(walk: relax.PyExprMutator, call: relax.Call) -> relax.Expr | None:
        if call in sites.seconds:
            return relax.TupleGetItem(pairs[sites.seconds[call]], 1)
        if call in sites.sums:
            return relax.op.reshape(relax.TupleGetItem(pairs[sites.sums[call]], 0), call.ty.shape)
        form = sites.firsts.get(call)
        if form is None:
            return None
        if form not in made:
            norm = isinstance(form, TrainingNorm)
            function = training_norm(form) if isinstance(form, TrainingNorm) else norm_gradient(form)
            made[form] = walk.builder_.add_func(function, NORM if norm else GRADIENT)
        operands = [walk.visit_expr(operand) for operand in call.args[1].fields]
        if call in sites.residuals:
            residual = relax.op.reshape(walk.visit_expr(sites.residuals[call]), (form.rows, form.columns))
            operands.append(walk.builder_.emit(residual))
        kinds = [relax.TensorType(shape, "float32") for shape in form.results.values()]
        pairs[call] = walk.builder_.emit(relax.call_tir(made[form], operands, kinds))
        return relax.TupleGetItem(pairs[call], 0)

    return replace_calls(module, replace)


def _find_sites(module: IRModule, moments: Mapping[str, float], lanes: int) -> _Sites:
    """The calls of a network that can be joined."""
    main = module["main"]
    sites, uses = _Sites(), count_uses(main)
    sources: dict[relax.Expr, relax.Expr] = {}
    order: dict[relax.Expr, int] = {param: -1 for param in main.params}
    waiting: dict[tuple[object, ...], relax.Call] = {}
    gradients: dict[relax.Expr, relax.Call] = {}
    places: dict[relax.Call, int] = {}

    def source(expr: relax.Expr) -> relax.Expr:
        return sources.get(expr, expr)

    for block in main.body.blocks:
        for binding in block.bindings:
            call, var = binding.value, binding.var
            order[var] = len(order)
            name = str(getattr(getattr(call, "op", None), "name", ""))
            if name == "relax.reshape":
                sources[var] = source(call.args[0])
                if call.args[0] in gradients and uses[call.args[0]] == 1:
                    gradients[var] = gradients[call.args[0]]
            elif name == "relax.add":
                _note_residual(sites, call, gradients, sources, uses, order, places)
            elif name == "relax.call_tir":
                function, operands = str(call.args[0].name_hint), list(call.args[1].fields)
                stem = function.rstrip("0123456789")
                if stem not in (_LAYER_NORM, ROW_MOMENTS, LAYER_NORM_GRADIENT, NORM_SUMS):
                    continue
                rows, columns = (int(extent) for extent in operands[0].ty.shape)
                if rows % lanes or columns % lanes:
                    continue
                count = 1 if stem in (_LAYER_NORM, ROW_MOMENTS) else 4
                key = (count, rows, columns, *(source(operand) for operand in operands[:count]))
                if stem in (_LAYER_NORM, LAYER_NORM_GRADIENT):
                    waiting[key] = call
                    if stem == LAYER_NORM_GRADIENT:
                        gradients[var], places[call] = call, order[var]
                elif key in waiting:
                    first = waiting.pop(key)
                    if stem == NORM_SUMS:
                        sites.firsts[first] = NormGradient(rows, columns)
                    elif function in moments:
                        sites.firsts[first] = TrainingNorm(rows, columns, moments[function])
                    if first in sites.firsts:
                        sites.seconds[call] = first
    for first, form in sites.firsts.items():
        if first in sites.residuals:
            sites.firsts[first] = NormGradient(form.rows, form.columns, residual=True)
    sites.sums = {call: first for call, first in sites.sums.items() if first in sites.firsts}
    return sites


def _note_residual(
    sites: _Sites,
    call: relax.Call,
    gradients: Mapping[relax.Expr, relax.Call],
    sources: Mapping[relax.Expr, relax.Expr],
    uses: Mapping[relax.Var, int],
    order: Mapping[relax.Expr, int],
    places: Mapping[relax.Call, int],
) -> None:
    """Note that a call adds to the gradient of a norm a tensor that is computed before that gradient."""
    for own, other in (tuple(call.args), tuple(call.args)[::-1]):
        first = gradients.get(own)
        if first is None or uses[own] != 1 or first in sites.residuals:
            continue
        before = sources.get(other, other)
        alike = tuple(own.ty.shape) == tuple(other.ty.shape)
        if alike and order.get(before, len(order)) < places[first]:
            sites.sums[call], sites.residuals[first] = first, before
            return
