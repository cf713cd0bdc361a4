"""A network as a list of kernel calls on tensors whose places in memory are decided before it runs.

Nothing is allocated while the network runs. Tensors that are not alive at the same time share memory. The result of a
reshape has the same bytes as its operand. The operands of a concatenation are written where their copies would lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias, TypedDict, Union

import numpy as np

from tilewright.executable.buffers import Buffer, place_buffers
from tilewright.executable.segment import is_segment, segment_name
from tilewright.jsonable import Json
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import ir, relax, tirx

__all__ = ["ARENA", "SEGMENT_SYMBOL", "WEIGHTS", "Call", "Plan", "PlanJson", "Tensor", "make_plan"]

#: The name of the external function in Relax that stands for a segment, without the segment's number.
SEGMENT_SYMBOL = "tilewright_segment"
#: The operators of Relax that a plan has calls for.
_CALLS = ("relax.call_tir", "relax.call_dps_packed")
#: The regions of memory: the arena holds inputs, outputs and intermediate results.
ARENA, WEIGHTS = "arena", "weights"


@dataclass(frozen=True)
class Tensor:
    """A tensor and its place.

    Attributes:
        region: ``ARENA`` or ``WEIGHTS``.
        place: the offset in the arena in bytes, or the number of the weight.
        shape: the tensor's shape.
        dtype: NumPy's name of its dtype.
    """

    region: str
    place: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """The tensor's size in bytes."""
        return _bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class Call:
    """A call of a kernel or of a segment, or a copy.

    Attributes:
        kernel: the name of the kernel's function, or of the segment (``segment.segment_name``); empty: a copy.
        tensors: the numbers of a kernel's inputs, then those of its outputs; of a copy: to, from.
    """

    kernel: str
    tensors: tuple[int, ...]


class PlanJson(TypedDict):
    """A plan as JSON-able data.

    ``tensors`` has ``[region, place, shape, dtype]`` for each tensor; ``calls`` has ``[kernel, tensors]`` for each.
    """

    arena_bytes: int
    vector: int
    tensors: list[list[Json]]
    calls: list[list[Json]]
    inputs: list[int]
    outputs: list[int]


