"""The design space of a product of tokens.

``ops/token_product/program`` explains the loops.
"""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.token_product.expression import token_product
from tilewright.ops.token_product.form import KIND, TokenProduct
from tilewright.ops.token_product.nest import Nest
from tilewright.ops.token_product.program import schedule_product
from tilewright.ops.written import read_written
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, divisors
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.module import space_errors
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["TokenProductSpace", "TokenProductTemplate"]

#: Most vectors of columns in a register tile.
_COLUMNS = 8
#: About how many tokens may be summed at a time.
_CHUNKS = (32, 64, 96, 128, 192, 256, 384)
#: The share of the first cache that a chunk of a right panel, and of the lines of a left tile, may fill.
_SHARE = 0.8
#: Bytes that all cores get from beyond their second caches in a cycle. (Measured: 10 on an Emerald Rapids, in a virtual
#: machine with two cores. They rank programs, so they need not be exact elsewhere.)
_FAR_BYTES = 10.0
#: The share of registers for sums above which LLVM stores some of them, and by what time then grows. (That of
#: attention's gradient.)
_MOST_SUMS, _SPILLED = 0.75, 1.3
#: Multiply-adds (about 10 µs) below which waking other threads costs more than it saves.
_PARALLEL_WORK = 1 << 18
#: Numbers in a line of a cache.
_LINE = 16
#: The place of each knob.
_TILE, _CHUNK, _PARTS, _PACKED, _AHEAD = range(5)

_read_product = FormReader(lambda task: read_written(task, KIND, TokenProduct.parse, token_product))


