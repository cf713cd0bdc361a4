"""The form of the gradient of a depthwise convolution's data: what it reads, and what follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.depthwise.form import Depthwise, Window, inline_between, read_writer
from tilewright.ops.depthwise_gradient.expression import BLOCK, KIND, DataGradient
from tilewright.space.module import task_module
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import IRModule

__all__ = ["read_gradient"]


def read_gradient(task: Task) -> Depthwise:
    """The gradient that a task's function computes, by the convolution that it belongs to.

    The windows are those of the convolution: they move over the gradient's result. ``data`` is the gradient of the
    convolution's result, and ``result`` the buffer of the sums.

    Raises:
        FormError: the function is no such gradient, or something else than element-wise functions follows.
        SpaceError: the function cannot be read.
    """
    from tvm.s_tir import Schedule

    module = task_module(task)
    gradient = _read_detail(module, task.name)
    schedule = Schedule(module, seed=1)
    if not schedule.get_consumers(schedule.get_sblock(BLOCK)):
        schedule.cache_write(schedule.get_sblock(BLOCK), 0, "local")
    writer = inline_between(schedule, [BLOCK])
    block = schedule.get(schedule.get_sblock(BLOCK))
    result = block.writes[0].source
    read = [region.source for region in block.reads if not region.source.same_as(result)]
    data, weight = sorted(read, key=lambda buffer: -len(buffer.ty.shape))
    params = list(module["main"].params)
    if not all(any(buffer.same_as(param) for param in params) for buffer in (data, weight)):
        raise FormError("the gradient of a depthwise convolution's data reads operands")
    n, blocks, *pixels, lanes = (int(extent) for extent in result.ty.shape)
    writes, last = read_writer(schedule, BLOCK, writer, lanes)
    if last or [int(v.dom.extent) for v in writes[1].iter_vars] != [n, blocks, *pixels, lanes]:
        raise FormError("what follows the gradient of a depthwise convolution's data keeps its blocks")
    rows, columns = (
        Window(size, outputs, taps, stride, 1, before)
        for size, outputs, taps, stride, before in zip(
            pixels, gradient.pixels, gradient.kernel, gradient.stride, gradient.padding, strict=True
        )
    )
    return Depthwise(n, blocks, lanes, False, rows, columns, data, weight, result, writes, schedule.mod)


def _read_detail(module: IRModule, name: str) -> DataGradient:
    """What the function says of itself."""
    attributes, key = module["main"].attrs, f"tilewright.{KIND}"
    if attributes is None or key not in attributes:
        raise FormError(f"the function of a depthwise convolution's gradient says which, but {name!r} does not")
    return DataGradient.parse(str(attributes[key]))
