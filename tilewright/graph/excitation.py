"""Joins squeeze and excitation into one function: the means of all channels, and two products that make their gates.

m = mean(x); s = fused_conv2d_add_relu(m, w1, b1); e = fused_conv2d_add_sigmoid(s, w2, b2)
-->
e = excitation(x, w1, b1, w2, b2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tilewright.graph.again import count_uses
from tilewright.ops.contraction.form import KIND as CONTRACTION
from tilewright.ops.excitation import KIND
from tilewright.ops.mark import UNMARKED, Mark

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["join_excitations"]


def join_excitations(module: IRModule, marks: Mapping[str, Mark]) -> tuple[IRModule, Mapping[str, Mark]]:
    """The fused network with one function for each squeeze and excitation, and the marks of all functions.

    Args:
        module: the network. Each operator of squeeze and excitation is a fused function.
        marks: of its functions, by name.
    """
    from tvm import relax

    chains = _find_chains(module, marks)
    if not chains:
        return module, marks
    made: dict[tuple[str, ...], relax.GlobalVar] = {}

    @relax.expr_functor.mutator
    class Joiner(relax.PyExprMutator):  # type: ignore[misc]  # TVM has no types
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            chain = chains.get(call)
            if chain is None:
                return self.visit_expr_post_order(call)
            names = tuple(str(part.args[0].name_hint) for part in chain)
            if names not in made:
                made[names] = self.builder_.add_func(_whole(chain), KIND)
            operands = [
                self.visit_expr(a) for place, part in enumerate(chain) for a in part.args[1].fields[place > 0 :]
            ]
            return relax.Call(made[names], operands)

    joiner = Joiner(module)
    main = joiner.visit_expr(module["main"])
    joined = joiner.builder_.get()
    joined[joined.get_global_var("main")] = main
    joined = relax.transform.DeadCodeElimination()(relax.transform.FuseTIR()(joined))
    return joined, {**marks, **{str(var.name_hint): Mark(KIND) for var in made.values()}}


def _find_chains(module: IRModule, marks: Mapping[str, Mark]) -> dict[relax.Call, tuple[relax.Call, ...]]:
    """The mean and the products of each squeeze and excitation, by the call that makes the gates."""
    from tvm import relax

    main = module["main"]
    uses = count_uses(main)
    bound = {b.var: b.value for block in main.body.blocks for b in block.bindings}

    def kind(call: relax.Expr) -> str:
        called = isinstance(call, relax.Call) and getattr(call.op, "name", "") == "relax.call_tir"
        return marks[call.args[0].name_hint].kind if called else ""

    def before(call: relax.Call) -> relax.Call | None:
        """What gives the first operand, which nothing else reads."""
        operand = call.args[1].fields[0]
        return bound.get(operand) if uses[operand] == 1 else None

    found: dict[relax.Call, tuple[relax.Call, ...]] = {}
    for call in bound.values():
        first = before(call) if kind(call) == CONTRACTION else None
        mean = before(first) if kind(first) == CONTRACTION else None
        if first is None or mean is None or kind(mean) != UNMARKED.kind:
            continue
        chain = (mean, first, call)
        image, *results = (_shape(t) for t in (mean.args[1].fields[0], *(part.ty_args[0] for part in chain)))
        pixels = all(len(result) == 5 and result[2:4] == (1, 1) for result in results)
        if pixels and len(image) == 5 and image[2] * image[3] > 1 and mean.args[0].name_hint.startswith("mean"):
            found[call] = chain
    return found


def _whole(chain: Sequence[relax.Call]) -> relax.Function:
    """A function that calls those of the chain, and that TVM is to fuse."""
    from tvm import relax

    operands = [a for place, part in enumerate(chain) for a in part.args[1].fields[place > 0 :]]
    params = [relax.Var(f"p{number}", operand.ty) for number, operand in enumerate(operands)]
    rest = iter(params)
    builder = relax.BlockBuilder()
    with builder.function("main", params, attrs={"Primitive": True}):
        with builder.dataflow():
            value = next(rest)
            for part in chain:
                arguments = [value, *(next(rest) for _ in part.args[1].fields[1:])]
                value = builder.emit(relax.call_tir(part.args[0], arguments, part.ty_args[0]))
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    return builder.get()["main"]


def _shape(tensor: relax.Expr | relax.TensorType) -> tuple[int, ...]:
    kind = getattr(tensor, "ty", tensor)
    return tuple(int(extent) for extent in kind.shape.values)
