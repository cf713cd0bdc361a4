"""Toy design spaces, without TVM: what strategies are tested on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob
from tilewright.space.loop_nest import Annotation, LoopNest
from tilewright.space.space import Configs
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["SwitchedSpace", "TableSpace", "ToySpace", "plain", "toy_spaces"]


def _everything(configs: Configs) -> NDArray[np.bool_]:
    return np.ones(len(configs), dtype=np.bool_)


@dataclass(frozen=True)
class ToySpace:
    """A design space known by its knobs alone, with whatever constraint."""

    knobs: tuple[Knob, ...]
    constraint: Callable[[Configs], NDArray[np.bool_]] = _everything
    start: tuple[int, ...] | None = None
    task: Task = field(default=Task(key="toy", name="toy", kind="auto", flop=1e6, ir=""))
    template: str = "toy/1"
    has_loop_nest: bool = False

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        return self.constraint(configs)

    def loop_nest(self, configs: Configs) -> LoopNest:
        raise SpaceError(f"{self.template} has no closed form; score its configs on their knobs")

    def default(self) -> NDArray[np.int32]:
        return np.asarray(self.start if self.start is not None else [0] * len(self.knobs), dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        raise SpaceError(f"{self.template} is a toy and has no programs")


_TILE_M = SplitKnob.exact("tile_m", 64, 3, [16, 16])
_TILE_N = SplitKnob.exact("tile_n", 128, 2)


class TableSpace(ToySpace):
    """A tiled matrix product of 9,504 configs, 7,398 of them valid, with a closed form and known latencies.

    The latency is a made-up machine's: it wants about 16 kB in the cache, vectors of 16, an unroll of the
    register block's size, and work for 8 threads. Smooth enough to learn, and no knob can be set on its own.
    """

    def __init__(self) -> None:
        knobs = (
            _TILE_M,
            _TILE_N,
            SplitKnob.exact("tile_k", 256, 2),
            ChoiceKnob.of("unroll", [1, 2, 4]),
            OrderKnob.of("order", [(0, 1), (1, 0)]),
        )
        super().__init__(knobs, _few_registers, start=(0, 0, 0, 0, 0), template="toy-matmul/1", has_loop_nest=True)

    def factors(self, configs: Configs) -> NDArray[np.float64]:
        """``(n, 10)``: the chosen factors, knob after knob."""
        tables = [knob.table[configs[:, i]] for i, knob in enumerate(self.knobs)]
        return np.concatenate(tables, axis=1).astype(np.float64)

    def seconds(self, configs: Configs) -> NDArray[np.float64]:
        """``(n,)``: the latency of each config; what the search is to minimise."""
        m0, m1, m2, _n0, n1, _k0, k1, unroll, swap, _ = self.factors(configs).T
        cost = np.abs(np.log2(m1 * m2 * k1 + n1 * k1) - 12.0) / 6.0
        cost += np.abs(np.log2(n1) - 4.0) / 3.0
        cost += np.abs(np.log2(m2 * unroll) - 3.0) / 4.0
        cost += np.maximum(0.0, 3.0 - np.log2(m0)) / 2.0
        cost += 0.2 * np.where(k1 > 32, 1.0 - swap, swap)
        return np.asarray(1e-3 * (1.0 + cost))

    def loop_nest(self, configs: Configs) -> LoopNest:
        m0, m1, m2, n0, n1, k0, k1, unroll, swap, _ = self.factors(configs).T
        count = len(configs)
        outer = np.where(swap == 1, n0, m0), np.where(swap == 1, m0, n0)
        extents = np.stack([*outer, k0, m1, k1, m2, n1], axis=1)
        axis = np.stack([swap, 1 - swap, *np.tile([[2.0], [0], [2], [0], [1]], count)], axis=1)
        annotations = np.zeros(extents.shape, dtype=np.int8)
        annotations[:, 0] = Annotation.PARALLEL
        annotations[:, 5] = np.where(unroll > 1, Annotation.UNROLLED, Annotation.SERIAL)
        annotations[:, 6] = Annotation.VECTORIZED
        uses = np.asarray([[True, False, True], [False, True, True], [True, True, False]])  # A[m,k] B[k,n] C[m,n]
        used = uses[:, axis.astype(np.intp)].transpose(1, 0, 2)
        inside = np.where(used, extents[:, None, :], 1.0)[..., ::-1].cumprod(axis=-1)[..., ::-1]
        total = extents[:, ::-1].cumprod(axis=1)[:, ::-1]
        return LoopNest(
            axes=("m", "n", "k"),
            buffers=("A", "B", "C"),
            axis=axis.astype(np.int8),
            extents=extents.astype(np.float32),
            annotations=annotations,
            touched=(4 * inside).astype(np.float32),
            strides=np.where(used, inside / np.where(used, extents[:, None, :], 1.0), 0.0).astype(np.float32),
            reuse=(total[:, None, :] / inside).astype(np.float32),
            arithmetic=np.tile(np.asarray([1, 1, 0], dtype=np.float32), (count, 1)),
            extra=unroll[:, None].astype(np.float32),
            extra_names=("unroll",),
        )


_USED = np.asarray([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 0, 1, 1]], dtype=np.bool_)


class SwitchedSpace(ToySpace):
    """The first knob chooses one of four programs; each other knob is idle in all programs but one or two.

    Args:
        choices: of the other knobs.
    """

    def __init__(self, *choices: int) -> None:
        knobs = plain(4, *(choices or (5, 6, 7, 3)))
        super().__init__(knobs, lambda c: np.asarray(~((c != 0) & ~_USED[c[:, 0]]).any(axis=1)))

    def canonical(self, configs: Configs) -> Configs:
        """The configs with idle knobs at 0."""
        return np.where(_USED[configs[:, 0]], configs, 0).astype(np.int32)


def _few_registers(configs: Configs) -> NDArray[np.bool_]:
    rows = _TILE_M.table[configs[:, 0], 2]
    columns = _TILE_N.table[configs[:, 1], 1]
    return np.asarray(rows * columns <= 128)


def plain(*choices: int) -> tuple[Knob, ...]:
    """Knobs with so many choices each."""
    return tuple(ChoiceKnob.of(f"knob{i}", range(n)) for i, n in enumerate(choices))


def toy_spaces() -> dict[str, ToySpace]:
    """The spaces that every strategy must survive, by name; a new one joins in one line."""
    return {
        "no knob": ToySpace(()),
        "one knob": ToySpace(plain(7)),
        "one config": ToySpace(plain(1, 1, 1)),
        "all but one invalid": ToySpace(plain(9, 8, 7), lambda c: (c == [5, 0, 3]).all(axis=1), (5, 0, 3)),
        "one of 10^12 valid": ToySpace(plain(*[10] * 12), lambda c: (c == 4).all(axis=1), (4,) * 12),
        "a strip of 10^12": ToySpace(plain(*[10] * 12), lambda c: (c[:, 2:] == 0).all(axis=1)),
        "10^12": ToySpace(plain(*[10] * 12)),
        "half valid": ToySpace(plain(4, 5, 6), lambda c: c.sum(axis=1) % 2 == 0),
        "idle knobs": SwitchedSpace(),
        "table": TableSpace(),
    }
