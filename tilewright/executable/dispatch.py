"""Runs each call of an executable with several *buckets* by the program that was made for its shapes.

A bucket is a set of shapes of the inputs for which the executable has a plan. For other shapes, the first of these
that is possible happens:

1. The inputs are padded to a larger bucket, and the added rows are cut off the outputs. Inputs are padded only along
   axes along which the network computes each element independently.
2. A runtime runs the whole model, if the executable has one.
3. The call is refused with a message that lists the buckets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from tilewright.errors import ShapeError
from tilewright.executable.program import KernelTime, Program, Variants
from tilewright.tensor import Array, TensorSpec

__all__ = ["Bucket", "BucketsProgram", "Padding", "Shapes", "WholeProgram"]

#: The shapes of all inputs; None for an input that has no shape.
Shapes: TypeAlias = tuple[tuple[int, ...] | None, ...]
#: The most shapes without a bucket whose padding is remembered.
_MOST_REMEMBERED = 1024


@dataclass(frozen=True)
class Padding:
    """Axes along which a network computes each element independently, so that rows may be added and cut off again.

    Attributes:
        inputs: pairs of an input's place and its axis. All these axes have the same extent.
        outputs: pairs of an output's place and its axis. The other outputs depend on no padded input.
    """

    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Bucket:
    """Shapes that an executable has a plan for.

    Attributes:
        inputs: the inputs of these shapes.
        outputs: the outputs that they have.
        program: runs the plan.
        paddings: how smaller inputs may be padded to these.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    program: Program
    paddings: tuple[Padding, ...] = ()

    @property
    def shapes(self) -> Shapes:
        """The shapes of its inputs."""
        return tuple(spec.shape for spec in self.inputs)

    @property
    def elements(self) -> int:
        """The number of elements of all inputs."""
        return sum(math.prod(spec.shape) for spec in self.inputs)

    def find_rows(self, padding: Padding, shapes: Shapes) -> int:
        """The number of rows of inputs of ``shapes`` along the axes of a padding; 0 if they cannot be padded."""
        rows = 0
        axes = dict(padding.inputs)
        for place, (wanted, given) in enumerate(zip(self.shapes, shapes, strict=True)):
            if wanted is None or given is None or len(wanted) != len(given):
                return 0
            axis = axes.get(place)
            if axis is not None:
                if rows not in (0, given[axis]):
                    return 0
                rows = given[axis]
            if any(w != g for i, (w, g) in enumerate(zip(wanted, given, strict=True)) if i != axis):
                return 0
        extents = [shape[axes[place]] for place, shape in enumerate(self.shapes) if place in axes and shape is not None]
        return rows if all(rows <= extent for extent in extents) else 0


