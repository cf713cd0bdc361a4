"""The form of squeeze and excitation: three sums, each with what is done to its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, Var
    from tvm.s_tir import SBlock, Schedule
    from tvm.s_tir.schedule import SBlockRV

__all__ = ["KIND", "Excitation", "Stage", "read_excitation"]

#: The kind of tasks that are squeeze and excitation.
KIND = "excitation"


@dataclass(frozen=True)
class Stage:
    """A sum for each channel, and what follows it.

    Attributes:
        blocks, lanes: of its channels.
        operand: the buffer that it sums: the image, or the result of the stage before.
        weight: the weights that it multiplies by, ``(blocks, operand's blocks, 1, 1, operand's lanes, lanes)``; None of
            a mean.
        sums: the buffer of the sums, which ``writes`` reads.
        writes: the variables of the block that writes the stage's result, one for each axis, and that block.
        result: the buffer that it writes, ``(n, blocks, 1, 1, lanes)``.
    """

    blocks: int
    lanes: int
    operand: Var
    weight: Var | None
    sums: Var
    writes: tuple[tuple[Var, ...], SBlock]
    result: Var


@dataclass(frozen=True)
class Excitation:
    """Squeeze and excitation of blocked data, ``(n, blocks, rows, columns, lanes)``.

    Attributes:
        batch, rows, columns: of the image.
        stages: the mean, and two products.
        gated: the variables of the block that multiplies the image by the gates, and that block; None: there is none.
        module: holds the function.
    """

    batch: int
    rows: int
    columns: int
    stages: tuple[Stage, Stage, Stage]
    gated: tuple[tuple[Var, ...], SBlock] | None
    module: IRModule


def read_excitation(module: IRModule) -> Excitation:
    """The squeeze and excitation in ``module``.

    Raises:
        FormError: it holds something else.
    """
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    sums, writers = _inline(schedule)
    if len(sums) != 3 or len(writers) not in (3, 4):
        raise FormError("squeeze and excitation is a mean and two products, each with something that follows")
    blocks, after = [schedule.get(s) for s in sums], [schedule.get(w) for w in writers]
    data = blocks[0].reads[0].source
    first = _read_mean(blocks[0], after[0])
    second = _read_product(blocks[1], after[1], first)
    third = _read_product(blocks[2], after[2], second)
    batch, _, rows, columns, _ = _shape(data)
    params = list(schedule.mod["main"].params)
    gated = _read_gated(after[3], third, data) if len(after) == 4 else None
    result = third.result if gated is None else after[3].writes[0].source
    if not all(any(p.same_as(buffer) for p in params) for buffer in (data, second.weight, third.weight, result)):
        raise FormError("squeeze and excitation reads its image and its weights as they are")
    return Excitation(batch, rows, columns, (first, second, third), gated, schedule.mod)


def _inline(schedule: Schedule) -> tuple[list[SBlockRV], list[SBlockRV]]:
    """Inline what follows each sum into one block. Returns the sums, and these blocks."""
    names = [schedule.get(b).name_hint for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    reduces = {n: any(int(v.iter_type) == 2 for v in schedule.get(schedule.get_sblock(n)).iter_vars) for n in names}
    sums, writers = [], []
    for name in names:
        block = schedule.get_sblock(name)
        if reduces[name]:
            sums.append(name)
            continue
        own = _written(schedule, block)
        others = [c for c in schedule.get_consumers(block) if not reduces[schedule.get(c).name_hint]]
        if any(_written(schedule, other) == own for other in others):  # other than the product of gates and an image
            schedule.compute_inline(block)
        else:
            writers.append(name)
    return [schedule.get_sblock(n) for n in sums], [schedule.get_sblock(n) for n in writers]


def _written(schedule: Schedule, block: SBlockRV) -> tuple[int, ...]:
    return _shape(schedule.get(block).writes[0].source)


def _read_mean(block: SBlock, after: SBlock) -> Stage:
    from tvm.ir import TensorLoad

    variables = [v.var for v in block.iter_vars]
    added = _added(block)
    if len(variables) != 7 or not isinstance(added, TensorLoad) or len(added.indices) != 5:
        raise FormError("the first stage of squeeze and excitation is a mean over pixels")
    n, channels, _, _, lane, row, column = variables
    if not _same(added.indices, [n, channels, row, column, lane]):
        raise FormError("a mean over pixels reads them in order")
    return _stage(block, after, added.source, None)


def _read_product(block: SBlock, after: SBlock, before: Stage) -> Stage:
    from tvm import tirx
    from tvm.ir import TensorLoad

    variables = [v.var for v in block.iter_vars]
    added = _added(block)
    if len(variables) != 9 or not isinstance(added, tirx.Mul):
        raise FormError("a later stage of squeeze and excitation is a product with weights")
    data, weight = added.a, added.b
    if not isinstance(data, TensorLoad) or not isinstance(weight, TensorLoad) or len(data.indices) != 5:
        raise FormError("a stage of squeeze and excitation multiplies two tensors")
    n, out, _, _, lane, inner, row, column, place = variables
    if not _same(weight.indices, [out, inner, row, column, place, lane]):
        raise FormError("a stage of squeeze and excitation has packed weights")
    if not _same([data.indices[i] for i in (0, 1, 4)], [n, inner, place]) or not data.source.same_as(before.result):
        raise FormError("a stage of squeeze and excitation reads the result of the one before")
    found = _stage(block, after, data.source, weight.source)
    if _shape(weight.source) != (found.blocks, before.blocks, 1, 1, before.lanes, found.lanes):
        raise FormError("the products of squeeze and excitation are of one pixel")
    return found


def _read_gated(block: SBlock, gates: Stage, data: Var) -> tuple[tuple[Var, ...], SBlock]:
    variables = tuple(v.var for v in block.iter_vars)
    places = {region.source: [r.min for r in region.region] for region in block.reads}
    read = places.get(gates.result, [])
    alike = len(variables) == 5 and _same(places.get(data, []), variables) and len(places) == 2
    if not alike or not _same(
        [read[i] for i in (0, 1, 4)] if len(read) == 5 else [], [variables[i] for i in (0, 1, 4)]
    ):
        raise FormError("squeeze and excitation multiplies its image by its gates")
    if _shape(block.writes[0].source) != _shape(data):
        raise FormError("a gated image has the shape of the image")
    return variables, block


def _added(block: SBlock) -> Expr | None:
    """What a block adds to its sum; None if it does something else."""
    from tvm import tirx

    store = block.body
    if not isinstance(store, tirx.BufferStore) or not isinstance(store.value, tirx.Add):
        return None
    load = store.value.a
    own = getattr(load, "source", None)
    variables = [v.var for v in block.iter_vars][:5]
    alike = own is not None and own.same_as(store.buffer) and _same(load.indices, variables)
    return store.value.b if alike and _same(store.indices, variables) else None


def _stage(block: SBlock, after: SBlock, operand: Var, weight: Var | None) -> Stage:
    sums, result = block.writes[0].source, after.writes[0].source
    n, blocks, rows, columns, lanes = _shape(sums)
    variables = tuple(v.var for v in after.iter_vars)
    loads = [region for region in after.reads if region.source.same_as(sums)]
    alike = len(loads) == 1 and _same([r.min for r in loads[0].region], variables)
    if not alike or _shape(result) != (n, blocks, 1, 1, lanes) or (rows, columns) != (1, 1):
        raise FormError("what follows a sum of squeeze and excitation is element-wise")
    return Stage(blocks, lanes, operand, weight, sums, (variables, after), result)


def _same(found: Sequence[Expr], wanted: Sequence[Expr]) -> bool:
    return len(found) == len(wanted) and all(a.same_as(b) for a, b in zip(found, wanted, strict=True))


def _shape(buffer: Var) -> tuple[int, ...]:
    shape = tuple(int(extent) for extent in buffer.ty.shape)
    if len(shape) not in (5, 6):
        raise FormError("squeeze and excitation is of blocked data")
    return shape
