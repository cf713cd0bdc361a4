"""A network as a list of kernel calls on tensors whose places in memory are decided before it runs.

Nothing is allocated while the network runs. Tensors that are not alive at the same time share memory, a reshape is
another view of the same bytes, and what a concatenation joins is written where the concatenation would copy it to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIGNMENT", "ARENA", "WEIGHTS", "Call", "Plan", "Tensor", "make_plan"]

#: Bytes that every buffer's address is a multiple of: a cache line, which no vector register exceeds.
ALIGNMENT = 64
#: Where a tensor is: in the memory shared by all that is computed, or among the weights.
ARENA, WEIGHTS = "arena", "weights"


@dataclass(frozen=True)
class Tensor:
    """A tensor and its place.

    Attributes:
        region: ``ARENA`` or ``WEIGHTS``.
        place: offset in bytes in the arena, or number of the weight.
        shape: its shape.
        dtype: its dtype, in NumPy's words.
    """

    region: str
    place: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """How many bytes it has."""
        return _bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class Call:
    """A kernel and its arguments, or a copy.

    Attributes:
        kernel: name of the function, or empty for a copy.
        tensors: numbers of the tensors: inputs, then outputs; of a copy: to, from.
    """

    kernel: str
    tensors: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What runs, in order, on what.

    Attributes:
        arena_bytes: size of the arena.
        tensors: every tensor that a call names.
        calls: in the order in which they run.
        inputs: numbers of the network's inputs among the tensors.
        outputs: numbers of its outputs.
        constants: arrays in the network itself; their tensors follow the weights'.
        vector: bytes that a tensor's address is a multiple of: the target's vector register.
    """

    arena_bytes: int
    tensors: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[NDArray[Any], ...] = ()
    vector: int = 16

    @property
    def kernels(self) -> tuple[str, ...]:
        """The functions that are called, each once."""
        return tuple(dict.fromkeys(call.kernel for call in self.calls if call.kernel))

    def calling(self, names: Mapping[str, str]) -> Plan:
        """The plan with other names for its kernels."""
        calls = tuple(replace(call, kernel=names.get(call.kernel, call.kernel)) for call in self.calls)
        return replace(self, calls=calls)

    def to_json(self) -> dict[str, Any]:
        """Without the constants, which are kept with the weights."""
        return {
            "arena_bytes": self.arena_bytes,
            "vector": self.vector,
            "tensors": [[t.region, t.place, list(t.shape), t.dtype] for t in self.tensors],
            "calls": [[c.kernel, list(c.tensors)] for c in self.calls],
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """What :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        return cls(
            _number(data["arena_bytes"]),
            tuple(Tensor(_text(r), _number(p), tuple(map(_number, s)), _text(d)) for r, p, s, d in data["tensors"]),
            tuple(Call(_text(k), tuple(map(_number, t))) for k, t in data["calls"]),
            tuple(map(_number, data["inputs"])),
            tuple(map(_number, data["outputs"])),
            vector=_number(data.get("vector", 16)),  # earlier plans do not say it
        )

    @property
    def used_bytes(self) -> int:
        """Bytes of the arena that tensors lie in: a plan that claims a larger arena gets no more."""
        return max((t.place + t.bytes for t in self.tensors if t.region == ARENA), default=0)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"a plan has integers from 0 to 2**63 - 1, but this is {value!r:.80}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a plan has a text here, but this is {value!r:.80}")
    return str(value)  # TVM's texts are a class of their own


class _Unplannable(Exception):  # noqa: N818  a signal within this module, no error of the user's
    """The network does something that is no call of a kernel on tensors of fixed shape."""


@dataclass
class _Buffer:
    """A piece of memory: one that is placed in a larger one has a parent."""

    bytes: int
    first: int
    last: int
    parent: _Buffer | None = None
    offset: int = 0
    weight: int | None = None
    movable: bool = True

    def root(self) -> tuple[_Buffer, int]:
        buffer, offset = self, 0
        while buffer.parent is not None:
            buffer, offset = buffer.parent, offset + buffer.offset
        return buffer, offset


@dataclass(frozen=True)
class _View:
    """A tensor: the bytes of a buffer from its start on."""

    buffer: _Buffer
    shape: tuple[int, ...]
    dtype: str


@dataclass
class _Planner:
    functions: dict[str, Any]
    alignment: int
    weights: int
    values: dict[Any, Any] = field(default_factory=dict)
    calls: list[tuple[str, list[_View]]] = field(default_factory=list)
    constants: list[NDArray[Any]] = field(default_factory=list)
    buffers: list[_Buffer] = field(default_factory=list)

    def value(self, expr: Any) -> Any:
        """A view, or a list of such for a tuple."""
        from tvm import ir, relax

        if expr in self.values:
            return self.values[expr]
        if isinstance(expr, relax.Tuple):
            return [self.value(f) for f in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self.value(expr.tuple_value)[int(expr.index)]
        if isinstance(expr, ir.GenericConst):
            array = np.asarray(expr.value.numpy(), order="C")  # ascontiguousarray makes vectors of scalars
            self.constants.append(array)
            number = self.weights + len(self.constants) - 1
            buffer = _Buffer(array.nbytes, 0, 0, weight=number, movable=False)
            return _View(buffer, tuple(array.shape), str(array.dtype))
        if isinstance(expr, relax.Call):
            return self.call(expr)
        raise _Unplannable(type(expr).__name__)

    def call(self, expr: Any) -> Any:
        from tvm import ir, relax

        if isinstance(expr.op, ir.Op) and expr.op.name == "relax.reshape":
            source = self.value(expr.args[0])
            if isinstance(source, list):
                raise _Unplannable("a tuple as an argument")
            return _View(source.buffer, *_kind(expr.ty))
        if not isinstance(expr.op, ir.Op) or expr.op.name != "relax.call_tir" or len(expr.args) != 2:
            raise _Unplannable(str(expr.op))
        name = expr.args[0].name_hint
        arguments = [self.value(a) for a in expr.args[1].fields]
        if any(isinstance(a, list) for a in arguments):
            raise _Unplannable("a tuple as an argument")
        now = len(self.calls)
        function = self.functions[name]
        kinds = list(expr.ty_args[0].fields) if isinstance(expr.ty_args[0], relax.TupleType) else [expr.ty_args[0]]
        shapes = [_kind(k) for k in kinds]
        if len(arguments) == len(shapes) == 1 and relax.analysis.has_reshape_pattern(function):
            return _View(arguments[0].buffer, *shapes[0])
        if _joins(name, arguments, shapes):
            return self.join(arguments, *shapes[0])
        outputs = [_View(self.allocate(_bytes(*s), now), *s) for s in shapes]
        self.add(name, [*arguments, *outputs])
        return outputs if isinstance(expr.ty_args[0], relax.TupleType) else outputs[0]

    def allocate(self, size: int, first: int) -> _Buffer:
        buffer = _Buffer(size, first, first)
        self.buffers.append(buffer)
        return buffer

    def add(self, kernel: str, views: list[_View]) -> None:
        now = len(self.calls)
        for view in views:
            view.buffer.last = max(view.buffer.last, now)
        self.calls.append((kernel, views))

    def join(self, parts: list[_View], shape: tuple[int, ...], dtype: str) -> _View:
        """A concatenation along the outermost axis in memory: its parts move into it, or are copied."""
        whole = self.allocate(_bytes(shape, dtype), len(self.calls))
        offset = 0
        for part in parts:
            size = _bytes(part.shape, part.dtype)
            buffer = part.buffer
            free = buffer.movable and buffer.parent is None and buffer.weight is None and buffer.bytes == size
            # Kernels load whole vectors from where their tensors begin.
            if free and offset % self.alignment == 0 and buffer is not whole:
                buffer.parent, buffer.offset = whole, offset
            else:
                slot = _Buffer(size, len(self.calls), len(self.calls), parent=whole, offset=offset)
                self.buffers.append(slot)
                self.add("", [_View(slot, part.shape, dtype), part])
            offset += size
        return _View(whole, shape, dtype)


def make_plan(module: Any, inputs: int, alignment: int) -> Plan | None:
    """The plan of the fused Relax function ``main`` of ``module``.

    Args:
        module: ``main(inputs..., weights...)`` and the functions it calls.
        inputs: how many of the parameters are inputs.
        alignment: bytes that a tensor's address must be a multiple of.

    Returns:
        The plan, or None where the network does more than call kernels on tensors of known shapes.
    """
    from tvm import tirx

    main = module["main"]
    functions = {v.name_hint: f for v, f in module.functions_items() if isinstance(f, tirx.PrimFunc)}
    planner = _Planner(functions, alignment, len(main.params) - inputs)
    try:
        views = []
        for number, param in enumerate(main.params):
            shape, dtype = _kind(param.ty)
            if number < inputs:
                # Alive throughout: a network may be run again on the inputs it has.
                buffer = planner.allocate(_bytes(shape, dtype), 0)
                buffer.movable = False
            else:
                buffer = _Buffer(_bytes(shape, dtype), 0, 0, weight=number - inputs, movable=False)
            views.append(_View(buffer, shape, dtype))
            planner.values[param] = views[-1]
        for block in main.body.blocks:
            for binding in block.bindings:
                planner.values[binding.var] = planner.value(binding.value)
        result = planner.value(main.body.body)
        results = result if isinstance(result, list) else [result]
        if any(isinstance(r, list) for r in results):
            raise _Unplannable("a tuple in a tuple")
        if any(_calls_out(functions[name]) for name in {name for name, _ in planner.calls if name}):
            raise _Unplannable("a kernel that calls a library")
    except _Unplannable:  # the virtual machine of Relax serves what is left
        return None
    if any(r.buffer.weight is not None for r in results):
        return None
    for view in [*views[:inputs], *results]:
        view.buffer.last = len(planner.calls)
    return _placed(planner, views[:inputs], results)


def _placed(planner: _Planner, inputs: Sequence[_View], outputs: Sequence[_View]) -> Plan:
    for buffer in planner.buffers:
        root, _ = buffer.root()
        root.first, root.last = min(root.first, buffer.first), max(root.last, buffer.last)
    roots = [b for b in planner.buffers if b.parent is None]
    offsets = _offsets(roots)
    tensors: dict[Tensor, int] = {}

    def number(view: _View) -> int:
        if view.buffer.weight is not None:
            tensor = Tensor(WEIGHTS, view.buffer.weight, view.shape, view.dtype)
        else:
            root, offset = view.buffer.root()
            tensor = Tensor(ARENA, offsets[id(root)] + offset, view.shape, view.dtype)
        return tensors.setdefault(tensor, len(tensors))

    calls = tuple(Call(name, tuple(number(v) for v in views)) for name, views in planner.calls)
    ins, outs = tuple(number(v) for v in inputs), tuple(number(v) for v in outputs)
    size = max((offsets[id(r)] + r.bytes for r in roots), default=0)
    return Plan(size, tuple(tensors), calls, ins, outs, tuple(planner.constants), planner.alignment)


def _offsets(buffers: Sequence[_Buffer]) -> dict[int, int]:
    """Where each buffer goes: the largest first, each at the lowest place free for as long as it lives."""
    ordered = sorted(buffers, key=lambda b: (-b.bytes, b.first))
    first, last = (np.asarray([getattr(b, name) for b in ordered], dtype=np.int64) for name in ("first", "last"))
    starts = np.zeros(len(ordered), dtype=np.int64)
    for number, buffer in enumerate(ordered):
        offset = 0
        alive = np.flatnonzero((first[:number] <= buffer.last) & (buffer.first <= last[:number]))
        for other in alive[np.argsort(starts[alive], kind="stable")]:
            start = int(starts[other])
            if offset + buffer.bytes <= start:
                break
            offset = max(offset, -(-(start + ordered[other].bytes) // ALIGNMENT) * ALIGNMENT)
        starts[number] = offset
    return {id(buffer): int(start) for buffer, start in zip(ordered, starts, strict=True)}


def _kind(tensor: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of a tensor's type."""
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


def _joins(name: str, arguments: list[_View], shapes: list[tuple[tuple[int, ...], str]]) -> bool:
    """Whether the call only writes its arguments one after the other."""
    if not name.startswith("concatenate") or len(shapes) != 1 or len(arguments) < 2:
        return False
    (shape, dtype), parts = shapes[0], [a.shape for a in arguments]
    if any(a.dtype != dtype or len(a.shape) != len(shape) for a in arguments):
        return False
    axis = next((i for i, d in enumerate(shape) if any(p[i] != d for p in parts)), -1)
    others = all(p[:axis] + p[axis + 1 :] == shape[:axis] + shape[axis + 1 :] for p in parts)
    return axis >= 0 and others and sum(p[axis] for p in parts) == shape[axis] and math.prod(shape[:axis]) == 1


def _calls_out(function: Any) -> bool:
    """Whether a kernel needs more than the runtime: it calls a function of some library by name."""
    import tvm

    # TVM 0.27 shows the visitor of statements to C++ only; in JSON an operator stands by its name.
    text = tvm.ir.save_json(function)
    return "call_packed" in text or "call_cpacked" in text


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
