"""Makes the plan of a fused Relax function: the list of its calls, and the place of each tensor in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

from tilewright.executable.buffers import Buffer, place_buffers
from tilewright.executable.parts import find_part
from tilewright.executable.plan import ARENA, GIVEN, SEGMENT_SYMBOL, WEIGHTS, Call, Plan, Tensor, count_bytes
from tilewright.executable.segment import segment_name
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import ir, relax, tirx

__all__ = ["make_plan"]

#: The operators of Relax that become calls of a plan.
_CALLS = ("relax.call_tir", "relax.call_dps_packed")


class _Unplannable(Exception):  # noqa: N818  a signal within this module, not an error for users
    """The network does more than call kernels on tensors of fixed shape."""


@dataclass(frozen=True)
class _Operand:
    """A tensor at the beginning of a buffer, whose place in memory is not decided yet."""

    buffer: Buffer
    shape: tuple[int, ...]
    dtype: str


#: The value of an expression: a tensor, or a list of values for a tuple.
_Value: TypeAlias = Union[_Operand, "list[_Value]"]


@dataclass
class _Planner:
    """Walks through a network and lists its calls.

    Attributes:
        functions: the network's kernels by name.
        alignment: bytes that a tensor's address must be a multiple of.
        weights: how many weights the network has.
        values: the values of the expressions so far.
        calls: the kernels that are called so far, each with its tensors, and how many of these it writes.
        constants: the arrays in the network so far.
        buffers: the buffers in the arena so far.
    """

    functions: dict[str, tirx.PrimFunc]
    alignment: int
    weights: int
    values: dict[relax.Expr, _Value] = field(default_factory=dict)
    calls: list[tuple[str, list[_Operand], int]] = field(default_factory=list)
    constants: list[Array] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)

    def evaluate(self, expr: relax.Expr) -> _Value:
        """The value of an expression. Adds the calls that compute it."""
        from tvm import ir, relax

        if expr in self.values:
            return self.values[expr]
        if isinstance(expr, relax.Tuple):
            return [self.evaluate(f) for f in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            fields = self.evaluate(expr.tuple_value)
            if isinstance(fields, _Operand):
                raise _Unplannable("a field of a tensor")
            return fields[int(expr.index)]
        if isinstance(expr, ir.GenericConst):
            array = np.asarray(expr.value.numpy(), order="C")  # ascontiguousarray would turn a scalar into a vector
            self.constants.append(array)
            number = self.weights + len(self.constants) - 1
            buffer = Buffer(array.nbytes, 0, 0, weight=number, movable=False)
            return _Operand(buffer, tuple(array.shape), str(array.dtype))
        if isinstance(expr, relax.Call):
            return self.evaluate_call(expr)
        raise _Unplannable(type(expr).__name__)

    def evaluate_call(self, expr: relax.Call) -> _Value:
        """The value of a call of a kernel, a segment, a reshape or a concatenation."""
        from tvm import ir, relax

        if isinstance(expr.op, ir.Op) and expr.op.name == "relax.reshape":
            return _Operand(_one_tensor(self.evaluate(expr.args[0])).buffer, *_kind(expr.ty))
        if not isinstance(expr.op, ir.Op) or expr.op.name not in _CALLS or len(expr.args) != 2:
            raise _Unplannable(str(expr.op))
        arguments = [_one_tensor(self.evaluate(a)) for a in expr.args[1].fields]
        now = len(self.calls)
        kinds = list(expr.ty_args[0].fields) if isinstance(expr.ty_args[0], relax.TupleType) else [expr.ty_args[0]]
        shapes = [_kind(k) for k in kinds]
        if expr.op.name == "relax.call_dps_packed":
            results = [_Operand(self.allocate(count_bytes(*s), now), *s) for s in shapes]
            number = str(expr.args[0].global_symbol).removeprefix(SEGMENT_SYMBOL)
            self.add(segment_name(int(number)), [*arguments, *results], len(results))
            return [*results] if isinstance(expr.ty_args[0], relax.TupleType) else results[0]
        name = expr.args[0].name_hint
        function = self.functions[name]
        if len(arguments) == len(shapes) == 1 and relax.analysis.has_reshape_pattern(function):
            return _Operand(arguments[0].buffer, *shapes[0])
        if len(arguments) == len(shapes) == 1 and (part := self.cut(function, arguments[0], *shapes[0])) is not None:
            return part
        if _joins(name, arguments, shapes):
            return self.join(arguments, *shapes[0])
        outputs = [_Operand(self.allocate(count_bytes(*s), now), *s) for s in shapes]
        self.add(name, [*arguments, *outputs], len(outputs))
        return [*outputs] if isinstance(expr.ty_args[0], relax.TupleType) else outputs[0]

    def allocate(self, size: int, first: int) -> Buffer:
        """A new buffer in the arena. Call number ``first`` is the first that uses it."""
        buffer = Buffer(size, first, first)
        self.buffers.append(buffer)
        return buffer

    def add(self, kernel: str, operands: list[_Operand], written: int = 1) -> None:
        """Add a call to the list. It writes the first tensor of a copy, and the last ``written`` ones of a kernel."""
        now = len(self.calls)
        for operand in operands:
            operand.buffer.last = max(operand.buffer.last, now)
        self.calls.append((kernel, operands, written))

    def copy(self, operand: _Operand) -> _Operand:
        """A copy in a buffer of its own, where the network's outputs are."""
        slot = self.allocate(count_bytes(operand.shape, operand.dtype), len(self.calls))
        made = _Operand(slot, operand.shape, operand.dtype)
        self.add("", [made, operand])
        return made

    def cut(self, function: tirx.PrimFunc, operand: _Operand, shape: tuple[int, ...], dtype: str) -> _Operand | None:
        """A part of an operand where it lies; None if the function does more than copy one that can be read there."""
        size = count_bytes(shape, dtype)
        place = None if operand.buffer.weight is not None or size == 0 else find_part(function)
        if place is None:
            return None
        offset = place * (size // math.prod(shape))
        if offset % self.alignment:
            return None
        now = len(self.calls)
        view = Buffer(size, now, now, parent=operand.buffer, offset=offset)
        self.buffers.append(view)
        return _Operand(view, shape, dtype)

    def join(self, parts: list[_Operand], shape: tuple[int, ...], dtype: str) -> _Operand:
        """A concatenation along the outermost axis. Its parts are computed in its buffer, or copied there."""
        whole = self.allocate(count_bytes(shape, dtype), len(self.calls))
        offset = 0
        for part, buffer, size in _merge_parts(parts):
            free = buffer.movable and buffer.parent is None and buffer.weight is None and buffer.bytes == size
            # A kernel needs aligned tensors, since it loads whole vectors.
            if free and offset % self.alignment == 0 and buffer is not whole:
                buffer.parent, buffer.offset = whole, offset
            else:
                slot = Buffer(size, len(self.calls), len(self.calls), parent=whole, offset=offset)
                self.buffers.append(slot)
                self.add("", [_Operand(slot, part.shape, dtype), part])
            offset += size
        return _Operand(whole, shape, dtype)


def _merge_parts(operands: list[_Operand]) -> list[tuple[_Operand, Buffer, int]]:
    """The operands of a concatenation, with the buffer and the bytes of each.

    Parts of a buffer that follow each other and are all of it are the buffer:

    concat(x[:2], x[2:], y)  -->  concat(x, y)
    """
    merged: list[tuple[_Operand, Buffer, int]] = []
    place = 0
    while place < len(operands):
        whole, filled, end = _find_whole(operands[place])[0], 0, place
        while end < len(operands) and _find_whole(operands[end]) == (whole, filled):
            filled += count_bytes(operands[end].shape, operands[end].dtype)
            end += 1
        operand = operands[place]
        if whole is not None and filled == whole.bytes:
            operand = _Operand(whole, (filled // np.dtype(operand.dtype).itemsize,), operand.dtype)
        else:
            end, filled = place + 1, count_bytes(operand.shape, operand.dtype)
        merged.append((operand, operand.buffer, filled))
        place = end
    return merged


def _find_whole(operand: _Operand) -> tuple[Buffer | None, int]:
    """The buffer that an operand is a part of, and where the part begins in bytes; None: it is no part."""
    buffer = operand.buffer
    if buffer.bytes != count_bytes(operand.shape, operand.dtype):
        return buffer, 0  # the first elements
    return buffer.parent, buffer.offset


def _one_tensor(value: _Value) -> _Operand:
    if isinstance(value, list):
        raise _Unplannable("a tuple as an argument")
    return value


def make_plan(module: ir.IRModule, inputs: int, alignment: int, in_place: bool = False) -> Plan | None:
    """The plan of the fused Relax function ``main`` of ``module``.

    Args:
        module: holds ``main(inputs..., weights...)`` and the functions that it calls.
        inputs: how many of the parameters are inputs.
        alignment: bytes that a tensor's address must be a multiple of.
        in_place: whether inputs and outputs are the caller's memory, instead of places in the arena.

    Returns:
        the plan; None if the network does more than call kernels on tensors of known shapes.
    """
    from tvm import tirx

    main = module["main"]
    functions = {v.name_hint: f for v, f in module.functions_items() if isinstance(f, tirx.PrimFunc)}
    planner = _Planner(functions, alignment, len(main.params) - inputs)
    try:
        parameters = []
        for number, param in enumerate(main.params):
            shape, dtype = _kind(param.ty)
            if number < inputs:
                # No other tensor may use an input's memory, since the network may run again on the same inputs.
                buffer = planner.allocate(count_bytes(shape, dtype), 0)
                buffer.movable = False
            else:
                buffer = Buffer(count_bytes(shape, dtype), 0, 0, weight=number - inputs, movable=False)
            parameters.append(_Operand(buffer, shape, dtype))
            planner.values[param] = parameters[-1]
        for block in main.body.blocks:
            for binding in block.bindings:
                planner.values[binding.var] = planner.evaluate(binding.value)
        result = planner.evaluate(main.body.body)
        results = [_one_tensor(r) for r in result] if isinstance(result, list) else [result]
        if any(_calls_out(functions[name]) for name in {name for name, _, _ in planner.calls if name in functions}):
            raise _Unplannable("a kernel that calls a library")
    except _Unplannable:  # then the virtual machine of Relax runs the network
        return None
    if in_place:
        results = _give(planner, parameters[:inputs], results)
        _hurry_moves(planner)
    else:
        results = [planner.copy(r) if r.buffer.weight is not None else r for r in results]
    for operand in [*parameters[:inputs], *results]:
        operand.buffer.last = len(planner.calls)
    return _place(planner, parameters[:inputs], results)


def _give(planner: _Planner, inputs: Sequence[_Operand], results: Sequence[_Operand]) -> list[_Operand]:
    """Number the caller's tensors, inputs first. A result that lies in another tensor is copied out of it."""
    for number, operand in enumerate(inputs):
        operand.buffer.given = number
    given = []
    for number, operand in enumerate(results, len(inputs)):
        buffer = operand.buffer
        part = buffer.bytes != count_bytes(operand.shape, operand.dtype)  # the first elements are a view
        if part or buffer.parent is not None or buffer.weight is not None or buffer.given is not None:
            operand = planner.copy(operand)
        operand.buffer.given = number
        given.append(operand)
    return given


def _hurry_moves(planner: _Planner) -> None:
    """Let a result that is made of one tensor be made as soon as other calls leave that tensor alone.

    A network lists its results at its end. What becomes one there by a move would stay in the arena until then.
    """
    calls: list[tuple[str, list[_Operand], int]] = []
    for call in planner.calls:
        place = len(calls)
        if len(call[1]) == 2:
            source, result = (operand.buffer.root()[0] for operand in (call[1] if call[0] else call[1][::-1]))
            if result.given is not None and source.given is None and source is not result:
                touched = (
                    any(o.buffer.root()[0] is source or o.buffer.root()[0] is result for o in operands)
                    for _, operands, _ in calls[::-1]
                )
                place -= next((back for back, does in enumerate(touched) if does), 0)
        calls.insert(place, call)
    planner.calls[:] = calls
    for buffer in planner.buffers:
        buffer.first, buffer.last = len(calls), 0
    for number, (_, operands, _) in enumerate(calls):
        for operand in operands:
            buffer = operand.buffer
            buffer.first, buffer.last = min(buffer.first, number), max(buffer.last, number)
    for buffer in planner.buffers:
        buffer.first = min(buffer.first, buffer.last)


def _place(planner: _Planner, inputs: Sequence[_Operand], outputs: Sequence[_Operand]) -> Plan:
    """Decide where all tensors lie."""
    for buffer in planner.buffers:
        root, _ = buffer.root()
        root.first, root.last = min(root.first, buffer.first), max(root.last, buffer.last)
    roots = [b for b in planner.buffers if b.parent is None and b.given is None]
    offsets = place_buffers(roots)
    tensors: dict[Tensor, int] = {}

    def number(operand: _Operand) -> int:
        if operand.buffer.weight is not None:
            tensor = Tensor(WEIGHTS, operand.buffer.weight, operand.shape, operand.dtype)
        else:
            root, offset = operand.buffer.root()
            if root.given is not None:
                tensor = Tensor(f"{GIVEN}{root.given}", offset, operand.shape, operand.dtype)
            else:
                tensor = Tensor(ARENA, offsets[id(root)] + offset, operand.shape, operand.dtype)
        return tensors.setdefault(tensor, len(tensors))

    calls = tuple(Call(name, tuple(map(number, operands)), written) for name, operands, written in planner.calls)
    ins, outs = tuple(map(number, inputs)), tuple(map(number, outputs))
    size = max((offsets[id(r)] + r.bytes for r in roots), default=0)
    return Plan(size, tuple(tensors), calls, ins, outs, tuple(planner.constants), planner.alignment)


def _kind(tensor: relax.TensorType) -> tuple[tuple[int, ...], str]:
    """The shape and the dtype of a tensor's type."""
    from tvm import relax, tirx

    if not isinstance(tensor, relax.TensorType) or not isinstance(tensor.shape, relax.ShapeExpr):
        raise _Unplannable("not a tensor, or one of unknown shape")
    if not all(isinstance(d, int | tirx.IntImm) for d in tensor.shape.values):
        raise _Unplannable("a tensor of symbolic shape")
    dtype = str(tensor.dtype)
    try:
        np.dtype(dtype)
    except TypeError:
        raise _Unplannable(f"{dtype}, which NumPy does not have") from None
    return tuple(int(d) for d in tensor.shape.values), dtype


def _joins(name: str, arguments: list[_Operand], shapes: list[tuple[tuple[int, ...], str]]) -> bool:
    """Whether a call only concatenates its arguments in memory."""
    if not name.startswith("concatenate") or len(shapes) != 1 or len(arguments) < 2:
        return False
    (shape, dtype), parts = shapes[0], [a.shape for a in arguments]
    if any(a.dtype != dtype or len(a.shape) != len(shape) for a in arguments):
        return False
    axis = next((i for i, d in enumerate(shape) if any(p[i] != d for p in parts)), -1)
    others = all(p[:axis] + p[axis + 1 :] == shape[:axis] + shape[axis + 1 :] for p in parts)
    return axis >= 0 and others and sum(p[axis] for p in parts) == shape[axis] and math.prod(shape[:axis]) == 1


def _calls_out(function: tirx.PrimFunc) -> bool:
    """Whether a kernel calls a function of a library by its name. Our runtime has no such functions."""
    from tvm.ir import Call, Op
    from tvm_ffi import structural_walk

    names: set[str] = set()

    def see(call: Call) -> None:
        if isinstance(call.op, Op):
            names.add(call.op.name)

    structural_walk(function.body, ((Call, see),))
    return any("call_packed" in name or "call_cpacked" in name for name in names)
