"""Images whose pixels are put together of phases: the gradient of the data of a convolution with strides.

A phase holds every ``s``-th pixel of every ``r``-th row. Phases that are zero are left out. Phases that one convolution
computes lie one after another along the channels of a single tensor.
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

__all__ = ["PHASES", "Phases", "interleave", "plain_interleave", "spread"]

#: The kind of the mark of the plain function. Its detail is what :meth:`Phases.detail` writes.
PHASES = "phases"


@dataclass(frozen=True)
class Phases:
    """Images that are put together of phases: ``y[s q + a, r p + b] = phase[a, b][q, p]``.

    Attributes:
        shape: ``(n, C, h, w)`` of the images.
        stride: of rows and columns.
        known: the phases ``(a, b)`` that are not zero.
        joined: whether one tensor ``(n, s r C, q, p)`` holds all phases, in order, along its channels. Otherwise each
            has a tensor of its own.
    """

    shape: tuple[int, int, int, int]
    stride: tuple[int, int]
    known: tuple[tuple[int, int], ...]
    joined: bool = False

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of each phase. The last ones may lie outside of the images."""
        rows, cols = (-(-size // step) for size, step in zip(self.shape[2:], self.stride, strict=True))
        return rows, cols

    def detail(self) -> str:
        """All of it as text, for a mark."""
        parts = (self.shape, self.stride, *([] if self.joined else self.known))
        return "/".join(",".join(map(str, part)) for part in parts)

    @classmethod
    def parse(cls, detail: str) -> Phases:
        """What :meth:`detail` wrote."""
        shape, (rows, cols), *known = (tuple(int(number) for number in part.split(",")) for part in detail.split("/"))
        n, channels, height, width = shape
        if not known:
            return cls.of_one((n, channels, height, width), (rows, cols))
        return cls((n, channels, height, width), (rows, cols), tuple((a, b) for a, b in known))

    @classmethod
    def of_one(cls, shape: tuple[int, int, int, int], stride: tuple[int, int]) -> Phases:
        """Images whose phases lie in one tensor, along its channels."""
        every = tuple((a, b) for a in range(stride[0]) for b in range(stride[1]))
        return cls(shape, stride, every, joined=True)


def plain_interleave(phases: Phases, marked: bool = True) -> PrimFunc:
    """The images in plain layout, which importers emit with a mark. Gives a PrimFunc (phases..., result)."""
    if phases.joined:
        return _spread_kept(
            phases, None, None, tuple(Mark(PHASES, phases.detail()).annotations.items()) if marked else ()
        )
    return _interleave(phases, phases.shape[:2], (), Mark(PHASES, phases.detail()).annotations if marked else {})


def interleave(phases: Phases, blocks: int, block: int) -> PrimFunc:
    """The images in blocks of channels. Gives a PrimFunc (phases..., result).

    Args:
        phases: of the images.
        blocks: the number of blocks.
        block: channels in a block.
    """
    return _interleave(phases, (phases.shape[0], blocks), (block,), {})


def spread(phases: Phases, places: int, source: int, block: int | None) -> PrimFunc:
    """The images out of one tensor with all phases in blocks of channels. Gives a PrimFunc (tensor, result).

    Args:
        phases: of the images, joined.
        places: of channels in the tensor. Those behind the last channel are gaps.
        source: places in a block of the tensor.
        block: channels in a block of the result, which divide its channels; None: it is plain.
    """
    return _spread_kept(phases, (places // source, source), block, ())


@lru_cache(KEPT)
def _spread_kept(
    phases: Phases, blocked: tuple[int, ...], block: int | None, marks: tuple[tuple[str, str], ...]
) -> PrimFunc:
    from tvm import te

    (n, channels, height, width), (rows, cols) = phases.shape, phases.stride
    before, after = (blocked[:1], blocked[1:]) if blocked else ((rows * cols * channels,), ())
    tensor = te.placeholder((n, *before, *phases.pixels, *after), name="phases")

    def pixel(n: Expr, c: Expr, i: Expr, j: Expr, *v: Expr) -> Expr:
        channel = c * block + v[0] if v else c
        place = (i % rows * cols + j % cols) * channels + channel
        if not blocked:
            return tensor(n, place, i // rows, j // cols)
        return tensor(n, place // blocked[1], i // rows, j // cols, place % blocked[1])

    result_shape = (n, channels, height, width) if block is None else (n, channels // block, height, width, block)
    result = te.compute(result_shape, pixel, name="spread", attrs=dict(marks))
    return make_function([tensor, result], INJECTIVE)


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
