"""The form of a depthwise convolution: its window, its image without padding, and what follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.contraction.form import BLOCK, Form, find_pad, read_form
from tilewright.ops.statements import make_index

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, Var
    from tvm.s_tir import SBlock, Schedule
    from tvm.s_tir.schedule import SBlockRV

__all__ = ["Depthwise", "Window", "read_depthwise"]


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
    if not form.depthwise or form.quads or any(access.itemsize != 4 for access in form.accesses):
        raise FormError("a depthwise convolution of float32 has a sum for each channel")
    schedule = Schedule(module, seed=1)
    block = schedule.get_sblock(BLOCK)
    pad = find_pad(schedule, block)
    extents = form.extents
    writer, last = _inline(schedule, block, pad, extents["l"])
    reads = [region.source for region in schedule.get(block).reads]
    result = schedule.get(block).writes[0].source
    data, weight = (source for source in reads if not source.same_as(result))
    before = (0, 0)
    if pad is not None:
        data, before = _read_pad(schedule.get(pad))
    params = list(module["main"].params)
    if not any(data.same_as(param) for param in params) or not any(weight.same_as(param) for param in params):
        raise FormError("a depthwise convolution reads operands, with at most zeros around them")
    shape = [int(extent) for extent in data.ty.shape]
    windows = [_window(form, axis, shape[2 + i], before[i]) for i, axis in enumerate("hw")]
    blocks = [1, extents["o"] * extents["l"]] if last else [extents["o"], extents["l"]]
    if [shape[0], shape[1], shape[4]] != [extents["n"], *blocks]:
        raise FormError("a depthwise convolution keeps the blocks of its data")
    if [int(v.dom.extent) for v in writer[1].iter_vars] != [shape[0], shape[1], *result.ty.shape[2:4], shape[4]]:
        raise FormError("what follows a depthwise convolution keeps all of its result")
    if [int(extent) for extent in result.ty.shape[2:4]] != [extents["h"], extents["w"]]:
        raise FormError("a depthwise convolution of 1x1 has one loop over all pixels, which a contraction has, too")
    counts = extents["n"], extents["o"], extents["l"]
    return Depthwise(*counts, last, windows[0], windows[1], data, weight, result, writer, schedule.mod)


def _inline(
    schedule: Schedule, block: SBlockRV, pad: SBlockRV | None, lanes: int
) -> tuple[tuple[tuple[Var, ...], SBlock], bool]:
    """Inline what follows the sums into the block that writes the result.

    Returns:
        the block's variables and the block; and whether the result has its channels last.
    """
    if not schedule.get_consumers(block):
        schedule.cache_write(block, 0, "local")
    names = [schedule.get(b).name_hint for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    last = [name for name in names if not schedule.get_consumers(schedule.get_sblock(name))]
    keep = {BLOCK, *last, *([] if pad is None else [schedule.get(pad).name_hint])}
    for name in names:
        if name not in keep:
            schedule.compute_inline(schedule.get_sblock(name))
    if len(last) != 1:
        raise FormError("a depthwise convolution has one result")
    stmt = schedule.get(schedule.get_sblock(last[0]))
    result = schedule.get(block).writes[0].source
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


def _read_pad(stmt: SBlock) -> tuple[Var, tuple[int, int]]:
    """The image that a block pads, and the rows and columns of zeros before it."""
    from tvm.sym import detect_linear_equation

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
    return regions[0].source, (before[2], before[3])


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
    return Window(size, form.extents[axis], form.extents[kernel], steps.get(axis, 1), steps.get(kernel, 1), before)
