"""Makes the program of a sum over the batch and all pixels with TVM.

parallel for parts of the batch, groups, and some blocks of channels:
    for chunk of the part:                                      a few images, or rows of one image
        pad what the chunk reads
        for the other blocks, and tiles of the kernel and of inputs:
            for pixels of the chunk:                            the tile's sums stay in registers
                unrolled for a tile: vectorised for lanes: tile += X * Y
            unrolled for a tile: vectorised for lanes: S += tile
    write out
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.fetching import AHEAD
from tilewright.ops.pixel_sums.form import BLOCK, PAD, Form
from tilewright.space.loops import lanes_in

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import LoopRV, SBlockRV

__all__ = ["OUTSIDE", "Decisions", "build_program"]

#: Which loops over blocks of channels are around the chunks, outermost first, by number.
OUTSIDE = ("c", "o", "co", "oc", "")
#: Elements of the longest vector in padding.
_LONGEST_VECTOR = 16


@dataclass(frozen=True)
class Decisions:
    """What one config decides.

    Attributes:
        tile: extent of each of ``TILED`` in registers.
        images, rows: the numbers of pieces into which the batch and the rows of an image are cut. A chunk is one piece
            of both. If rows are cut, every image is a piece.
        parts: of the chunks that run in parallel. Their sums are added at the end.
        outside: one of :data:`OUTSIDE`.
        unroll: columns that are written out.
        pad_inside: whether a chunk is padded just before its use, instead of all data before the sum.
        ahead: whether the sums so far are prefetched while a tile, which is added to them, is summed.
    """

    tile: dict[str, int]
    images: int
    rows: int
    parts: int
    outside: str
    unroll: int
    pad_inside: bool
    ahead: bool = False


@dataclass
class _Program:
    """A program on its way.

    Attributes:
        schedule: has it so far.
        form: of the sum.
        decisions: of the config.
    """

    schedule: Schedule
    form: Form
    decisions: Decisions

    @property
    def is_one_chunk(self) -> bool:
        """Whether the sums of a tile over its one chunk are the results, which are stored and not added to others."""
        decisions = self.decisions
        alone = decisions.images * decisions.rows * decisions.parts == 1
        return alone and not self.form.padded and not self.form.computed

    def add_chunks(self, name: str, chunk: LoopRV) -> tuple[SBlockRV, SBlockRV, LoopRV]:
        """Sum one chunk after the other, and each tile of a chunk in registers.

        Args:
            name: of the block that sums.
            chunk: its loop over chunks.

        Returns:
            The block that sums a tile of one chunk, the block that adds tiles, and the parallel loop of both.
        """
        schedule, form, decisions = self.schedule, self.form, self.decisions
        if self.is_one_chunk:
            tile, total = schedule.get_sblock(name), schedule.cache_write(schedule.get_sblock(name), 0, "local")
            loops, chunks = schedule.get_loops(total), []
        else:
            schedule.rfactor(chunk, 0)
            tile, total = schedule.get_sblock(f"{name}_rf"), schedule.get_sblock(name)
            schedule.set_scope(tile, 0, "local")
            *loops, last = schedule.get_loops(total)
            chunks = [last]
        axes = dict(zip(form.roles, loops, strict=False))
        parts = loops[len(form.roles) :]  # one loop, or none
        tiles: dict[str, LoopRV] = {}
        for axis, extent in decisions.tile.items():
            if axis in axes:
                axes[axis], tiles[axis] = schedule.split(axes[axis], factors=[None, extent])
        if "t" in axes:
            tiles["t"] = axes.pop("t")
        around = [*parts, *(axes[a] for a in ("g", *decisions.outside) if a in axes)]
        between = [axes[a] for a in "ocyxu" if a in axes and a not in decisions.outside]
        registers = [tiles[a] for a in "oyxut" if a in tiles]
        outer = [*around, *chunks, *between]
        schedule.reorder(*outer, *registers, axes["l"])
        schedule.compute_at(tile, outer[-1], preserve_unit_loops=True)
        self._order_tile(tile, len(outer))
        for loop in registers:
            schedule.unroll(loop)
        schedule.vectorize(axes["l"])
        return tile, total, schedule.fuse(*around) if len(around) > 1 else around[0]

    def _order_tile(self, tile: SBlockRV, depth: int) -> None:
        """Put the pixels around the tile, which is written out."""
        schedule = self.schedule
        *spatial, images, rows, cols = schedule.get_loops(tile)[depth:]
        spatial = self._move_outputs(spatial)
        pixels = [images, rows, cols]
        if self.decisions.unroll > 1:
            cols, written_out = schedule.split(cols, factors=[None, self.decisions.unroll])
            pixels = [images, rows, cols, written_out]
            schedule.unroll(written_out)
        schedule.reorder(*pixels, *spatial)
        for loop in spatial[:-1]:
            if int(schedule.get(loop).extent) > 1:
                schedule.unroll(loop)
        schedule.vectorize(spatial[-1])
        self.first_pixel = images

    def _move_outputs(self, spatial: list[LoopRV]) -> list[LoopRV]:
        """The loops of a tile, with the loop over blocks of outputs innermost but for the lanes.

        The registers then hold the vectors of all outputs, and one input at a time. In the other order they hold all
        inputs of the tile. With 3 x 4 sums and 16 registers, that is one too many: LLVM stored a sum for each pixel,
        and the gradient of a 1x1 convolution's weights ran at half the speed (28x28 pixels, Zen 3).
        """
        if not self.form.is_dense:
            return spatial
        *around, lanes = spatial
        outputs = around.pop(self.form.roles.index("o") - len(self.form.roles) + len(spatial))
        return [*around, outputs, lanes]

    def pad(self, total: SBlockRV, parallel: LoopRV) -> None:
        """Pad the data of one chunk after the other, or all before."""
        schedule = self.schedule
        pad = schedule.get_sblock(PAD)
        if self.decisions.pad_inside:
            chunk = schedule.get_loops(total)[1]
            schedule.compute_at(pad, chunk)
        loops = schedule.get_loops(pad)
        lanes = lanes_in(schedule.get(loops[-1]).extent, _LONGEST_VECTOR)
        if lanes > 1:
            schedule.vectorize(schedule.split(loops[-1], factors=[None, lanes])[1])
        if not self.decisions.pad_inside:
            schedule.parallel(schedule.fuse(*loops[:2]))

    def compute(self, total: SBlockRV) -> None:
        """Compute what is summed one chunk after the other."""
        schedule = self.schedule
        block = schedule.get_sblock(self.form.computed)
        schedule.compute_at(block, schedule.get_loops(total)[1], preserve_unit_loops=True)
        schedule.vectorize(schedule.get_loops(block)[-1])

    def add_parts(self) -> None:
        """Add up the sums of the parts in loops of their own, vector by vector; in parallel if they may be millions."""
        schedule = self.schedule
        *spatial, lanes, part = schedule.get_loops(schedule.get_sblock(BLOCK))
        schedule.reorder(*spatial, part, lanes)
        schedule.vectorize(lanes)
        if self.form.is_dense:
            schedule.parallel(schedule.fuse(*spatial))
        start = schedule.decompose_reduction(schedule.get_sblock(BLOCK), part)
        schedule.vectorize(schedule.get_loops(start)[-1])

    def write_alone(self, block: SBlockRV) -> None:
        """Schedule what comes after all sums in loops of its own."""
        schedule = self.schedule
        loops = schedule.get_loops(block)
        outer = loops[: max(1, len(loops) - 2)]
        if len(loops) <= 2:  # there is little to write
            return
        schedule.parallel(schedule.fuse(*outer) if len(outer) > 1 else outer[0])


def build_program(module: IRModule, form: Form, decisions: Decisions) -> Schedule:
    """The program that a config decides on, scheduled.

    Raises:
        FormError: the function has several results.
    """
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    writer = _inline(schedule, form.computed)
    program = _Program(schedule, form, decisions)
    block = schedule.get_sblock(BLOCK)
    *_, images, rows, _ = schedule.get_loops(block)
    outer, inner = schedule.split(images, factors=[decisions.images, None])
    high, low = schedule.split(rows, factors=[decisions.rows, None])
    schedule.reorder(outer, high, inner, low)
    chunk, name = schedule.fuse(outer, high), BLOCK
    if decisions.parts > 1:
        part, chunk = schedule.split(chunk, factors=[decisions.parts, None])
        schedule.rfactor(part, 0)
        name = f"{BLOCK}_rf"
        *_, chunk, _, _, _ = schedule.get_loops(schedule.get_sblock(name))
    tile, total, parallel = program.add_chunks(name, chunk)
    if form.alone:
        if decisions.parts > 1:
            program.add_parts()
    elif decisions.parts == 1 and _joins(schedule, writer, form):
        schedule.reverse_compute_at(schedule.get_sblock(writer), parallel)
    else:
        if decisions.parts > 1:
            program.add_parts()
        program.write_alone(schedule.get_sblock(writer))
    if form.padded:
        program.pad(total, parallel)
    if form.computed:
        program.compute(total)
    schedule.parallel(parallel)
    schedule.decompose_reduction(tile, program.first_pixel)
    if decisions.ahead:
        schedule.annotate(program.first_pixel, AHEAD, 1)
    if not program.is_one_chunk:
        start = schedule.decompose_reduction(total, schedule.get_loops(total)[1])
        schedule.vectorize(schedule.get_loops(start)[-1])
    return schedule


def _joins(schedule: Schedule, writer: str, form: Form) -> bool:
    """Whether the writer can join the parallel loop: it moves all sums, and makes no number of two of them."""
    written = math.prod(int(v.dom.extent) for v in schedule.get(schedule.get_sblock(writer)).iter_vars)
    return "t" not in form.roles and written == math.prod(form.extents.values())


def _inline(schedule: Schedule, computed: str) -> str:
    """Inline all blocks but padding, ``computed``, the sum, and the writer of the result. Returns that one's name."""
    names = [str(schedule.get(b).name_hint) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    writers = [name for name in names if not schedule.get_consumers(schedule.get_sblock(name))]
    if len(writers) != 1:
        raise FormError("a function of a sum over pixels has one result")
    for name in names:
        if name not in (PAD, BLOCK, writers[0], computed):
            schedule.compute_inline(schedule.get_sblock(name))
    return writers[0]
