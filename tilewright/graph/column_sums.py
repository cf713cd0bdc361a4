"""Joins the gradient of a dense layer's bias with that of its weights, since both read all tokens of ``dy``.

    w = token_product(dy, x); b = token_sum(dy)
    -->
    w, b = token_product(dy, x)

``dy`` is the gradient of the layer's result, and ``x`` its data.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.graph.calls import replace_calls
from tilewright.ops.mark import take_mark
from tilewright.ops.pixel_sums import TOKEN_SUM, is_token_sum
from tilewright.ops.token_product import KIND, TokenProduct, token_product

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["join_column_sums"]


@dataclass(frozen=True)
class _Pair:
    """A product of tokens, and the sums of its left operand's columns, which come later.

    Attributes:
        product, sums: the calls.
        form: of the product.
    """

    product: relax.Call
    sums: relax.Call
    form: TokenProduct


def join_column_sums(module: IRModule) -> IRModule:
    """The module with one function for each product of tokens and the sums of its left operand's columns.

    Args:
        module: a rewritten network whose functions have their marks.
    """
    from tvm import relax

    pairs = _find_pairs(module)
    if not pairs:
        return module
    products = {pair.product: pair for pair in pairs}
    sums = {pair.sums: pair.product for pair in pairs}
    made: dict[TokenProduct, relax.GlobalVar] = {}
    found: dict[relax.Call, relax.Var] = {}

    def replace(walk: relax.PyExprMutator, call: relax.Call) -> relax.Expr | None:
        if call in sums:
            return found[sums[call]]
        pair = products.get(call)
        if pair is None:
            return None
        form = dataclasses.replace(pair.form, sums=True)
        if form not in made:
            made[form] = walk.builder_.add_func(token_product(form), KIND)
        kinds = [relax.TensorType(shape, "float32") for shape in form.results.values()]
        operands = [walk.visit_expr(operand) for operand in call.args[1].fields]
        both = walk.builder_.emit(relax.call_tir(made[form], operands, kinds))
        found[call] = walk.builder_.emit(relax.TupleGetItem(both, 1))
        return relax.TupleGetItem(both, 0)

    return replace_calls(module, replace)


def _find_pairs(module: IRModule) -> list[_Pair]:
    """The pairs of a network, each sum and each product once."""
    forms: dict[str, TokenProduct | None] = {}
    waiting: dict[tuple[relax.Expr, tuple[int, int]], list[tuple[relax.Call, TokenProduct]]] = {}
    sources: dict[relax.Expr, relax.Expr] = {}
    pairs = []
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            name = str(getattr(getattr(call, "op", None), "name", ""))
            if name == "relax.reshape":
                sources[binding.var] = sources.get(call.args[0], call.args[0])
            if name != "relax.call_tir":
                continue
            function, operands = str(call.args[0].name_hint), list(call.args[1].fields)
            if function.startswith(KIND):
                if function not in forms:
                    forms[function] = _read_form(module, function)
                form = forms[function]
                if form is not None:
                    left = sources.get(operands[0], operands[0])
                    waiting.setdefault((left, (form.tokens, form.left)), []).append((call, form))
            elif function.startswith(TOKEN_SUM) and is_token_sum(module[function]):
                extents = tuple(int(extent) for extent in operands[0].ty.shape.values)
                others = waiting.get((sources.get(operands[0], operands[0]), (extents[0], extents[1])))
                if others:
                    product, form = others.pop()
                    pairs.append(_Pair(product, call, form))
    return pairs


def _read_form(module: IRModule, name: str) -> TokenProduct | None:
    mark = take_mark(module[name])[1]
    return TokenProduct.parse(mark.detail) if mark.kind == KIND else None
