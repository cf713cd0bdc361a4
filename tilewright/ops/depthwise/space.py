"""The design space of depthwise convolutions."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import FormError
from tilewright.ops.contraction.dot_products import PAIR, DotProduct, find_dot_product
from tilewright.ops.contraction.form import KIND
from tilewright.ops.depthwise.byte_rows import chunks_of
from tilewright.ops.depthwise.form import Depthwise, read_depthwise
from tilewright.ops.depthwise.program import Nest, write_depthwise
from tilewright.ops.depthwise.row_writer import tiles_of
from tilewright.ops.written import schedule_statements
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.ranked import RankedSpace
from tilewright.space.space import PLAIN_CODE, Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["DepthwiseSpace", "DepthwiseTemplate", "row_cycles"]

#: Columns of the widest tile, and parts of a block's rows.
_WIDEST, _PARTS = 24, (1, 2, 3, 4, 6, 8, 12, 16, 28, 56)
#: Multiply-adds (about 10 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 18
#: Most multiply-adds that are written out for a tile, twice those of a whole kernel.
_BODY = 512
#: What channels last cost more by whole rows, of an image that fills half of the second cache or more. Then the rows
#: that are read again come from there to few sets of the first cache. (7x7 of 56x56 pixels and 96 channels: 119 us by
#: rows, 88 by tiles; of 28x28 and 192 channels no difference. On two cores of an Emerald Rapids.)
_CROWDED = 1.3
#: What an image costs more whose rows another core wrote (in ConvNeXt: 36 us instead of 17).
_FAR = 1.6
#: Cycles of each byte of an image in blocks whose rows another core wrote. (In MobileNetV2, 112x112 pixels and 32
#: channels: 65 us instead of 50. Nothing is gained with images below half a megabyte.)
_FAR_BYTE = 0.02


def _analyse(task: Task) -> Depthwise:
    with form_errors(f"{task.name!r} is no depthwise convolution"):
        return read_depthwise(task_module(task))


_read = FormReader(_analyse)


class DepthwiseSpace(RankedSpace):
    """The programs of one depthwise convolution.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``depthwise/4``; ``depthwise/3`` of bytes (2 went through the images in another order, and shifted and
            added rows of bytes where 3 permutes them); ``depthwise/5`` of bytes in pairs, which 3 summed for a whole
            tile before it wrote any, column by column.
        knobs: ``columns`` of a tile in registers; ``parts`` into which the rows of a block are cut; ``whole``: whether
            rows far from the edges have the whole kernel written out; ``parallel``: whether
            parts run in parallel; ``down``: whether all rows of a tile come one after the other.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no depthwise convolution that the template knows.
        SpaceError: the function cannot be read.
    """

    template = "depthwise/4"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._form = form = _read(task)
        self.products = form.together
        if form.together > 1:
            self.template = "depthwise/5" if form.together == PAIR else "depthwise/3"
        if not 2 <= form.lanes <= target.lanes:
            raise FormError(
                f"a register of {target.mcpu} holds {target.lanes} lanes, but {task.name!r} has {form.lanes}"
            )
        taps = form.columns.taps
        widest = max(1, min(_WIDEST, form.columns.outputs, target.registers - 2, _BODY // taps))
        written = 2 * taps * form.rows.taps <= _BODY and form.rows.taps > 1 and len(form.rows.whole) > 0
        self.knobs: tuple[Knob, ...] = (
            ChoiceKnob.of("columns", range(1, widest + 1)),
            ChoiceKnob.of("parts", [parts for parts in _PARTS if parts == 1 or parts <= form.rows.outputs]),
            ChoiceKnob.of("whole", [0, 1] if written else [0]),
            ChoiceKnob.of("parallel", [0, 1]),
            ChoiceKnob.of("down", [0, 1] if form.columns.outputs > 1 else [0]),
        )

    @property
    def instruction(self) -> str:
        """The instruction that multiplies rows of bytes, or ``PLAIN_CODE``; empty: the numbers are float32."""
        none = "" if self._form.together == 1 else PLAIN_CODE
        return none if self._dot is None else self._dot.name

    @cached_property
    def _dot(self) -> DotProduct | None:
        return find_dot_product(self.target, self._form.lanes, self._form.together)

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs write out little enough, and are the one config of their program. ``(n,)``."""
        form = self._form
        columns, parts, whole, parallel, down = self._values(configs)
        body = columns * form.columns.taps * np.where(whole > 0, 2 * form.rows.taps, 1)
        each = -(-form.rows.outputs // parts)
        ok: NDArray[np.bool_] = (body <= _BODY) | ((columns == 1) & (whole == 0))
        ok &= -(-form.rows.outputs // each) == parts
        ok &= (parallel == 0) | (form.batch * form.blocks * parts > 1)
        ok &= (down == 0) | (columns < form.columns.outputs)  # one tile is a row
        return ok

    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first."""
        form = self._form
        configs = self._combine()
        configs = np.asarray(configs[configs[:, 3] == 0], dtype=np.int32)
        work = form.batch * form.blocks * form.lanes * form.rows.outputs * form.columns.outputs
        large = work * form.rows.taps * form.columns.taps >= _PARALLEL_WORK
        configs[:, 3] = large & (form.batch * form.blocks * self._values(configs)[1] > 1)
        configs = configs[self.valid(configs)]
        columns, parts, whole, parallel, down = self._values(configs)
        tile = np.asarray(
            [[row_cycles(form, c, self.target, w) for w in (False, True)] for c in range(1, len(self.knobs[0]) + 1)]
        )
        row = tile[columns - 1, whole]
        cores = np.where(parallel > 0, self.target.cores, 1)
        chunks = form.batch * form.blocks * parts
        rows = -(-form.rows.outputs // parts)
        cost = np.ceil(chunks / cores) * (rows * row + 60)
        # With `whole`, compiling takes several times as long, and programs in float32 are seldom faster.
        cost = cost * (1 + (0.02 if form.together == 1 else 0.15) * whole)
        image = (4 if form.together == 1 else 1) * form.rows.size * form.columns.size * form.blocks * form.lanes
        if form.last:
            cost = cost * np.where((down == 0) & (image > self.target.l2 / 2), _CROWDED, 1.0)
            cost = cost * np.where((parallel > 0) & (parts < cores), _FAR, 1.0)
        elif form.batch < self.target.cores:
            cost = cost + np.where((parallel > 0) & (parts < cores), _FAR_BYTE * image, 0.0)
        cost = cost * np.where(down > 0, 1.01, 1)
        return np.asarray(configs[cost.argsort(kind="stable")], dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config.

        Raises:
            SpaceError: TVM cannot make the program.
        """
        columns, parts, whole, parallel, down = (choice[0] for choice in choices_of(self, config))
        with space_errors(f"config {config.tolist()} of {self.task.name!r} cannot be scheduled"):
            nest = Nest(columns, parts, bool(whole), bool(parallel), bool(down))
            body, buffers = write_depthwise(self._form, nest, self._dot, _interleaves(self._form, self.target))
            return schedule_statements(self._form.module["main"], body, buffers)


def row_cycles(form: Depthwise, columns: int, target: Target, whole: bool) -> float:
    """Estimated cycles of a row of results.

    Args:
        form: the convolution.
        columns: of a tile.
        target: the machine.
        whole: whether rows far from the edges have code of their own.
    """
    if form.together > 1:
        return _byte_row_cycles(form, columns, target, whole)
    taps, stride = form.columns.taps, form.columns.stride
    total = 0.0
    for tile in tiles_of(form, columns):
        size = tile.columns
        # Two multiply-adds and two loads a cycle; four cycles until a sum is ready for the next addition.
        loads = min(size * taps, (size - 1) * stride + taps) + taps
        busy = max(size * taps / 2, loads / 2, 4 * taps / min(size, taps))
        spilled = 1.5 if size + taps + 1 > target.registers else 1.0
        total += tile.count * (form.rows.taps * (spilled * busy + 2) + 2 * size + 4)
    return total


def _interleaves(form: Depthwise, target: Target) -> bool:
    """Whether a permutation of bytes makes quads or pairs of a target's vectors: 64 bytes need ``vpermb`` on x86-64."""
    return form.together * form.lanes <= 32 or "avx512vbmi" in target.extensions


def _byte_row_cycles(form: Depthwise, columns: int, target: Target, whole: bool) -> float:
    """Estimated cycles of a row of results of bytes."""
    taps, stride, rows = form.columns.taps, form.columns.stride, form.rows.taps
    groups = -(-rows // form.together)
    dot = find_dot_product(target, form.lanes, form.together)
    # A core has two vector units of 512 bits, or three of 256. Bytes are permuted, at about an instruction for each; or
    # they are widened, and all but the first of a quad are shifted and added. Code for the edges also masks them.
    units, adds = 2 if form.lanes > 8 else 3, 2 if dot is None or dot.adds else 1
    build = rows if _interleaves(form, target) else 3 * rows - 2 * groups
    build += 0 if whole or not form.rows.padded else rows
    total = 0.0
    for tile in tiles_of(form, columns):
        size = tile.columns
        chunks = [size] if form.together != PAIR else [len(c) for c in chunks_of(size, taps, form.lanes)]
        pixels = sum(min(chunk * taps, (chunk - 1) * stride + taps) for chunk in chunks)
        products = size * taps * groups
        busy = max((products * adds + pixels * build) / units, products / 2, 4 * taps * groups / 2)
        spilled = 1.5 if max(chunks) + 4 > target.registers else 1.0
        total += tile.count * (spilled * busy + 2 * size + 4)
    return total


class DepthwiseTemplate:
    """Schedules depthwise convolutions of blocked data, float32 or bytes, and what is fused into them."""

    name = "depthwise"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the function is a depthwise convolution of vectors that fit a register of the target."""
        if task.kind != self.kind or not _read.fits(task):
            return False
        return 2 <= _read(task).lanes <= target.lanes

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return DepthwiseSpace(task, target)