@dataclass(frozen=True)
class Plan:
    """The calls of a network in their order, and the tensors that they are made on.

    Attributes:
        arena_bytes: the size of the arena.
        tensors: every tensor that a call names.
        calls: the calls in the order in which they run.
        inputs: the numbers of the network's inputs among the tensors.
        outputs: the numbers of its outputs.
        constants: the arrays in the network itself. Their tensors are weights that follow the network's weights.
        vector: bytes that a tensor's address is a multiple of: the size of the target's vector register.
    """

    arena_bytes: int
    tensors: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[Array, ...] = ()
    vector: int = 16

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of all kernels, each once. Segments are not among them."""
        names = dict.fromkeys(call.kernel for call in self.calls if call.kernel)
        return tuple(name for name in names if not is_segment(name))

    def rename_kernels(self, names: Mapping[str, str]) -> Plan:
        """The plan with other kernels: ``names`` has the new name by the old one."""
        calls = tuple(replace(call, kernel=names.get(call.kernel, call.kernel)) for call in self.calls)
        return replace(self, calls=calls)

    def to_json(self) -> PlanJson:
        """The plan without its constants, which are kept with the weights."""
        return {
            "arena_bytes": self.arena_bytes,
            "vector": self.vector,
            "tensors": [[t.region, t.place, list(t.shape), t.dtype] for t in self.tensors],
            "calls": [[c.kernel, list(c.tensors)] for c in self.calls],
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
        }

    @classmethod
    def from_json(cls, data: PlanJson) -> Plan:
        """The plan that :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: ``data`` is of another form.
        """
        return cls(
            _number(data["arena_bytes"]),
            tuple(Tensor(_text(r), _number(p), _numbers(s), _text(d)) for r, p, s, d in data["tensors"]),
            tuple(Call(_text(k), _numbers(t)) for k, t in data["calls"]),
            _numbers(data["inputs"]),
            _numbers(data["outputs"]),
            vector=_number(data.get("vector", 16)),  # earlier plans have no entry for it
        )

    @property
    def used_bytes(self) -> int:
        """The bytes of the arena up to the end of its last tensor. A plan that claims a larger arena gets no more."""
        return max((t.place + t.bytes for t in self.tensors if t.region == ARENA), default=0)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"a plan has integers from 0 to 2**63 - 1, but this is {value!r:.80}")
    return value


def _numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise ValueError(f"a plan has a list of integers here, but this is {values!r:.80}")
    return tuple(map(_number, values))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a plan has a text here, but this is {value!r:.80}")
    return str(value)  # TVM's texts are of a class of their own


class _Unplannable(Exception):  # noqa: N818  a signal within this module, not an error for users
    """The network does more than call kernels on tensors of fixed shape."""


@dataclass(frozen=True)
class _Operand:
    """A tensor whose place is not decided yet: a shape and a dtype for the bytes at the beginning of a buffer."""

    buffer: Buffer
    shape: tuple[int, ...]
    dtype: str


#: The value of an expression: a tensor, or a list for a tuple.
_Value: TypeAlias = Union[_Operand, "list[_Value]"]


@dataclass
class _Planner:
    """Walks through a network and lists its calls.

    Attributes:
        functions: the network's kernels by name.
        alignment: bytes that a tensor's address must be a multiple of.
        weights: how many weights the network has.
        values: the values of the expressions so far.
        calls: the kernels that are called so far, each with its tensors.
        constants: the arrays in the network so far.
        buffers: the buffers in the arena so far.
    """

    functions: dict[str, tirx.PrimFunc]
    alignment: int
    weights: int
    values: dict[relax.Expr, _Value] = field(default_factory=dict)
    calls: list[tuple[str, list[_Operand]]] = field(default_factory=list)
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
            array = np.asarray(expr.value.numpy(), order="C")  # ascontiguousarray makes vectors of scalars
            self.constants.append(array)
            number = self.weights + len(self.constants) - 1
            buffer = Buffer(array.nbytes, 0, 0, weight=number, movable=False)
            return _Operand(buffer, tuple(array.shape), str(array.dtype))
        if isinstance(expr, relax.Call):
            return self.evaluate_call(expr)
        raise _Unplannable(type(expr).__name__)

    def evaluate_call(self, expr: relax.Call) -> _Value:
        """The value of a call: of a kernel, a reshape, or a concatenation."""
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
            results = [_Operand(self.allocate(_bytes(*s), now), *s) for s in shapes]
            number = str(expr.args[0].global_symbol).removeprefix(SEGMENT_SYMBOL)
            self.add(segment_name(int(number)), [*arguments, *results])
            return [*results] if isinstance(expr.ty_args[0], relax.TupleType) else results[0]
        name = expr.args[0].name_hint
        function = self.functions[name]
        if len(arguments) == len(shapes) == 1 and relax.analysis.has_reshape_pattern(function):
            return _Operand(arguments[0].buffer, *shapes[0])
        if _joins(name, arguments, shapes):
            return self.join(arguments, *shapes[0])
        outputs = [_Operand(self.allocate(_bytes(*s), now), *s) for s in shapes]
        self.add(name, [*arguments, *outputs])
        return [*outputs] if isinstance(expr.ty_args[0], relax.TupleType) else outputs[0]

    def allocate(self, size: int, first: int) -> Buffer:
        """A new buffer in the arena, which the call number ``first`` is the first to need."""
        buffer = Buffer(size, first, first)
        self.buffers.append(buffer)
        return buffer

    def add(self, kernel: str, operands: list[_Operand]) -> None:
        """Add a call to the list."""
        now = len(self.calls)
        for operand in operands:
            operand.buffer.last = max(operand.buffer.last, now)
        self.calls.append((kernel, operands))

    def copy(self, operand: _Operand) -> _Operand:
        """A copy of a weight in the arena, where the network's outputs are."""
        slot = self.allocate(_bytes(operand.shape, operand.dtype), len(self.calls))
        made = _Operand(slot, operand.shape, operand.dtype)
        self.add("", [made, operand])
        return made

    def join(self, parts: list[_Operand], shape: tuple[int, ...], dtype: str) -> _Operand:
        """A concatenation along the outermost axis in memory. Its parts move into its buffer, or are copied there."""
        whole = self.allocate(_bytes(shape, dtype), len(self.calls))
        offset = 0
        for part in parts:
            size = _bytes(part.shape, part.dtype)
            buffer = part.buffer
            free = buffer.movable and buffer.parent is None and buffer.weight is None and buffer.bytes == size
            # A kernel loads whole vectors from where its tensors begin.
            if free and offset % self.alignment == 0 and buffer is not whole:
                buffer.parent, buffer.offset = whole, offset
            else:
                slot = Buffer(size, len(self.calls), len(self.calls), parent=whole, offset=offset)
                self.buffers.append(slot)
                self.add("", [_Operand(slot, part.shape, dtype), part])
            offset += size
        return _Operand(whole, shape, dtype)


