"""Joins operators of a rewritten network into one function, where that was measured to be faster.

Each site is a few operators in a row. Nothing else reads what is between them:

    s = first(a, b); t = second(s); y = third(t, c)
    -->
    y = joined(a, b, c)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from tilewright.graph.alternatives import find_used
from tilewright.graph.attention import AttentionSite
from tilewright.graph.calls import replace_calls
from tilewright.graph.rewrite import Rewritten
from tilewright.graph.weights import Recipe
from tilewright.ops.attention import Attention, attention

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["join_sites", "separate_site"]


def join_sites(
    rewritten: Rewritten, inputs: int, sites: Iterable[AttentionSite], joined: Collection[Attention]
) -> Rewritten:
    """The network with one function for each site whose form is in ``joined``. Weights that none reads are left out.

    Args:
        rewritten: the network.
        inputs: the number of its inputs.
        sites: of the network.
        joined: forms of some sites.
    """
    from tvm import relax

    chosen = {site.bindings[-1].value: site for site in sites if site.form in joined}
    functions: dict[Attention, relax.GlobalVar] = {}
    weights: dict[Recipe, relax.Var] = {}
    moved: dict[tuple[relax.Expr, tuple[int, ...]], relax.Var] = {}

    def join(walk: relax.PyExprMutator, call: relax.Call) -> relax.Expr | None:
        site = chosen.get(call)
        if site is None:
            return None
        if site.form not in functions:
            functions[site.form] = walk.builder_.add_func(attention(site.form), "attention")
        operands = [give(walk, site, place) for place in range(len(site.operands))]
        return relax.call_tir(functions[site.form], operands, call.ty_args[0])

    def give(walk: relax.PyExprMutator, site: AttentionSite, place: int) -> relax.Expr:
        """An operand, with its dimensions in the order in which the function reads them."""
        recipe, order = site.recipes.get(place), site.orders.get(place)
        if recipe is not None:
            var = relax.Var(f"j{len(weights)}", relax.TensorType(recipe.shape, recipe.dtype))
            return weights.setdefault(recipe, var)
        operand = walk.visit_expr(site.operands[place])
        if order is None:
            return operand
        key = site.operands[place], order  # the attentions of all layers may have the same mask
        if key not in moved:
            moved[key] = walk.builder_.emit(relax.op.permute_dims(operand, list(order)))
        return moved[key]

    module = replace_calls(rewritten.module, join)
    main = module["main"]
    used = find_used(main)
    pairs = [pair for pair in zip(main.params[inputs:], rewritten.recipes, strict=True) if pair[0] in used]
    pairs += [(var, recipe) for recipe, var in weights.items()]
    params = [*main.params[:inputs], *(var for var, _ in pairs)]
    module[module.get_global_var("main")] = relax.Function(params, main.body, main.ret_ty, main.is_pure, main.attrs)
    return replace(rewritten, module=module, recipes=tuple(recipe for _, recipe in pairs))


def separate_site(module: IRModule, site: AttentionSite) -> IRModule:
    """A network of the operators of one site, not joined. Its inputs are what they read.

    Args:
        module: the rewritten network.
        site: of it.
    """
    import tvm
    from tvm import relax

    inside = {binding.var for binding in site.bindings}
    values: dict[relax.Var, relax.Expr] = {}
    for binding in site.bindings:
        for read in _reads(binding.value):
            if isinstance(read, relax.Var) and read not in inside:
                values.setdefault(read, relax.Var(f"x{len(values)}", read.ty))
    called = [b.value.args[0] for b in site.bindings if b.value.op.name == "relax.call_tir"]
    builder = relax.BlockBuilder(tvm.ir.IRModule({function: module[function] for function in called}))
    with builder.function("main", list(values.values())):
        with builder.dataflow():
            for binding in site.bindings:
                call = binding.value
                arguments = [values.get(read, read) for read in _reads(call)]
                if call.op.name == "relax.call_tir":
                    call = relax.call_tir(call.args[0], arguments, call.ty_args[0])
                else:
                    call = relax.Call(call.op, arguments, call.attrs, call.ty_args)
                values[binding.var] = builder.emit(call)
            output = builder.emit_output(values[site.bindings[-1].var])
        builder.emit_func_output(output)
    return builder.finalize()


def _reads(call: relax.Call) -> list[relax.Expr]:
    """The operands of an operator or of a function that is called."""
    return list(call.args[1].fields) if call.op.name == "relax.call_tir" else list(call.args)
