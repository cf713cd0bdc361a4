"""The form of an element-wise function: its axes, its steps, and how each buffer lies along the axes.

A function is element-wise if each element of its results depends only on the elements at the same place of its
operands, which may be broadcast. All steps of such a function can run in one pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.space.inlining import count_loads

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, TensorLoad, Var
    from tvm.s_tir import SBlock, SBlockRealize, Schedule
    from tvm.s_tir.schedule import SBlockRV
    from tvm.tirx import For

__all__ = ["Axis", "Form", "Step", "read_form"]

#: For each dimension of a buffer, the dimension of the results that it lies along; None if it has one element.
Places = tuple[int | None, ...]


@dataclass(frozen=True)
class Axis:
    """Neighbouring dimensions of the results, as one axis. A buffer holds all of them contiguously, or none.

    Attributes:
        dims: the dimensions, from outside in.
        extent: number of elements of the dimensions together.
    """

    dims: tuple[int, ...]
    extent: int


@dataclass(frozen=True)
class Step:
    """One block: it computes one element of ``buffer`` per iteration.

    Attributes:
        buffer: the buffer that the block writes.
        value: the value of an element, an expression of ``variables`` and loads.
        variables: the block's iteration variables, one for each dimension of ``buffer``.
        loads: how often ``value`` loads from each buffer.
    """

    buffer: Var
    value: Expr
    variables: tuple[Var, ...]
    loads: Counter[Var]


@dataclass(frozen=True)
class Form:
    """An element-wise function.

    Attributes:
        shape: of its results.
        axes: of the results, from outside in, without those of extent 1.
        steps: in an order in which they can run.
        places: of every buffer.
        params: the function's parameters.
        results: the parameters that are written.
        bytes: of an element of the widest dtype.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    steps: tuple[Step, ...]
    places: dict[Var, Places]
    params: tuple[Var, ...]
    results: tuple[Var, ...]
    bytes: int

    @property
    def work(self) -> int:
        """Elements that all steps compute together."""
        return math.prod(self.shape) * len(self.steps)


def read_form(module: IRModule) -> Form:
    """The element-wise function ``main`` of a module.

    Raises:
        FormError: the function is not element-wise.
    """
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    handles = schedule.get_child_blocks(schedule.get_sblock("root"))
    steps = []
    for handle in handles:
        block = schedule.get(handle)
        _check_alone(schedule, handle, block)
        steps.append(_read_step(block))
    if not steps:
        raise FormError("an element-wise function computes something")
    params = tuple(module["main"].params)
    results = tuple(p for p in params if any(step.buffer.same_as(p) for step in steps))
    shapes = {_shape(p) for p in results}
    if len(shapes) != 1:
        raise FormError("the results of an element-wise function have one shape")
    (shape,) = shapes
    places = _place_buffers(steps, results, shape)
    if any(not _is_plain(buffer) for buffer in places):
        raise FormError("the buffers of an element-wise function are whole tensors")
    read = [buffer for buffer in places if any(buffer.same_as(p) for p in params)]
    axes = _axes(shape, [places[buffer] for buffer in read])
    widest = max(_bytes(buffer) for buffer in places)
    return Form(shape, axes, tuple(steps), places, params, results, widest)


def _check_alone(schedule: Schedule, handle: SBlockRV, block: SBlock) -> None:
    """Raise ``FormError`` unless a block runs once for each element, by loops of its own."""
    loops = schedule.get_loops(handle)
    if not loops:
        raise FormError("each block of an element-wise function has loops of its own")
    node: For | SBlockRealize = schedule.get(loops[0])
    variables = []
    for _ in loops:
        variables.append(node.loop_var)
        node = node.body
    alone = hasattr(node, "iter_values") and node.block.same_as(block)
    if not alone or int(getattr(node.predicate, "value", 0)) != 1:
        raise FormError("each block of an element-wise function has loops of its own")
    values = list(node.iter_values)
    if len(values) != len(variables) or not all(a.same_as(b) for a, b in zip(values, variables, strict=True)):
        raise FormError("each block of an element-wise function runs over its elements in order")


