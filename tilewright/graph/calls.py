"""Replaces calls in a network's main function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["replace_calls"]


def replace_calls(
    module: IRModule, replace: Callable[[relax.PyExprMutator, relax.Call], relax.Expr | None]
) -> IRModule:
    """The network with other expressions in the place of some calls, and without the functions that nothing calls then.

    Args:
        module: the network.
        replace: gives what takes the place of a call; None: the call stays. It gets the mutator, whose ``builder_``
            adds functions and emits expressions, and whose ``visit_expr`` gives an operand in the new network.
    """
    import tvm
    from tvm import relax

    @relax.expr_functor.mutator
    class Replacer(relax.PyExprMutator):  # type: ignore[misc]  # TVM has no types
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            found = replace(self, call)
            return self.visit_expr_post_order(call) if found is None else found

    replacer = Replacer(module)
    main = replacer.visit_expr(module["main"])
    made = replacer.builder_.get()
    made[made.get_global_var("main")] = main
    made = relax.transform.DeadCodeElimination()(made)
    assert isinstance(made, tvm.ir.IRModule)
    return made
