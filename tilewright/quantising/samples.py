"""Samples of a model's inputs: checked, taken out of stacks, divided into some to calibrate with and some to judge by.

A file holds arrays by the names of inputs. An array with the rank of the input is one sample. An array with one more
axis in front is a stack of samples. So is an array that would be a sample, but for its first extent, where the
model fixes that extent to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilewright.errors import ShapeError
from tilewright.frontend.shapes import Dimension, ShapeRequest, bind_shapes, describe_dimensions, fits
from tilewright.tensor import Array
from tilewright.wording import counted, did_you_mean

__all__ = ["ModelInput", "Sample", "draw_samples", "hold_out", "how_to_make_samples", "take_samples"]

#: One array for each input, by name.
Sample = Mapping[str, Array]
#: One sample of so many is held out.
_HELD_OUT = 5


@dataclass(frozen=True)
class ModelInput:
    """An input as a model declares it.

    Attributes:
        name: its name.
        dimensions: extents and names of open dimensions; None: even their number is open.
        dtype: of its elements.
    """

    name: str
    dimensions: tuple[Dimension, ...] | None
    dtype: np.dtype[np.generic]

    def __str__(self) -> str:
        """The input for people, such as ``image (1,3,224,224) float32``."""
        return f"{self.name} ({describe_dimensions(self.dimensions)}) {self.dtype}"


def take_samples(files: Sequence[Sample], inputs: Sequence[ModelInput]) -> list[Sample]:
    """The samples of files.

    Raises:
        ShapeError: a file lacks an input, has an array that is none, or an array has another shape or dtype, or is not
            finite; or its arrays stack different numbers of samples.
    """
    found: list[Sample] = []
    for number, file in enumerate(files):
        arrays = _name(file, inputs)
        stacks = {i.name: _unstack(i, arrays[i.name]) for i in inputs}
        counts = {name: len(stack) for name, stack in stacks.items()}
        if len(set(counts.values())) > 1:
            raise ShapeError(
                "a file has as many samples of each input, but file "
                f"{number + 1} has " + ", ".join(f"{count} of {name!r}" for name, count in counts.items())
            )
        count = next(iter(counts.values()), 0)
        found += [{name: stack[place] for name, stack in stacks.items()} for place in range(count)]
    return found


def _name(file: Sample, inputs: Sequence[ModelInput]) -> Sample:
    """The arrays by the names of inputs, which are the model's."""
    names = [i.name for i in inputs]
    if set(file) == {""} and len(names) == 1:
        return {names[0]: file[""]}
    wrong = [name for name in file if name not in names]
    missing = [name for name in names if name not in file]
    if wrong or missing:
        what = f"{wrong[0]!r} is none" if wrong else f"there is none for {missing[0]!r}"
        if wrong == [""]:
            what = "an .npy file has no names"
        near = did_you_mean(wrong[0], names) if wrong and wrong[0] else ""
        raise ShapeError(
            f"samples have an array for each input of the model, but {what}; it has: "
            f"{'; '.join(map(str, inputs))}{near}"
        )
    return file


def _unstack(wanted: ModelInput, array: Array) -> list[Array]:
    """The samples of an input that an array holds."""
    if array.dtype != wanted.dtype:
        numbers = array.dtype.kind in "fiub"
        raise ShapeError(
            f"samples have the dtypes of the model's inputs, but {wanted.name!r} is {wanted.dtype} and the array is "
            f"{array.dtype}; "
            + (f"convert it with .astype({str(wanted.dtype)!r})" if numbers else f"give one of {wanted.dtype}")
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise ShapeError(
            f"samples are finite, since ranges and errors of outputs are taken from them, but {wanted.name!r} has "
            f"{counted(bad, 'element')} that are NaN or infinite; leave these samples out"
        )
    dims = wanted.dimensions
    if dims is None or fits(array.shape, dims):
        return [array]
    if fits(array.shape[1:], dims) and len(array.shape):
        return list(array)
    if array.ndim and dims and dims[0] == 1 and fits((1, *array.shape[1:]), dims):
        return [array[place : place + 1] for place in range(len(array))]
    raise ShapeError(
        f"a sample has the shape of the model's input, or one more axis in front for several samples, but "
        f"{wanted.name!r} is ({describe_dimensions(dims)}) and the array is {array.shape}; give another shape"
    )


def draw_samples(
    inputs: Sequence[ModelInput], count: int, shapes: ShapeRequest | None, seed: int, *, every: bool = False
) -> list[Sample]:
    """Random samples: standard normal numbers, and integers that are 0 or 1.

    Args:
        inputs: of the model.
        count: how many samples.
        shapes: the extents of open dimensions.
        seed: of the numbers.
        every: whether there are ``count`` samples of each bucket, instead of the first one.

    Raises:
        ShapeError: an extent is not known.
    """
    buckets = bind_shapes(shapes or ShapeRequest(), {i.name: i.dimensions for i in inputs})
    rng = np.random.default_rng(seed)
    found: list[Sample] = []
    for bound in [bound for bound in buckets[: None if every else 1] for _ in range(count)]:
        sample: dict[str, Array] = {}
        for wanted in inputs:
            shape = bound[wanted.name]
            if shape is None or None in shape:
                raise ShapeError(
                    f"random samples need all shapes, but an input is {wanted}; give its shape with --shape, such as "
                    f"--shape {wanted.name}=1,..."
                )
            extents = tuple(int(extent or 0) for extent in shape)
            normal = wanted.dtype.kind == "f"
            numbers = rng.standard_normal(extents) if normal else rng.integers(0, 2, extents)
            sample[wanted.name] = np.asarray(numbers).astype(wanted.dtype)
        found.append(sample)
    return found


def hold_out(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The samples to calibrate with, and those to judge by: every fifth, or the last of fewer. A single one is both."""
    if len(samples) < 2:
        return list(samples), list(samples)
    places = set(range(_HELD_OUT - 1, len(samples), _HELD_OUT)) or {len(samples) - 1}
    kept = [sample for place, sample in enumerate(samples) if place not in places]
    return kept, [sample for place, sample in enumerate(samples) if place in places]


def how_to_make_samples(inputs: Sequence[ModelInput]) -> str:
    """The end of a message: the program that writes a file of samples for a model's inputs."""
    given = ", ".join(f"{i.name}=array" if i.name.isidentifier() else f"**{{{i.name!r}: array}}" for i in inputs)
    shapes = "; ".join(map(str, inputs))
    return (
        f"write some with numpy.savez('samples.npz', {given}), where each array has one axis in front for the samples "
        f"({shapes}), and give --calibrate samples.npz. --dynamic needs none, and --random draws some for trials of "
        "speed only"
    )
