"""Chooses which weights are rounded to bfloat16, by the error that this brings to the outputs of the whole network.

The outputs of the model in double precision are the reference. If all weights together bring too much, those that bring
the most by themselves stay float32, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tilewright.difference import compare_arrays
from tilewright.errors import ModelError, ProcessError
from tilewright.frontend.shapes import ShapeRequest
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.quantising.accuracy import run_model
from tilewright.quantising.rounding import Matrix, find_matrices, make_samples, write_rounded
from tilewright.quantising.samples import Sample
from tilewright.wording import describe_error

if TYPE_CHECKING:
    import onnx

    from tilewright.tensor import Array

__all__ = ["Chosen", "Groups", "choose_weights", "keep_within", "list_matrices"]

#: Names of weights, by group. The weights of a group are rounded together, or not at all.
Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chosen:
    """Which groups of weights are rounded.

    Attributes:
        groups: their numbers; empty: no file was written.
        alone: for each group, the error if only its weights are rounded.
        error: of the chosen groups together.
        plain: the error if nothing is rounded, of float32 itself.
        samples: the number of samples that outputs were compared on.
        random: whether these are random.
        double: whether the reference was in double precision; otherwise it was the model in ONNX Runtime.
    """

    groups: tuple[int, ...]
    alone: tuple[float, ...]
    error: float
    plain: float
    samples: int
    random: bool
    double: bool


def list_matrices(model: Path, shapes: ShapeRequest | None, cached: int) -> list[Matrix]:
    """The matrices of a model that could be rounded; see :func:`tilewright.quantising.rounding.find_matrices`.

    Raises:
        ModelError: the model cannot be read.
        ShapeError: a shape does not fit.
    """
    try:
        with IsolatedCall(list_here, model, shapes, cached) as call:
            return cast("list[Matrix]", call.result())
    except ProcessError as error:
        raise ModelError(f"a model can be read by the onnx package, but {model} ends it: {error}") from error


def list_here(path: Path, shapes: ShapeRequest | None, cached: int) -> list[Matrix]:
    """As :func:`list_matrices`, in this process."""
    from tilewright.frontend.onnx.file import read_proto

    return find_matrices(read_proto(path), shapes, cached)


def choose_weights(
    model: Path, out: Path, shapes: ShapeRequest | None, groups: Groups, most: float, seed: int
) -> Chosen:
    """Write a model in which as many groups of weights are rounded as the error allows.

    Args:
        model: the ONNX file.
        out: the file to write.
        shapes: what is asked of the inputs. Its samples are those that outputs are compared on.
        groups: the weights.
        most: the largest error of an output, relative to the output's largest number.
        seed: of random samples.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
        ShapeError: samples do not fit, or a shape is not known.
    """
    try:
        with IsolatedCall(choose_here, model, out, shapes, groups, most, seed) as call:
            return cast(Chosen, call.result())
    except ProcessError as error:
        raise ModelError(
            f"ONNX Runtime runs the model with rounded weights, but it failed: {error}; leave out --precision"
        ) from error


def choose_here(path: Path, out: Path, shapes: ShapeRequest | None, groups: Groups, most: float, seed: int) -> Chosen:
    """As :func:`choose_weights`, in this process, in which ONNX Runtime may print or crash."""
    from tilewright.frontend.onnx.file import read_proto

    model = read_proto(path)
    samples, random = make_samples(model, shapes, seed)
    wanted, double = _find_reference(model, path, samples)

    def error_of(chosen: Collection[int]) -> float:
        if not chosen:
            return _compare(wanted, run_model(path, samples))
        write_rounded(model, {name for number in chosen for name in groups[number]}, out)
        return _compare(wanted, run_model(out, samples))

    plain = error_of(())
    alone = tuple(error_of((number,)) for number in range(len(groups)))
    kept, error = keep_within(alone, most, error_of)
    if kept:
        write_rounded(model, {name for number in kept for name in groups[number]}, out)
    return Chosen(kept, alone, error, plain, len(samples), random, double)


def keep_within(
    alone: Sequence[float], most: float, error_of: Callable[[Collection[int]], float]
) -> tuple[tuple[int, ...], float]:
    """As many groups as the error allows, those with the least errors of their own.

    Args:
        alone: for each group, the error if only its weights are rounded.
        most: the largest error of all together.
        error_of: the error of groups together.

    Returns:
        the groups by number, and their error.
    """
    kept = sorted((number for number in range(len(alone)) if alone[number] <= most), key=lambda n: alone[n])
    while kept:
        error = error_of(tuple(kept))
        if error <= most:
            return tuple(sorted(kept)), error
        kept.pop()
    return (), error_of(())


def _find_reference(
    model: onnx.ModelProto, path: Path, samples: Sequence[Sample]
) -> tuple[Sequence[Sequence[Array]], bool]:
    """The outputs of the model in double precision, or those of ONNX Runtime if the evaluator lacks an operator."""
    from tilewright.verify.evaluator import OnnxEvaluator

    names = list(samples[0])
    try:
        evaluator = OnnxEvaluator(model, names, double=True)
        return [evaluator.run([sample[name] for name in names]) for sample in samples], True
    except Exception:  # the evaluator's errors share no base class
        pass
    try:
        return run_model(path, samples), False
    except Exception as error:  # nor do those of ONNX Runtime
        raise ModelError(
            f"ONNX Runtime runs the model on the samples, but it failed: {describe_error(error)}; check the samples"
        ) from error


def _compare(wanted: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """The largest error of an output, relative to the output's largest number, over all samples."""
    return max(
        compare_arrays(np.asarray(ours), np.asarray(right), np.ones(np.shape(right))).error
        if np.shape(ours) == np.shape(right)
        else float("inf")
        for one, other in zip(wanted, found, strict=True)
        for right, ours in zip(one, other, strict=True)
    )
