"""Keeps operators out of a fusion whose inlined code would load its inputs too often.

TVM fuses up to 256 of them. Templates inline what follows a contraction into the store of its result. Inlined code can
grow without bounds: n nested polynomials read their input k**n times (:mod:`tilewright.space.inlining`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tilewright.space.inlining import MOST_LOADS, blocks_of, count_loads, multiplies

if TYPE_CHECKING:
    from tvm import relax, tirx
    from tvm.ir import IRModule

__all__ = ["LONGEST_CHAIN", "OPAQUE", "cut_chains"]

#: The most operators that are fused into one function. The compiler takes 1 to 4 s for 64 polynomials, and storing the
#: tensors between two such functions is a small part of the work.
LONGEST_CHAIN = 64
#: Values of TVM's OpPatternKind. Patterns up to ``_INJECTIVE`` are element-wise, broadcast, or move elements.
#: ``_ANCHORS`` are reductions and contractions, into which element-wise operators are fused. ``OPAQUE`` is never fused.
_INJECTIVE, _ANCHORS, OPAQUE = 2, (3, 4), 8
#: The pattern of a contraction, which element-wise operators are fused into.
_PRODUCT = 4
#: The largest count of operators or loads that is kept. Counts grow exponentially along a chain.
_MOST_COUNTED = 1 << 40


def cut_chains(module: IRModule) -> IRModule:
    """Keep operators out of fusion where a chain after a contraction would load its input too often when inlined.

    For f = tanh, which loads its operand 19 times:

    contraction, f, f, f, f  -->  (contraction, f, f), f, (f)

    And what repeats the small result of a contraction is not computed in the contraction's loops, which are few:

    (contraction, sigmoid, multiply each pixel of an image)  -->  (contraction, sigmoid), (multiply each pixel)

    Args:
        module: a legalised module in which each function has its pattern.

    Returns:
        the module, in which the operators at the cuts have functions of their own, which are not fused into others.
    """
    sizes: dict[relax.Var, int] = {}
    anchored: dict[relax.Var, bool] = {}
    loads: dict[str, list[int]] = {}
    cut: dict[relax.Call, int] = {}
    products: set[relax.Var] = set()
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            called = _called(module, binding.value)
            if called is None:
                continue
            name, pattern, arguments = called
            size, after = 1, pattern in _ANCHORS
            if pattern <= _INJECTIVE:
                if name not in loads:
                    loads[name] = _loads_of_parameters(module[name])
                operands = [(n, sizes.get(a, 1)) for n, a in zip(loads[name], arguments, strict=False)]
                size = sum(n * operand for n, operand in operands)
                after = any(anchored.get(argument, False) for argument in arguments)
                if after and size > MOST_LOADS and any(multiplies(n, operand) for n, operand in operands):
                    cut[binding.value] = OPAQUE
                    size, after = 1, False
            after_product = [argument for argument in arguments if argument in products]
            if pattern <= _INJECTIVE and any(_count(a) < _count(binding.var) for a in after_product):
                cut.setdefault(binding.value, _INJECTIVE)
            elif pattern == _PRODUCT or (pattern <= _INJECTIVE and after_product):
                products.add(binding.var)
            sizes[binding.var], anchored[binding.var] = min(max(1, size), _MOST_COUNTED), after
    return _with_own_functions(module, cut) if cut else module


def _count(tensor: relax.Var) -> int:
    """The number of elements."""
    return math.prod(int(extent) for extent in getattr(tensor.ty, "shape", None) or ())


def _called(module: IRModule, value: relax.Expr) -> tuple[str, int, list[relax.Expr]] | None:
    """The name and pattern of the function that an expression calls, and the arguments; None if it calls none."""
    from tvm import ir, relax

    if not isinstance(value, relax.Call) or not isinstance(value.op, ir.Op) or value.op.name != "relax.call_tir":
        return None
    name = value.args[0].name_hint
    attributes = module[name].attrs
    pattern = int(attributes["op_pattern"]) if attributes is not None and "op_pattern" in attributes else OPAQUE
    return name, pattern, list(value.args[1].fields)


def _loads_of_parameters(function: tirx.PrimFunc) -> list[int]:
    """The number of loads from each parameter of a function without reductions, after all blocks are inlined."""
    import tvm

    parameters = list(function.params)
    found: dict[tirx.Buffer, list[int]] = {p: [int(p.same_as(q)) for q in parameters] for p in parameters}
    total = [0] * len(parameters)
    for block in blocks_of(tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")})):
        total = [0] * len(parameters)
        for source, count in count_loads(block).items():
            total = [a + count * b for a, b in zip(total, found.get(source, total), strict=True)]
        total = [min(count, _MOST_COUNTED) for count in total]
        found |= {region.source: total for region in block.writes}
    return total


def _with_own_functions(module: IRModule, calls: Mapping[relax.Call, int]) -> IRModule:
    """The module with copies of the functions that ``calls`` call, which have the pattern that is given there."""
    from tvm import relax

    copies: dict[tuple[str, int], relax.GlobalVar] = {}

    @relax.expr_functor.mutator
    class Redirect(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, op: relax.Call) -> relax.Expr:
            if op not in calls:
                return super().visit_call_(op)
            name = op.args[0].name_hint
            key = (name, calls[op])
            if key not in copies:
                copies[key] = self.builder_.add_func(module[name].with_attr("op_pattern", calls[op]), f"{name}_alone")
            return relax.Call(op.op, [copies[key], *map(self.visit_expr, op.args[1:])], op.attrs, op.ty_args)

    main = module.get_global_var("main")
    redirect = Redirect(module)
    redirect.builder_.update_func(main, redirect.visit_expr(module[main]))
    return redirect.builder_.get()
