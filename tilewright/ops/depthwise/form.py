"""The form of a depthwise convolution: its window, its image without padding, and what follows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.contraction.form import BLOCK, Form, find_pad, read_form
from tilewright.ops.statements import make_index

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, Var
    from tvm.s_tir import SBlock, Schedule

__all__ = ["Depthwise", "Window", "inline_between", "read_depthwise", "read_windows", "read_writer"]


@dataclass(frozen=True)
class Window:
    """How a window moves along one axis of an image.

    Attributes:
        size: rows or columns of the image.
        outputs: of the result.
        taps: of the kernel.
        stride: between the windows of neighbouring results.
        dilation: between taps.
        before: rows or columns of zeros before the image.
    """

    size: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    before: int

    def inside(self, output: int, tap: int) -> bool:
        """Whether a tap of a result's window is in the image."""
        return 0 <= self.at(output, tap) < self.size

    def at(self, output: int, tap: int) -> int:
        """The row or column that a tap of a result's window reads."""
        return output * self.stride + tap * self.dilation - self.before

    @property
    def whole(self) -> range:
        """The results whose whole window is in the image."""
        found = [o for o in range(self.outputs) if self.inside(o, 0) and self.inside(o, self.taps - 1)]
        return range(found[0], found[-1] + 1) if found else range(0)

    @property
    def padded(self) -> bool:
        """Whether any window leaves the image."""
        last = self.at(self.outputs - 1, self.taps - 1)
        return self.before > 0 or last >= self.size


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution of blocked data, ``(n, blocks, rows, columns, lanes)``, or of channels last.

    Attributes:
        batch, blocks, lanes: of the data and of the result.
        last: whether the channels of all blocks lie side by side: ``(n, 1, rows, columns, blocks * lanes)``.
        rows, columns: how the window moves.
        data, weight: the buffers of the function.
        result: the sums, which the block of ``writes`` reads.
        writes: the variables of the block that writes the function's result, one for each axis, and that block.
        module: holds the function.
        around: the number that stands around the image.
        together: the kernel's rows that are multiplied together: 4 or 2 of bytes, with int32 sums; 1 of float32.
    """

    batch: int
    blocks: int
    lanes: int
    last: bool
    rows: Window
    columns: Window
    data: Var
    weight: Var
    result: Var
    writes: tuple[tuple[Var, ...], SBlock]
    module: IRModule
    around: int = 0
    together: int = 1

    def place(self, item: Expr, block: Expr, row: Expr, column: Expr, lane: Expr) -> list[Expr]:
        """The indices of a number of the data or of the result."""
        if self.last:
            return [item, make_index(0), row, column, block * self.lanes + lane]
        return [item, block, row, column, lane]


def read_depthwise(module: IRModule) -> Depthwise:
    """The depthwise convolution in ``module``.

    Raises:
        FormError: it holds none, or one whose blocks of channels differ from the result's.
    """
    from tvm.s_tir import Schedule

    form = read_form(module)
    schedule = Schedule(module, seed=1)
    if not schedule.get_consumers(schedule.get_sblock(BLOCK)):
        schedule.cache_write(schedule.get_sblock(BLOCK), 0, "local")
    found = read_windows(schedule, form, BLOCK, inline_between(schedule, [BLOCK]))
    params = list(module["main"].params)
    if not any(found.data.same_as(param) for param in params):
        raise FormError("a depthwise convolution reads operands, with at most zeros around them")
    return found


def read_windows(schedule: Schedule, form: Form, name: str, writer: str) -> Depthwise:
    """The depthwise convolution of a block. What it pads may be an operand of the function or made in it.

    Args:
        schedule: of the function, with nothing between the sums and the block that writes the result.
        form: of the block's sums.
        name: of the block that adds and multiplies.
        writer: the name of the block that writes the result.

    Raises:
        FormError: the block is none, or one whose blocks of channels differ from the result's.
    """
    floats = form.together == 1 and all(access.itemsize == 4 for access in form.accesses)
    if not form.depthwise or not (floats or form.kernel_rows):
        raise FormError("a depthwise convolution of float32 or bytes has a sum for each channel")
    block = schedule.get_sblock(name)
    pad = find_pad(schedule, block)
    reads = [region.source for region in schedule.get(block).reads]
    result = schedule.get(block).writes[0].source
    data, weight = (source for source in reads if not source.same_as(result))
    before, around = (0, 0), 0
    if pad is not None:
        data, before, around = _read_pad(schedule.get(pad))
    if not any(weight.same_as(param) for param in schedule.mod["main"].params):
        raise FormError("a depthwise convolution reads weights that are operands")
    shape = [int(extent) for extent in data.ty.shape]
    windows = [_window(form, axis, shape[2 + i], before[i]) for i, axis in enumerate("hw")]
    extents = form.extents
    writes, last = read_writer(schedule, name, writer, extents["l"])
    blocks = [1, extents["o"] * extents["l"]] if last else [extents["o"], extents["l"]]
    if [shape[0], shape[1], shape[4]] != [extents["n"], *blocks]:
        raise FormError("a depthwise convolution keeps the blocks of its data")
    if [int(v.dom.extent) for v in writes[1].iter_vars] != [shape[0], shape[1], *result.ty.shape[2:4], shape[4]]:
        raise FormError("what follows a depthwise convolution keeps all of its result")
    if [int(extent) for extent in result.ty.shape[2:4]] != [extents["h"], extents["w"]]:
        raise FormError("a depthwise convolution of 1x1 has one loop over all pixels, which a contraction has, too")
    counts = extents["n"], extents["o"], extents["l"]
    rows, columns = windows
    made = Depthwise(*counts, last, rows, columns, data, weight, result, writes, schedule.mod)
    return dataclasses.replace(made, around=around, together=form.together)


def inline_between(schedule: Schedule, kept: Sequence[str]) -> str:
    """Inline all blocks but the last one, those in ``kept``, and those that pad what these read.

    Returns:
        The name of the last block, which writes the function's result.

    Raises:
        FormError: the function has several results.
    """
    names = [schedule.get(b).name_hint for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    last = [name for name in names if not schedule.get_consumers(schedule.get_sblock(name))]
    pads = [find_pad(schedule, schedule.get_sblock(name)) for name in names if name.startswith(BLOCK)]
    keep = {*kept, *last, *(schedule.get(pad).name_hint for pad in pads if pad is not None)}
    for name in names:
        if name not in keep:
            schedule.compute_inline(schedule.get_sblock(name))
    if len(last) != 1:
        raise FormError("a depthwise convolution has one result")
    return str(last[0])


def read_writer(schedule: Schedule, name: str, writer: str, lanes: int) -> tuple[tuple[tuple[Var, ...], SBlock], bool]:
    """The block that reads the sums of the block ``name``.

    Returns:
        Its variables, one for each axis, and the block; and whether it reads the channels of all blocks side by side.

    Raises:
        FormError: it does more than to compute each element of its result from the sum in the same place.
    """
    stmt = schedule.get(schedule.get_sblock(writer))
    result = schedule.get(schedule.get_sblock(name)).writes[0].source
    variables = tuple(v.var for v in stmt.iter_vars)
    side_by_side = _reads_last(_loads(stmt, result), variables, lanes)
    if any(int(v.iter_type) != 0 for v in stmt.iter_vars):
        raise FormError("what follows a depthwise convolution reduces nothing")
    return (variables, stmt), side_by_side


def _reads_last(loads: Sequence[Sequence[Expr]], variables: Sequence[Var], lanes: int) -> bool:
    """Whether a block reads the sums as channels that lie side by side.

    Args:
        loads: the indices of its loads of sums.
        variables: of the block.
        lanes: of a block of channels.
    """
    from tvm_ffi import structural_equal

    if not loads or len(variables) != 5:
        raise FormError("what follows a depthwise convolution is element-wise, in its layout")
    n, _, row, column, channel = variables
    side_by_side = [n, channel // lanes, row, column, channel % lanes]
    for places, last in ((list(variables), False), (side_by_side, True)):
        if all(all(map(structural_equal, load, places)) for load in loads):
            return last
    raise FormError("what follows a depthwise convolution is element-wise, in its layout")


def _read_pad(stmt: SBlock) -> tuple[Var, tuple[int, int], int]:
    """The image that a block pads, the rows and columns before it, and the number that stands there."""
    from tvm.ir import Call
    from tvm.sym import detect_linear_equation
    from tvm.tirx import FloatImm, IntImm

    regions = list(stmt.reads)
    variables = [v.var for v in stmt.iter_vars]
    if len(regions) != 1 or len(variables) != 5:
        raise FormError("padding reads one image")
    loads = _loads(stmt, regions[0].source)
    if len(loads) != 1:
        raise FormError("padding reads one pixel")
    before = []
    for place, index in enumerate(loads[0]):
        linear = detect_linear_equation(index, variables)
        steps = [int(step) for step in list(linear)[:5]] if len(linear) == 6 else []
        if steps != [int(i == place) for i in range(5)]:
            raise FormError("padding moves an image, and does not scale it")
        before.append(-int(linear[5]))
    if before[:2] + before[4:] != [0, 0, 0]:
        raise FormError("padding adds rows and columns")
    chosen = stmt.body.value  # if_then_else(inside, pixel, around)
    around = chosen.args[-1] if isinstance(chosen, Call) else None
    if not isinstance(around, IntImm | FloatImm) or (isinstance(around, FloatImm) and around.value != 0):
        raise FormError("padding puts zeros around an image, or one byte around an image of bytes")
    return regions[0].source, (before[2], before[3]), int(around.value)


def _loads(stmt: SBlock, buffer: Var) -> list[Sequence[Expr]]:
    """The indices of all loads from a buffer in a block."""
    from tvm.ir import TensorLoad
    from tvm_ffi import structural_map

    found: list[Sequence[Expr]] = []

    def note(node: TensorLoad) -> TensorLoad:
        if node.source.same_as(buffer):
            found.append(list(node.indices))
        return node

    structural_map(stmt.body, (TensorLoad, note))
    return found


def _window(form: Form, axis: str, size: int, before: int) -> Window:
    steps = dict(form.accesses[0].dims[2 if axis == "h" else 3])
    kernel = f"k{axis}"
    taps, dilation = form.extents[kernel], steps.get(kernel, 1)
    if axis == "h" and form.kernel_rows:
        taps, dilation = form.kernel_rows
    return Window(size, form.extents[axis], taps, steps.get(axis, 1), dilation, before)
