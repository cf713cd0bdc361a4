"""Joins squeeze and excitation into one function: the means of all channels, and two products that make their gates.

m = mean(x); s = fused_conv2d_add_relu(m, w1, b1); e = fused_conv2d_add_sigmoid(s, w2, b2)
-->
e = excitation(x, w1, b1, w2, b2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.graph.again import count_uses
from tilewright.graph.calls import replace_calls
from tilewright.graph.grouping import fuse
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

    def replace(walk: relax.PyExprMutator, call: relax.Call) -> relax.Expr | None:
        chain = chains.get(call)
        if chain is None:
            return None
        names = tuple(part.name for part in chain)
        if names not in made:
            made[names] = walk.builder_.add_func(_whole(chain), KIND)
        return relax.Call(made[names], [walk.visit_expr(operand) for operand in _operands(chain)])

    joined = fuse(replace_calls(module, replace))
    return joined, {**marks, **{str(var.name_hint): Mark(KIND) for var in made.values()}}


@dataclass(frozen=True)
class _Part:
    """A call of a chain.

    Attributes:
        call: of a fused function.
        var: its result.
    """

    call: relax.Call
    var: relax.Var

    @property
    def arguments(self) -> list[relax.Expr]:
        return list(self.call.args[1].fields)

    @property
    def name(self) -> str:
        return str(self.call.args[0].name_hint)


def _find_chains(module: IRModule, marks: Mapping[str, Mark]) -> dict[relax.Call, list[_Part]]:
    """The mean and the products of each squeeze and excitation, by the last of their calls."""
    from tvm import relax

    main = module["main"]
    uses = count_uses(main)
    parts = {
        binding.var: _Part(binding.value, binding.var)
        for block in main.body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and getattr(binding.value.op, "name", "") == "relax.call_tir"
    }

    def before(part: _Part | None, kind: str) -> _Part | None:
        """What gives the first operand of a part of that kind, and is read by nothing else."""
        if part is None or marks[part.name].kind != kind or uses[part.arguments[0]] != 1:
            return None
        return parts.get(part.arguments[0])

    found: dict[relax.Var, list[_Part]] = {}
    for part in parts.values():
        first = before(part, CONTRACTION)
        mean = before(first, CONTRACTION)
        if first is not None and mean is not None and _is_mean(mean, marks) and _of_one_pixel(mean, first, part):
            found[part.var] = [mean, first, part]
        gates = next((a for a in part.arguments if a in found), None)
        if gates is None or uses[gates] != 1 or not part.name.startswith("multiply"):
            continue
        image = found[gates][0].arguments[0]
        if (
            any(a.same_as(image) for a in part.arguments)
            and len(part.arguments) == 2
            and _shape(part.var) == _shape(image)
        ):
            found[part.var] = [*found.pop(gates), part]
    return {chain[-1].call: chain for chain in found.values()}


def _is_mean(part: _Part, marks: Mapping[str, Mark]) -> bool:
    shape = _shape(part.arguments[0])
    alone = marks[part.name].kind == UNMARKED.kind and part.name.startswith("mean") and len(part.arguments) == 1
    return alone and len(shape) == 5 and shape[2] * shape[3] > 1


def _of_one_pixel(*parts: _Part) -> bool:
    return all(len(_shape(part.var)) == 5 and _shape(part.var)[2:4] == (1, 1) for part in parts)


def _operands(chain: Sequence[_Part]) -> list[relax.Expr]:
    """What a chain reads, in order, each once."""
    inside = {part.var for part in chain}
    return [a for a in dict.fromkeys(a for part in chain for a in part.arguments) if a not in inside]


def _whole(chain: Sequence[_Part]) -> relax.Function:
    """A function that calls those of the chain, and that TVM is to fuse."""
    from tvm import relax

    operands = _operands(chain)
    params = [relax.Var(f"p{number}", operand.ty) for number, operand in enumerate(operands)]
    values: dict[relax.Expr, relax.Expr] = dict(zip(operands, params, strict=True))
    builder = relax.BlockBuilder()
    with builder.function("main", params, attrs={"Primitive": True}):
        with builder.dataflow():
            for part in chain:
                arguments = [values[a] for a in part.arguments]
                values[part.var] = builder.emit(relax.call_tir(part.call.args[0], arguments, part.call.ty_args[0]))
            output = builder.emit_output(values[chain[-1].var])
        builder.emit_func_output(output)
    return builder.get()["main"]


def _shape(tensor: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in tensor.ty.shape.values)
