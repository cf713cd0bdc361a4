"""Scheduled programs in closed form: arrays that cost models see without lowering a candidate."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Annotation", "LoopNest", "name_nest"]


class Annotation(enum.IntEnum):
    """How a loop is executed."""

    SERIAL = 0
    PARALLEL = 1
    VECTORIZED = 2
    UNROLLED = 3


@dataclass(frozen=True)
class LoopNest:
    """The main loop nests of ``n`` programs of one template, with ``L`` loops and ``B`` buffers each.

    Loops are listed from outside in. A program with fewer loops has loops of extent 1. "At loop l" means during one
    execution of the body of loop ``l - 1``: in all iterations of loop ``l`` and of the loops inside it.

    Attributes:
        axes: names of the iteration axes that loops can belong to.
        buffers: names of the buffers accessed.
        axis: ``(n, L)`` int8, the axis of each loop (index into ``axes``).
        extents: ``(n, L)`` float32, trip counts.
        annotations: ``(n, L)`` int8, values of :class:`Annotation`.
        touched: ``(n, B, L)`` float32, bytes of the distinct elements of each buffer that are touched at loop l.
        strides: ``(n, B, L)`` float32, distance in elements between consecutive iterations of loop l; 0: the same one.
        reuse: ``(n, B, L)`` float32, accesses at loop l divided by the distinct elements touched there.
        arithmetic: ``(n, 3)`` float32, additions, multiplications and other operations of one innermost iteration.
        extra: ``(n, E)`` float32, further numbers that matter for the template, such as registers used, the length of
            vectors, the efficiency of tails, and the balance of threads.
        extra_names: names of the columns of ``extra``.
        products: products that one innermost iteration adds up: 4 where elements are quads of bytes, 2 where they are
            pairs of int16 or of bfloat16 numbers, otherwise 1.
        halves: whether they are of bfloat16 numbers.
    """

    axes: tuple[str, ...]
    buffers: tuple[str, ...]
    axis: NDArray[np.int8]
    extents: NDArray[np.float32]
    annotations: NDArray[np.int8]
    touched: NDArray[np.float32]
    strides: NDArray[np.float32]
    reuse: NDArray[np.float32]
    arithmetic: NDArray[np.float32]
    extra: NDArray[np.float32]
    extra_names: tuple[str, ...]
    products: int = 1
    halves: bool = False

    def __len__(self) -> int:
        return len(self.extents)


def name_nest(template: str) -> str:
    """What names the columns of a template's loop nests: ``contraction`` of ``contraction/4``.

    Versions of a template have the same columns, and a template that computes something beside another one has those of
    the other one: ``contraction`` is also the name for ``summed/1:contraction/4``.
    """
    return template.rpartition(":")[2].partition("/")[0]
