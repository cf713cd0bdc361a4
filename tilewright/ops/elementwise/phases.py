"""Images whose pixels are put together of phases: the gradient of the data of a convolution with strides.

A phase holds every ``s``-th pixel of every ``r``-th row. Phases that are zero are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import INJECTIVE, KEPT, make_function
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

__all__ = ["PHASES", "Phases", "interleave", "plain_interleave"]

#: The kind of the mark of the plain function. Its detail is what :meth:`Phases.detail` writes.
PHASES = "phases"


@dataclass(frozen=True)
class Phases:
    """Images that are put together of phases: ``y[s q + a, r p + b] = phase[a, b][q, p]``.

    Attributes:
        shape: ``(n, C, h, w)`` of the images.
        stride: of rows and columns.
        known: the phases ``(a, b)`` that are not zero.
    """

    shape: tuple[int, int, int, int]
    stride: tuple[int, int]
    known: tuple[tuple[int, int], ...]

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of each phase. The last ones may lie outside of the images."""
        rows, cols = (-(-size // step) for size, step in zip(self.shape[2:], self.stride, strict=True))
        return rows, cols

    def detail(self) -> str:
        """All of it as text, for a mark."""
        parts = (self.shape, self.stride, *self.known)
        return "/".join(",".join(map(str, part)) for part in parts)

    @classmethod
    def parse(cls, detail: str) -> Phases:
        """What :meth:`detail` wrote."""
        shape, (rows, cols), *known = (tuple(int(number) for number in part.split(",")) for part in detail.split("/"))
        n, channels, height, width = shape
        return cls((n, channels, height, width), (rows, cols), tuple((a, b) for a, b in known))


def plain_interleave(phases: Phases, marked: bool = True) -> PrimFunc:
    """The images in plain layout, which importers emit with a mark. Gives a PrimFunc (phases..., result)."""
    return _interleave(phases, phases.shape[:2], (), Mark(PHASES, phases.detail()).annotations if marked else {})


def interleave(phases: Phases, blocks: int, block: int) -> PrimFunc:
    """The images in blocks of channels. Gives a PrimFunc (phases..., result).

    Args:
        phases: of the images.
        blocks: the number of blocks.
        block: channels in a block.
    """
    return _interleave(phases, (phases.shape[0], blocks), (block,), {})


@lru_cache(KEPT)
def _interleave_kept(
    phases: Phases, before: tuple[int, ...], after: tuple[int, ...], marks: tuple[tuple[str, str], ...]
) -> PrimFunc:
    from tvm import te, tirx

    rows, cols = phases.stride
    tensors = {
        at: te.placeholder((*before, *phases.pixels, *after), name=f"phase_{at[0]}_{at[1]}") for at in phases.known
    }

    def pixel(n: Expr, c: Expr, i: Expr, j: Expr, *v: Expr) -> Expr:
        value = tirx.const(0.0, "float32")
        for (a, b), tensor in tensors.items():
            here = te.all(i % rows == a, j % cols == b)
            value = te.if_then_else(here, tensor(n, c, i // rows, j // cols, *v), value)
        return value

    result = te.compute((*before, *phases.shape[2:], *after), pixel, name="interleave", attrs=dict(marks))
    return make_function([*tensors.values(), result], INJECTIVE)


def _interleave(phases: Phases, before: tuple[int, ...], after: tuple[int, ...], marks: dict[str, str]) -> PrimFunc:
    return _interleave_kept(phases, before, after, tuple(marks.items()))