def _one_tensor(value: _Value) -> _Operand:
    if isinstance(value, list):
        raise _Unplannable("a tuple as an argument")
    return value


def make_plan(module: ir.IRModule, inputs: int, alignment: int) -> Plan | None:
    """The plan of the fused Relax function ``main`` of ``module``.

    Args:
        module: holds ``main(inputs..., weights...)`` and the functions that it calls.
        inputs: how many of the parameters are inputs.
        alignment: bytes that a tensor's address must be a multiple of.

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
                # An input needs its memory throughout, since the network may run again on the same inputs.
                buffer = planner.allocate(_bytes(shape, dtype), 0)
                buffer.movable = False
            else:
                buffer = Buffer(_bytes(shape, dtype), 0, 0, weight=number - inputs, movable=False)
            parameters.append(_Operand(buffer, shape, dtype))
            planner.values[param] = parameters[-1]
        for block in main.body.blocks:
            for binding in block.bindings:
                planner.values[binding.var] = planner.evaluate(binding.value)
        result = planner.evaluate(main.body.body)
        results = [_one_tensor(r) for r in result] if isinstance(result, list) else [result]
        if any(_calls_out(functions[name]) for name in {name for name, _ in planner.calls if name in functions}):
            raise _Unplannable("a kernel that calls a library")
    except _Unplannable:  # the virtual machine of Relax serves what is left
        return None
    results = [planner.copy(r) if r.buffer.weight is not None else r for r in results]
    for operand in [*parameters[:inputs], *results]:
        operand.buffer.last = len(planner.calls)
    return _place(planner, parameters[:inputs], results)


def _place(planner: _Planner, inputs: Sequence[_Operand], outputs: Sequence[_Operand]) -> Plan:
    """Decide where all tensors lie."""
    for buffer in planner.buffers:
        root, _ = buffer.root()
        root.first, root.last = min(root.first, buffer.first), max(root.last, buffer.last)
    roots = [b for b in planner.buffers if b.parent is None]
    offsets = place_buffers(roots)
    tensors: dict[Tensor, int] = {}

    def number(operand: _Operand) -> int:
        if operand.buffer.weight is not None:
            tensor = Tensor(WEIGHTS, operand.buffer.weight, operand.shape, operand.dtype)
        else:
            root, offset = operand.buffer.root()
            tensor = Tensor(ARENA, offsets[id(root)] + offset, operand.shape, operand.dtype)
        return tensors.setdefault(tensor, len(tensors))

    calls = tuple(Call(name, tuple(map(number, operands))) for name, operands in planner.calls)
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
    """Whether a call only writes its arguments one after the other."""
    if not name.startswith("concatenate") or len(shapes) != 1 or len(arguments) < 2:
        return False
    (shape, dtype), parts = shapes[0], [a.shape for a in arguments]
    if any(a.dtype != dtype or len(a.shape) != len(shape) for a in arguments):
        return False
    axis = next((i for i, d in enumerate(shape) if any(p[i] != d for p in parts)), -1)
    others = all(p[:axis] + p[axis + 1 :] == shape[:axis] + shape[axis + 1 :] for p in parts)
    return axis >= 0 and others and sum(p[axis] for p in parts) == shape[axis] and math.prod(shape[:axis]) == 1


def _calls_out(function: tirx.PrimFunc) -> bool:
    """Whether a kernel needs more than the runtime: it calls a library's function by name."""
    import tvm

    # TVM 0.27 has a visitor of statements in C++ only. Its JSON has the name of each operator.
    text = tvm.ir.save_json(function)
    return "call_packed" in text or "call_cpacked" in text


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
