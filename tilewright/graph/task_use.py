"""Makes tasks of the functions of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import ShapeError
from tilewright.ops.mark import Mark, take_mark
from tilewright.task import WEIGHTS, Task

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.tirx import Let, PrimFunc, Sub

__all__ = ["TaskUse", "find_weights", "key_of", "make_use", "strip", "task_of"]


@dataclass(frozen=True)
class TaskUse:
    """A task and its uses in a network.

    Attributes:
        task: the task.
        weight: number of calls in the network.
        functions: names of the fused functions that are this task.
    """

    task: Task
    weight: int
    functions: tuple[str, ...]


def task_of(name: str, function: PrimFunc, weights: tuple[int, ...] = ()) -> Task:
    """The task of a function by itself, into which nothing is fused.

    Args:
        name: the name of the function, from which the task's name is made.
        function: the function of an expression.
        weights: places of the parameters that are weights.
    """
    bare, mark = take_mark(strip(function))
    return make_use(key_of(bare), [name], bare, mark, 1, weights).task


def strip(function: PrimFunc) -> PrimFunc:
    """The function without the attributes of fusion, as tasks have it."""
    return function.without_attr("global_symbol").without_attr("op_pattern")


def key_of(bare: PrimFunc) -> str:
    """The key of the task of a stripped function: functions of equal structure have the same."""
    from tvm_ffi import structural_hash

    return f"{structural_hash(bare, map_free_vars=True) & (1 << 64) - 1:016x}"


def find_weights(main: relax.Function, inputs: int) -> dict[str, tuple[int, ...]]:
    """The places of each function's parameters that are weights (of ``main``, after its inputs) in all calls."""
    from tvm import ir, relax

    own = list(main.params)[inputs:]
    found: dict[str, set[int]] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op) and expr.op.name == "relax.call_tir":
            name = expr.args[0].name_hint
            here = {
                place
                for place, argument in enumerate(expr.args[1])
                if any(argument.same_as(parameter) for parameter in own)
            }
            found[name] = found.get(name, here) & here

    relax.analysis.post_order_visit(main, visit)
    return {name: tuple(sorted(places)) for name, places in found.items()}


def make_use(
    key: str, names: list[str], function: PrimFunc, mark: Mark, weight: int, weights: tuple[int, ...]
) -> TaskUse:
    """A task and its uses.

    Args:
        key: of the task.
        names: of the functions that are it.
        function: one of them, stripped.
        mark: of it.
        weight: the number of their calls.
        weights: places of the parameters that are weights.
    """
    import tvm

    main = function.with_attr("global_symbol", "main")
    for attribute, value in mark.attributes.items():
        main = main.with_attr(attribute, value)
    if weights:
        main = main.with_attr(WEIGHTS, ",".join(map(str, weights)))
    module = tvm.ir.IRModule({"main": main})
    try:
        flop = float(tvm.s_tir.analysis.estimate_tir_flops(tvm.ir.IRModule({"main": _countable(main)})))
    except (RuntimeError, ValueError, TypeError):  # functions that it cannot count (casts, look-ups) move data
        flop = 0.0
    shapes = [_fixed(p.ty, names[0]) for p in function.params]
    # Moving data counts as one operation for each element that is written, so that no task is free.
    flop = max(flop, float(math.prod(shapes[-1])) if shapes else 0.0)
    stem = names[0].removeprefix("fused_").rstrip("0123456789")[:40]
    text = " ".join("x".join(map(str, s)) for s in (shapes[0], shapes[-1])) if shapes else ""
    return TaskUse(Task(key, f"{stem} {text}", mark.kind, flop, tvm.ir.save_json(module)), weight, tuple(names))


def _fixed(tensor: relax.TensorType, function: str) -> list[int]:
    try:
        return [int(d) for d in tensor.shape]
    except (TypeError, ValueError) as exc:
        raise ShapeError(
            f"every tensor has a fixed shape, but an operand or a result of {function} is {tensor}: values decide how "
            "large it is; cut the model before that operator"
        ) from exc


def _countable(function: PrimFunc) -> PrimFunc:
    """The function as TVM counts its operations.

    TVM counts no ``let``, so ``let t = a in b`` --> ``a + b``, which has the operations of a count once. Numbers that
    are made of bits, as weights of 4 bits are, count nothing: ``reinterpret(bits) * scale - shift`` --> ``scale``.
    How often a number is rounded to bfloat16 depends on the program, not on the network. So rounding counts nothing.
    """
    from tvm import ir, tirx
    from tvm_ffi import structural_map

    def of_bits(value: Expr) -> bool:
        return isinstance(value, ir.Call) and getattr(value.op, "name", "") == "tirx.reinterpret"

    def unbound(node: Let) -> Expr:
        if of_bits(node.value) and str(node.body.ty.dtype) == "uint32":  # bits of a rounded number
            return tirx.const(0, "uint32")
        return node.value.astype(node.body.ty.dtype) + node.body

    def plain(node: Sub) -> Expr:
        if not isinstance(node.a, tirx.Mul) or not of_bits(node.a.a):
            return node
        scale = node.a.b
        return scale.a if isinstance(scale, tirx.Mul) else scale

    return function.with_body(structural_map(function.body, ((tirx.Let, unbound), (tirx.Sub, plain))))
