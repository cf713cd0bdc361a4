"""Joins a GELU in training with the product that gives its data.

    y = dense_add(x, w, bias); z = gelu_in_training(y)
    -->
    y, z = dense_add_gelu(x, w, bias)

Both results are saved for the backward pass, which reads ``y`` for the slope of the GELU. That is why TVM has not fused
the two functions. The joined function computes ``z`` without reading ``y`` from memory again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tilewright.graph.sums import join_functions
from tilewright.ops.contraction.form import KIND as CONTRACTION
from tilewright.ops.elementwise.expression import GELU
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["join_activations"]


def join_activations(module: IRModule, marks: Mapping[str, Mark], lanes: int) -> tuple[IRModule, Mapping[str, Mark]]:
    """The fused network with one function for each product and the GELU of its result, and all marks.

    Args:
        module: the fused network.
        marks: of its functions, by name.
        lanes: the float32 numbers in a vector register. They divide the columns of products that are joined.
    """
    from tvm import relax

    pairs = _find_pairs(module, marks, lanes)
    if not pairs:
        return module, marks
    seconds = {second: first for first, second in pairs.items()}
    found = dict(marks)
    made: dict[str, relax.GlobalVar] = {}
    both: dict[relax.Call, relax.Var] = {}

    @relax.expr_functor.mutator
    class Joiner(relax.PyExprMutator):  # type: ignore[misc]  # TVM has no types
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            if call in seconds:
                return relax.TupleGetItem(both[seconds[call]], 1)
            second = pairs.get(call)
            if second is None:
                return self.visit_expr_post_order(call)
            name, operands = str(call.args[0].name_hint), list(call.args[1].fields)
            kinds = [call.ty_args[0]] * 2
            if name not in made:
                shapes = [tuple(int(extent) for extent in operand.ty.shape) for operand in operands]
                result = tuple(int(extent) for extent in kinds[0].shape)
                functions = (module[call.args[0]], module[second.args[0]])
                joined = join_functions(*functions, shapes, range(len(shapes)), (None,), (result, result))
                made[name] = self.builder_.add_func(joined, f"{name.rstrip('0123456789')}_gelu")
                found[str(made[name].name_hint)] = marks[name]
            arguments = [self.visit_expr(operand) for operand in operands]
            both[call] = self.builder_.emit(relax.call_tir(made[name], arguments, kinds))
            return relax.TupleGetItem(both[call], 0)

    joiner = Joiner(module)
    main = joiner.visit_expr(module["main"])
    joined = joiner.builder_.get()
    joined[joined.get_global_var("main")] = main
    return relax.transform.DeadCodeElimination()(joined), found


def _find_pairs(module: IRModule, marks: Mapping[str, Mark], lanes: int) -> dict[relax.Call, relax.Call]:
    """The GELU of each product, by the product."""
    calls: dict[relax.Expr, relax.Call] = {}
    pairs: dict[relax.Call, relax.Call] = {}
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if str(getattr(getattr(call, "op", None), "name", "")) != "relax.call_tir":
                continue
            name, operands = str(call.args[0].name_hint), list(call.args[1].fields)
            calls[binding.var] = call
            if name.rstrip("0123456789") != GELU or len(operands) != 1:
                continue
            first = calls.get(operands[0])
            if first is None or first in pairs or marks[str(first.args[0].name_hint)].kind != CONTRACTION:
                continue
            shape = [int(extent) for extent in operands[0].ty.shape]
            alike = len(call.ty_args[0].shape) == len(shape) == 2
            if alike and shape[1] % lanes == 0 and len(list(first.args[1].fields)) > 1:
                pairs[first] = call
    return pairs
