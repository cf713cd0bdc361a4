"""How many element-wise operators one function may hold.

TVM fuses up to 256 of them, and templates compute what follows a contraction where it is stored, by inlining. Both grow
without bounds: inlined, n nested polynomials read their input k**n times (:mod:`tilewright.space.inlining`).
"""

from __future__ import annotations

from typing import Any

from tilewright.space.inlining import MOST_LOADS, blocks_of, count_loads, multiplies

__all__ = ["LONGEST_CHAIN", "OPAQUE", "cut_chains"]

#: Operators that are fused into one function, at most: the compiler takes 1 to 4 s for so many polynomials, and the
#: tensors between two such functions are a small part of the work.
LONGEST_CHAIN = 64
#: TVM's OpPatternKind: the last of those that are element-wise, broadcast or move elements; of reductions and of
#: contractions, which element-wise operators are fused into; and of what nothing is fused with.
_INJECTIVE, _FUSABLE, OPAQUE = 2, (3, 4), 8


def cut_chains(module: Any) -> Any:
    """Fuse nothing with an operator that would make what follows a contraction too long to be inlined.

    contraction, f, f, f, f, f  -->  (contraction, f, f, f), f, (f)

    Args:
        module: legalised, with the pattern of each function.

    Returns:
        the module, in which some calls have functions of their own that are opaque.
    """
    sizes: dict[Any, int] = {}
    anchored: dict[Any, bool] = {}
    loads: dict[str, list[int]] = {}
    cut: set[Any] = set()
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            called = _called(module, binding.value)
            if called is None:
                continue
            name, pattern, arguments = called
            size, after = 1, pattern in _FUSABLE
            if pattern <= _INJECTIVE:
                if name not in loads:
                    loads[name] = _loads_of_parameters(module[name])
                operands = [(n, sizes.get(a, 1)) for n, a in zip(loads[name], arguments, strict=False)]
                size = sum(n * operand for n, operand in operands)
                after = any(anchored.get(argument, False) for argument in arguments)
                if after and size > MOST_LOADS and any(multiplies(n, operand) for n, operand in operands):
                    cut.add(binding.value)
                    size, after = 1, False
            sizes[binding.var], anchored[binding.var] = min(max(1, size), 1 << 40), after
    return _with_own_functions(module, cut) if cut else module


def _called(module: Any, value: Any) -> tuple[str, int, list[Any]] | None:
    """The function that an expression calls, its pattern, and the arguments; None where it calls none."""
    from tvm import ir, relax

    if not isinstance(value, relax.Call) or not isinstance(value.op, ir.Op) or value.op.name != "relax.call_tir":
        return None
    name = value.args[0].name_hint
    attributes = module[name].attrs
    pattern = int(attributes["op_pattern"]) if attributes is not None and "op_pattern" in attributes else OPAQUE
    return name, pattern, list(value.args[1].fields)


def _loads_of_parameters(function: Any) -> list[int]:
    """How often a function without reductions loads from each parameter, if its blocks are inlined into each other."""
    import tvm

    parameters = list(function.params)
    found: dict[Any, list[int]] = {p: [int(p.same_as(q)) for q in parameters] for p in parameters}
    total = [0] * len(parameters)
    for block in blocks_of(tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")})):
        total = [0] * len(parameters)
        for source, count in count_loads(block).items():
            total = [a + count * b for a, b in zip(total, found.get(source, total), strict=True)]
        total = [min(count, 1 << 40) for count in total]
        found |= {region.source: total for region in block.writes}
    return total


def _with_own_functions(module: Any, calls: set[Any]) -> Any:
    """The module in which these calls call copies of their functions that are opaque."""
    from tvm import relax

    copies: dict[str, Any] = {}

    @relax.expr_functor.mutator
    class Redirect(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, op: Any) -> Any:
            if op not in calls:
                return super().visit_call_(op)
            name = op.args[0].name_hint
            if name not in copies:
                copies[name] = self.builder_.add_func(module[name].with_attr("op_pattern", OPAQUE), f"{name}_alone")
            return relax.Call(op.op, [copies[name], *map(self.visit_expr, op.args[1:])], op.attrs, op.ty_args)

    main = module.get_global_var("main")
    redirect = Redirect(module)
    redirect.builder_.update_func(main, redirect.visit_expr(module[main]))
    return redirect.builder_.get()