class TokenProductSpace(KnobsAlone):
    """The programs of one product of tokens.

    Attributes:
        task: the task that is scheduled.
        target: the machine that it is scheduled for.
        template: ``token_product/2``.
        knobs: ``tile``: columns of the left matrix, and vectors of columns of the right one, in a register tile;
            ``chunk``: about how many tokens are summed at a time; ``parts``: into which tokens, left and right panels
            are cut; ``packed``: whether the right matrix is packed, too; ``ahead``: whether the next chunk, and the
            sums so far, are fetched meanwhile.
        has_loop_nest: false.

    Args:
        task: the task to schedule.
        target: the machine to schedule it for.

    Raises:
        FormError: the function is no product of tokens.
        SpaceError: the function cannot be read.
    """

    template = "token_product/2"

    def __init__(self, task: Task, target: Target) -> None:
        self.task, self.target = task, target
        self._module, self._form = _read_product(task)
        form = self._form
        self._lanes = max(d for d in divisors(form.right) if d <= target.lanes)
        vectors = form.right // self._lanes
        rows = [d for d in divisors(form.left) if d < target.registers]
        columns = [d for d in divisors(vectors) if d <= _COLUMNS]
        tiles = [tile for tile in itertools.product(rows, columns) if tile == (1, 1) or self._fits(*tile)]
        chunks = [n for n in _CHUNKS if n <= form.tokens] or [form.tokens]
        self.knobs: tuple[Knob, ...] = (
            Knob("tile", tuple(tiles)),
            ChoiceKnob.of("chunk", chunks),
            Knob("parts", tuple(_parts(target.cores))),
            ChoiceKnob.of("packed", [0, 1]),
            ChoiceKnob.of("ahead", [0, 1]),
        )

    def _fits(self, rows: int, columns: int) -> bool:
        """Whether a register tile, a vector of each column and a number fit the registers."""
        return rows * columns + columns + 1 <= self.target.registers

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs have something for each part to do. ``(n,)``."""
        parts = self.knobs[_PARTS].table[configs[:, _PARTS]]
        return np.asarray((parts <= self._most_parts[configs[:, _TILE]]).all(axis=1), dtype=np.bool_)

    @cached_property
    def _most_parts(self) -> NDArray[np.int64]:
        """``(tiles, 3)``: into how many parts tokens, left and right panels can be cut."""
        nests = [self._nest(np.asarray([tile, 0, 0, 0, 0], dtype=np.int32)) for tile in range(len(self.knobs[_TILE]))]
        return np.asarray([(nest.units, *nest.panels) for nest in nests], dtype=np.int64)

    def default(self) -> NDArray[np.int32]:
        """The tile with the fewest estimated cycles; the longest chunk that fits the caches. ``(knobs,)``."""
        config: NDArray[np.int32] = self.likely(1)[0]
        return config

    def likely(self, count: int) -> Configs:
        """The default, then other tiles, chunks and parts with low estimated cost. ``(at most count, knobs)``."""
        tiles = sorted(range(len(self.knobs[_TILE])), key=lambda i: self._cycles(*self.knobs[_TILE].choices[i]))
        found: list[list[int]] = []
        for place in tiles[:3]:
            best = self._finish(place)
            found.append(best)
            for knob, step in ((_CHUNK, -1), (_CHUNK, 1), (_PACKED, -1)):
                other = list(best)
                other[knob] += step
                if 0 <= other[knob] < len(self.knobs[knob]):
                    found.append(other)
        configs = np.asarray(found, dtype=np.int32)
        kept: Configs = configs[self.valid(configs)][:count]
        return kept

    def _finish(self, tile: int) -> list[int]:
        """The config of a tile with the fewest estimated cycles."""
        form, target = self._form, self.target
        _, columns = self.knobs[_TILE].choices[tile]
        token_bytes = 4 * (columns * self._lanes) + 64
        chunks = [choice[0] for choice in self.knobs[_CHUNK].choices]
        chunk = max((i for i, n in enumerate(chunks) if n * token_bytes <= _SHARE * target.l1), default=0)
        whole = form.tokens * form.left * form.right
        small = whole < _PARALLEL_WORK
        configs = [[tile, chunk, part, 1, int(not small)] for part in range(len(self.knobs[_PARTS]))]
        nests = [self._nest(np.asarray(config, dtype=np.int32)) for config in configs]
        fits = self.valid(np.asarray(configs, dtype=np.int32))
        costs = [self._cost(nest, small) if ok else np.inf for nest, ok in zip(nests, fits, strict=True)]
        return configs[int(np.argmin(costs))]

    def _cycles(self, rows: int, columns: int) -> float:
        """Estimated cycles of a register tile for a token, relative to its multiply-adds."""
        sums = rows * columns
        # Numbers of a tile that lie in two lines are loaded slower: 6 x 4 took 1.1 of the time of 8 x 3.
        crossing = 0.0 if _LINE % rows == 0 else 1.0
        busy = max(sums / 2, (rows + columns) / 2, 4.0) + 0.05 * rows + 0.08 * columns + crossing
        spilled = _SPILLED if sums > _MOST_SUMS * self.target.registers else 1.0
        return busy / sums * spilled

    def _cost(self, nest: Nest, small: bool) -> float:
        """An estimate that ranks parts: cycles of the busiest core."""
        form, (tokens, left, right) = self._form, nest.parts
        parallel = tokens * left * right
        if small:
            return float(parallel)
        cores = self.target.cores
        rounds = -(-parallel // cores)
        share = np.prod([-(-n // part) for n, part in zip((nest.chunks, *nest.panels), nest.parts, strict=True)])
        each = form.tokens * form.left * form.right / (nest.chunks * nest.panels[0] * nest.panels[1])
        busy = rounds * float(share) * each / (2 * nest.lanes)
        moved = 4.0 * form.tokens * (form.left * right + form.right * left)
        added = 4.0 * form.left * form.right * (2 * tokens + 1) if tokens > 1 else 0.0
        return busy + (moved + added) / _FAR_BYTES / cores

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config. It is not made by scheduling primitives, so its trace is empty.

        Raises:
            SpaceError: the config is not in the space, or TVM cannot make the program.
        """
        nest = self._nest(config)
        with space_errors(f"{self.task.name!r} cannot be scheduled chunk by chunk"):
            return schedule_product(self._module["main"], nest)

    def _nest(self, config: NDArray[np.int32]) -> Nest:
        (rows, columns), (chunk,), parts, (packed,), (ahead,) = choices_of(self, config)
        tokens, left, right = parts
        return Nest(self._form, self._lanes, rows, columns, chunk, (tokens, left, right), bool(packed), bool(ahead))


def _parts(cores: int) -> list[tuple[int, int, int]]:
    """Into how many parts tokens, left and right panels may be cut: as many as there are cores, or twice as many."""
    found = [(1, 1, 1)]
    for whole in dict.fromkeys((cores, 2 * cores)):
        for tokens in divisors(whole):
            found += [(tokens, left, whole // tokens // left) for left in divisors(whole // tokens)]
    return list(dict.fromkeys(found))


class TokenProductTemplate:
    """Schedules products of tokens."""

    name = "token_product"
    kind = KIND

    def serves(self, task: Task, target: Target) -> bool:
        """Whether the task's function is a product of tokens."""
        return task.kind == self.kind and _read_product.fits(task)

    def space(self, task: Task, target: Target) -> DesignSpace:
        """The programs of the task's function."""
        return TokenProductSpace(task, target)
