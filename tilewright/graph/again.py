"""Gradients that two kernels read, and that both compute from its operands, so that it is never written.

    d = relu_gradient(dy * gate + dmean, x)
    channel_statistics(d, x); d * a + x * b + c
    -->
    channel_statistics(relu_gradient(...), x); relu_gradient(...) * a + x * b + c

The gradient costs a few operations for each element. To write it, and read it twice, takes longer. A gradient that is
computed together with a convolution stays there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tilewright.graph.value import Value
from tilewright.ops.elementwise.gradients import ACTIVATION_GRADIENT, ActivationGradient
from tilewright.ops.mark import take_mark

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["compute_again", "count_uses"]

#: Operators that cost next to nothing.
_OPERATORS = {"add", "subtract", "multiply", "divide", "nn.relu", "clip", "maximum", "minimum"}
#: Activations whose gradients need no exponential.
_ACTIVATIONS = {"threshold", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu"}


def count_uses(main: relax.Function) -> Counter[relax.Var]:
    """How often each variable of a function is read."""
    from tvm import relax

    uses: Counter[relax.Var] = Counter()

    def see(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            uses[expr] += 1

    for block in main.body.blocks:
        for binding in block.bindings:
            relax.analysis.post_order_visit(binding.value, see)
    relax.analysis.post_order_visit(main.body.body, see)
    return uses


def compute_again(walk: Rewriter, variable: relax.Var) -> Value | None:
    """The value of a variable, computed once more; None if that gains nothing.

    Args:
        walk: emits the new graph.
        variable: is read by the one who asks, and by an element-wise function.
    """
    if walk.uses[variable] != 2 or not _is_cheap(walk, variable):
        return None
    chain, waiting = [variable], [variable]
    while waiting:
        for operand in _operands(walk, waiting.pop()):
            if walk.uses[operand] > 1 or operand not in walk.bindings:
                continue
            if _is_cheap(walk, operand):
                chain.append(operand)
                waiting.append(operand)
            elif len(operand.ty.shape.values) == 4 and int(operand.ty.shape.values[-1]) > 1:
                return None  # a convolution, into which the chain is fused
    before = {each: walk.values[each] for each in chain}
    for each in reversed(chain):
        walk.values[each] = walk.visit(walk.bindings[each])
    result = walk.values[variable]
    walk.values.update(before)
    return result if isinstance(result, Value) else None


def _is_cheap(walk: Rewriter, variable: relax.Var) -> bool:
    """Whether a variable is an image that takes a few operations for each element."""
    from tvm import ir, relax

    call = walk.bindings.get(variable)
    if not isinstance(call, relax.Call) or not isinstance(call.op, ir.Op) or len(variable.ty.shape.values) != 4:
        return False
    if call.op.name != "relax.call_tir":
        return call.op.name.removeprefix("relax.") in _OPERATORS
    mark = take_mark(walk.builder.get()[call.args[0]])[1]
    return mark.kind == ACTIVATION_GRADIENT and ActivationGradient.parse(mark.detail).activation in _ACTIVATIONS


def _operands(walk: Rewriter, variable: relax.Var) -> list[relax.Var]:
    """The variables that a call reads."""
    from tvm import relax

    call = walk.bindings[variable]
    tensors = call.args[1].fields if call.op.name == "relax.call_tir" else call.args
    return [tensor for tensor in tensors if isinstance(tensor, relax.Var)]
