"""The form of a 1x1 convolution whose result only a depthwise convolution reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.contraction.form import BLOCK, find_pad, read_form
from tilewright.ops.depthwise.form import Depthwise, inline_between, read_windows, read_writer

if TYPE_CHECKING:
    from tvm.ir import IRModule, Var
    from tvm.s_tir import SBlock, Schedule

__all__ = ["KIND", "Expansion", "read_expansion"]

#: The kind of the tasks.
KIND = "expansion"
#: The roles of the iterators of both blocks that add and multiply (:func:`tilewright.ops.contraction.form.mark_roles`).
_POINTWISE, _DEPTHWISE = "boppl/rrrr", "boppl/rr"


@dataclass(frozen=True)
class Expansion:
    """A 1x1 convolution of blocked data, ``(n, inputs, rows, columns, depth)``, and the depthwise one that follows.

    Attributes:
        inputs, depth: blocks of input channels, and channels of a block.
        data, weight: the operands of the 1x1 convolution.
        result: its sums, which the block of ``writes`` reads.
        writes: the variables of the block that writes the map between both convolutions, and that block.
        depthwise: the second convolution. Its data are the map between.
    """

    inputs: int
    depth: int
    data: Var
    weight: Var
    result: Var
    writes: tuple[tuple[Var, ...], SBlock]
    depthwise: Depthwise

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of the map between both convolutions."""
        return self.depthwise.rows.size, self.depthwise.columns.size

    @property
    def work(self) -> int:
        """The number of multiply-adds."""
        form = self.depthwise
        rows, columns = self.pixels
        taps = form.rows.taps * form.columns.taps * form.rows.outputs * form.columns.outputs
        return form.batch * form.blocks * form.lanes * (rows * columns * self.inputs * self.depth + taps)


def read_expansion(module: IRModule) -> Expansion:
    """The two convolutions in ``module``.

    Raises:
        FormError: it holds none, or the second one reads something else than what follows the first one.
    """
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    names = [str(schedule.get(b).name_hint) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    sums = [name for name in names if name.startswith(BLOCK)]
    if len(sums) != 2:
        raise FormError(f"an expansion is two convolutions, but the blocks here are {names}")
    first, second = sums
    form = read_form(module, first, _POINTWISE)
    if not form.fused or any(access.itemsize != 4 for access in form.accesses) or form.together > 1:
        raise FormError("an expansion begins with a 1x1 convolution of float32 without stride or padding")
    window = read_form(module, second, _DEPTHWISE)
    between = _map_writer(schedule, first, second)
    if not schedule.get_consumers(schedule.get_sblock(second)):
        schedule.cache_write(schedule.get_sblock(second), 0, "local")
    last = inline_between(schedule, [first, second, between])
    depthwise = read_windows(schedule, window, second, last)
    writes, side_by_side = read_writer(schedule, first, between, depthwise.lanes)
    if side_by_side or depthwise.last or depthwise.together > 1:
        raise FormError("an expansion is of blocked float32 data, not of bytes or channels last")
    contraction = schedule.get(schedule.get_sblock(first))
    result = contraction.writes[0].source
    data, weight = (region.source for region in contraction.reads if not region.source.same_as(result))
    params = list(module["main"].params)
    if not all(any(operand.same_as(param) for param in params) for operand in (data, weight)):
        raise FormError("the 1x1 convolution of an expansion reads operands")
    if not writes[1].writes[0].source.same_as(depthwise.data):
        raise FormError("the depthwise convolution of an expansion reads the result of the 1x1 convolution")
    for block, own in ((writes[1], result), (depthwise.writes[1], depthwise.result)):
        others = [region.source for region in block.reads if not region.source.same_as(own)]
        if not all(any(other.same_as(param) for param in params) for other in others):
            raise FormError("the map between both convolutions of an expansion is read by the second one alone")
    _check_places(writes)
    _, inputs, _, _, depth = (int(extent) for extent in data.ty.shape)
    return Expansion(inputs, depth, data, weight, result, writes, depthwise)


def _map_writer(schedule: Schedule, first: str, second: str) -> str:
    """The name of the block that writes the map between both convolutions, which is made if there is none."""
    reader = find_pad(schedule, schedule.get_sblock(second)) or schedule.get_sblock(second)
    producers = schedule.get_producers(reader)
    if len(producers) != 1:
        raise FormError("the depthwise convolution of an expansion reads one map")
    name = str(schedule.get(producers[0]).name_hint)
    if name != first:
        return name
    schedule.cache_write(producers[0], 0, "local")
    (written,) = schedule.get_consumers(schedule.get_sblock(first))
    return str(schedule.get(written).name_hint)


def _check_places(writes: tuple[tuple[Var, ...], SBlock]) -> None:
    """Raise ``FormError`` unless the block writes each element in the place of its sum."""
    from tvm.tirx import BufferStore

    variables, block = writes
    alike = isinstance(block.body, BufferStore) and len(block.body.indices) == len(variables)
    if not alike or not all(i.same_as(v) for i, v in zip(block.body.indices, variables, strict=True)):
        raise FormError("what follows the 1x1 convolution of an expansion is element-wise, in its layout")