def _read_step(block: SBlock) -> Step:
    from tvm.tirx import BufferStore

    store = block.body
    if any(int(v.iter_type) != 0 for v in block.iter_vars):
        raise FormError("an element-wise function reduces nothing")
    if not isinstance(store, BufferStore) or block.init is not None or block.match_buffers or block.alloc_buffers:
        raise FormError("a block of an element-wise function stores one element")
    variables = tuple(v.var for v in block.iter_vars)
    extents = tuple(int(v.dom.extent) for v in block.iter_vars)
    indices = list(store.indices)
    same = len(indices) == len(variables) and all(i.same_as(v) for i, v in zip(indices, variables, strict=True))
    if not same or extents != _shape(store.buffer):
        raise FormError("a block of an element-wise function computes its result in order")
    return Step(store.buffer, store.value, variables, count_loads(block))


def _place_buffers(steps: Sequence[Step], results: Sequence[Var], shape: tuple[int, ...]) -> dict[Var, Places]:
    """The places of each buffer, which are the same wherever it is read."""
    whole = tuple(d if extent > 1 else None for d, extent in enumerate(shape))
    places: dict[Var, Places] = dict.fromkeys(results, whole)
    for step in reversed(steps):
        if step.buffer not in places:
            raise FormError("every step of an element-wise function is a result, or read by a later one")
        own = {v: places[step.buffer][d] for d, v in enumerate(step.variables)}
        for load in _loads(step.value):
            place = _place_load(load, own, shape)
            if places.setdefault(load.source, place) != place:
                raise FormError("a buffer of an element-wise function is read in one way")
    return places


def _loads(value: Expr) -> list[TensorLoad]:
    from tvm.ir import TensorLoad
    from tvm_ffi import structural_walk

    found: list[TensorLoad] = []
    structural_walk(value, (TensorLoad, found.append))
    return found


def _place_load(load: TensorLoad, own: dict[Var, int | None], shape: tuple[int, ...]) -> Places:
    """The places of the buffer that ``load`` reads.

    Args:
        load: the load.
        own: the places of the variables of the step that loads.
        shape: of the results.
    """
    place: list[int | None] = []
    for index, extent in zip(load.indices, _shape(load.source), strict=True):
        dim = own.get(index)
        if extent == 1:
            place.append(None)
        elif dim is not None and extent == shape[dim]:  # a slice from the start reads a part of an operand
            place.append(dim)
        else:
            raise FormError("an element-wise function reads its operands where it writes its results")
    named = [p for p in place if p is not None]
    if named != sorted(set(named)):
        raise FormError("an element-wise function reads its operands in the order of its results")
    return tuple(place)


def _axes(shape: tuple[int, ...], read: Sequence[Places]) -> tuple[Axis, ...]:
    """The axes of the results: neighbouring dimensions are merged if all buffers have both or neither."""
    groups: list[list[int]] = []
    presence = {d: tuple(d in places for places in read) for d, extent in enumerate(shape) if extent > 1}
    for d, has in presence.items():
        if groups and presence[groups[-1][-1]] == has:
            groups[-1].append(d)
        else:
            groups.append([d])
    return tuple(Axis(tuple(dims), math.prod(shape[d] for d in dims)) for dims in groups)


def _shape(buffer: Var) -> tuple[int, ...]:
    extents = buffer.ty.shape
    if not all(isinstance(getattr(e, "value", e), int) for e in extents):
        raise FormError("the buffers of an element-wise function have fixed shapes")
    return tuple(int(e) for e in extents)


def _is_plain(buffer: Var) -> bool:
    kind = buffer.ty
    return not list(kind.strides) and int(kind.elem_offset) == 0 and str(kind.storage_scope) in ("", "global")


def _bytes(buffer: Var) -> int:
    import numpy as np

    dtype = str(buffer.ty.dtype)
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