class WholeProgram(Protocol):
    """Runs the whole model on inputs of any shape that it takes."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for ``arrays``."""
        ...

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of ``runs`` calls."""
        ...


@dataclass(frozen=True)
class _Padded:
    """How inputs are padded: the bucket, the axes, and the number of rows before padding."""

    bucket: Bucket
    padding: Padding
    rows: int

    def pad(self, arrays: Sequence[Array]) -> list[Array]:
        """The inputs with their last rows repeated. These hold no number that the network would refuse."""
        made = list(arrays)
        for place, axis in self.padding.inputs:
            array, wanted = arrays[place], self.bucket.inputs[place].shape
            widths = [(0, wanted[axis] - self.rows if i == axis else 0) for i in range(array.ndim)]
            made[place] = np.pad(array, widths, mode="edge")
        return made

    def cut(self, outputs: list[Array]) -> list[Array]:
        """The outputs without the rows that padding added."""
        for place, axis in self.padding.outputs:
            rows = outputs[place][(slice(None),) * axis + (slice(self.rows),)]
            outputs[place] = np.ascontiguousarray(rows)
        return outputs


class BucketsProgram:
    """A network in several buckets.

    Args:
        buckets: no two of equal shapes.
        whole: runs calls that belong to no bucket; None: they are refused.
    """

    def __init__(self, buckets: Sequence[Bucket], whole: WholeProgram | None = None) -> None:
        self.buckets = tuple(buckets)
        self._exact = {bucket.shapes: bucket for bucket in buckets}
        self._by_size = sorted(buckets, key=lambda bucket: bucket.elements)
        self._whole = whole
        self._remembered: dict[Shapes, _Padded | None] = {}

    def select(self, arrays: Sequence[Array]) -> Program:
        """The program for inputs of exactly these shapes. Raises ``ShapeError`` if no bucket has them."""
        shapes = _shapes(arrays)
        bucket = self._exact.get(shapes)
        if bucket is None:
            raise self._refusal(shapes)
        return bucket.program

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for ``arrays``.

        Raises:
            ShapeError: no bucket takes them, and nothing runs the whole model.
        """
        shapes = _shapes(arrays)
        bucket = self._exact.get(shapes)
        if bucket is not None:
            return bucket.program.run(arrays)
        padded = self._find_padded(shapes)
        if padded is not None:
            return padded.cut(padded.bucket.program.run(padded.pad(arrays)))
        if self._whole is not None:
            return self._whole.run(arrays)
        raise self._refusal(shapes)

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of ``runs`` calls, without copying inputs and outputs. Raises as :meth:`run` does."""
        shapes = _shapes(arrays)
        padded = None if shapes in self._exact else self._find_padded(shapes)
        if padded is not None:
            return padded.bucket.program.time(padded.pad(arrays), runs)
        if shapes not in self._exact and self._whole is not None:
            return self._whole.time(arrays, runs)
        return self.select(arrays).time(arrays, runs)

    def overhead(self, runs: int) -> list[float] | None:
        """The seconds of each of ``runs`` calls of the first bucket in which no kernel runs."""
        return self.buckets[0].program.overhead(runs)

    def profile(self, arrays: Sequence[Array], runs: int, repeats: int = 1) -> list[KernelTime] | None:
        """The time that each kernel of a bucket takes in its place. Raises ``ShapeError`` if no bucket is exact."""
        return self.select(arrays).profile(arrays, runs, repeats)

    def contest(
        self, arrays: Sequence[Array], variants: Variants, seconds: float, least: int, most: int
    ) -> dict[str, list[list[float]]]:
        """The times of variants of a bucket's kernels. Raises ``ShapeError`` if no bucket is exact."""
        return self.select(arrays).contest(arrays, variants, seconds, least, most)

    def _find_padded(self, shapes: Shapes) -> _Padded | None:
        """The smallest bucket that inputs of ``shapes`` may be padded to; None if there is none."""
        if shapes not in self._remembered:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[shapes] = next(self._list_padded(shapes), None)
        return self._remembered[shapes]

    def _list_padded(self, shapes: Shapes) -> Iterator[_Padded]:
        for bucket in self._by_size:
            for padding in bucket.paddings:
                rows = bucket.find_rows(padding, shapes)
                if rows:
                    yield _Padded(bucket, padding, rows)

    def _refusal(self, shapes: Shapes) -> ShapeError:
        names = [spec.name for spec in self.buckets[0].inputs]
        taken = " or ".join(_in_words(names, bucket.shapes, self._varying()) for bucket in self.buckets)
        return ShapeError(
            f"this executable takes {taken}, but {_in_words(names, shapes, self._varying())} was given; "
            "give one of these shapes, or tune again with this one besides"
        )

    def _varying(self) -> Mapping[int, bool]:
        """For each input, whether its shape differs between buckets, by its place; true for all if none differs."""
        count = len(self.buckets[0].inputs)
        found = {place: len({bucket.shapes[place] for bucket in self.buckets}) > 1 for place in range(count)}
        return found if any(found.values()) else dict.fromkeys(range(count), True)


def _shapes(arrays: Sequence[Array]) -> Shapes:
    return tuple([getattr(array, "shape", None) for array in arrays])


def _in_words(names: Sequence[str], shapes: Shapes, which: Mapping[int, bool]) -> str:
    """The shapes of some inputs, as a text."""
    return ", ".join(
        f"{name} {list(shape)}"
        for place, (name, shape) in enumerate(zip(names, shapes, strict=True))
        if which[place] and shape is not None
    )
