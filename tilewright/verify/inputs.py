"""Finds inputs on which a wrong result would show, with the expected outputs for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MeasureError
from tilewright.frontend.network import Network
from tilewright.tensor import Array
from tilewright.verify.constant_outputs import find_constant_outputs
from tilewright.verify.draws import blend_arrays, draw_inputs
from tilewright.verify.integers import Range, find_ranges
from tilewright.verify.quantised import is_quantised
from tilewright.verify.reference import NoReferenceError, Reference
from tilewright.verify.tolerance import compute_tolerance, find_clear, is_telling, measure_clearness, measure_noise

__all__ = ["Trial", "Trials", "find_trials"]

#: The kinds of inputs in the order in which they are tried, each with the factor that its numbers are multiplied with.
_KINDS = (
    *(("normal", 1.0), ("image-like", 1.0), ("normal", 0.1), ("image-like", 0.01), ("normal", 10.0)),
    *(("image-like", 255.0), ("normal", 0.01), ("normal", 100.0), ("normal", 0.001), ("normal", 1000.0)),
)
#: If the first inputs hardly matter to the outputs, larger inputs are tried next. Their factor is chosen so that the
#: outputs differ by ``_AMPLE`` times what is sufficient. If the factor would exceed ``_LARGEST``, none is tried.
_LARGEST, _AMPLE = 1e9, 10.0
#: Conclusive inputs that are enough, and the most inputs that are kept.
_ENOUGH, _MOST = 2, 3
#: The amplitudes of the evaluations that measure noise: of floating-point outputs, and of outputs of integers. An
#: integer only shows whether rounding matters, and not how much, so integers need more evaluations.
_AMPLITUDES, _FOR_INTEGERS = (2.0,), (2.0, 8.0, 8.0)
#: Outputs of fewer elements than ``_SMALL`` in all are small. A small output may show a lost element for some inputs
#: only. If an evaluation takes less than ``_QUICK`` seconds, more evaluations measure the noise of small outputs.
_SMALL, _QUICK, _FOR_SMALL = 4096, 0.5, (2.0,) * 8
#: Inputs are added for small outputs until ``_NUMBERS`` numbers of each output were compared that would show a mistake,
#: among them the share ``_NEARLY`` of its elements. This takes at most ``_ADDING`` seconds and ``_MOST_ADDED`` inputs.
_ADDING, _MOST_ADDED, _NUMBERS, _NEARLY = 3.0, 32, 128, 0.99


@dataclass(frozen=True, eq=False)
class Trial:
    """Inputs, and the expected outputs for them.

    Attributes:
        inputs: one array for each input of the network.
        expected: the reference's outputs. Floating-point outputs have the reference's precision.
        noise: one array for each output, of its shape: the size of error that rounding explains in each element;
            infinite where it explains any error.
        what: the kind of inputs, for people, such as ``normal x 0.1``.
        telling: whether the inputs are conclusive for each output: enough elements would show a wrong result.
    """

    inputs: tuple[Array, ...]
    expected: tuple[Array, ...]
    noise: tuple[NDArray[np.float64], ...]
    what: str
    telling: tuple[bool, ...] = ()

    @property
    def conclusive(self) -> bool:
        """Whether a wrong result would show in some output."""
        return any(self.telling)


@dataclass(frozen=True, eq=False)
class Trials:
    """All inputs that a program is judged on.

    Attributes:
        trials: the inputs, conclusive ones first. The others may still show that a program is wrong.
        precision: the reference's: ``float64`` or ``float32``; empty if there is no reference.
        problem: why the inputs do not suffice to call a program right; empty if they do.
        dtypes: the dtypes of a right program's outputs; empty if they are not known.
        names: the names of the outputs.
        note: a remark about the reference, or that there was no time for more inputs.
    """

    trials: tuple[Trial, ...]
    precision: str
    problem: str = ""
    dtypes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    note: str = ""


def find_trials(
    network: Network,
    reference: Reference,
    seed: int = 0,
    seconds: float = 60.0,
    samples: Sequence[Sequence[Array]] = (),
) -> Trials:
    """Find inputs of the network on which a wrong result would show.

    Inputs are conclusive for an output if enough of its elements differ clearly from those for inputs nearby. An output
    of integers, or of few values, is compared with those for all other inputs. For an output that depends on no input,
    all inputs are conclusive.

    Args:
        network: the network.
        reference: its reference.
        seed: the seed of the inputs; the same seed gives the same inputs.
        seconds: the time limit, after which no further inputs are tried.
        samples: inputs that a program is judged on besides.
    """
    names = tuple(spec.name for spec in network.outputs)
    search = _Search(network, reference, seed, time.monotonic() + seconds)
    try:
        search.run()
        search.add()
        search.add_samples(samples)
    except NoReferenceError as exc:
        return Trials((), "", reference.problem or str(exc), reference.dtypes, names)
    if not search.tried:
        why = f"the reference accepts none of the inputs that were tried: {search.refused}"
        return Trials((), reference.precision, why, reference.dtypes, names)
    kept = search.judged()
    if _silent(kept):
        kept = search.judged(lenient=frozenset(_silent(kept)))
    kept, added, sampled = kept[: search.found], kept[search.found :], kept[search.drawn :]
    kept.sort(key=lambda trial: sum(trial.telling), reverse=True)
    problem = ""
    silent = [k for k in _silent(kept) if not any(trial.telling[k] for trial in sampled)]
    if silent:
        which = ", ".join(repr(names[k] if k < len(names) else str(k)) for k in silent[:3])
        problem = (
            f"no inputs were found for which a wrong result would show in output {which}: "
            f"{_describe(kept, silent[0])}; give inputs of your own with --sample"
        )
    notes = [
        reference.problem,
        "there was no time for more inputs" if search.cut_short else "",
        *search.refused_samples,
    ]
    note = "; ".join(filter(None, notes))
    return Trials((*_fewest(kept), *added), reference.precision, problem, reference.dtypes, names, note)


class _Evaluated(NamedTuple):
    """The outputs of evaluations in the model's own precision.

    Attributes:
        amplitudes: by how much each of ``rounded`` was disturbed, as far as that makes its errors larger.
        rounded: the outputs for the inputs, disturbed.
        nearby: the outputs for inputs nearby, not disturbed.
    """

    amplitudes: tuple[float, ...]
    rounded: list[list[Array]]
    nearby: list[Array]


class _Search:
    """A search for conclusive inputs.

    Attributes:
        tried: the trials so far.
        found: how many trials were made to find conclusive inputs. The trials after these were added for small outputs.
        refused: why the reference refused inputs, the first time that it did.
        drawn: how many trials were made before samples were added.
        refused_samples: why the reference refused samples.
        cut_short: whether there was no time to try more inputs.
    """

    def __init__(self, network: Network, reference: Reference, seed: int, end: float) -> None:
        self.tried: list[Trial] = []
        self.found = 0
        self.refused = ""
        self.drawn = 0
        self.refused_samples: list[str] = []
        self.cut_short = False
        self._nearby: list[list[Array]] = []
        self._network, self._reference, self._seed, self._end = network, reference, seed, end
        self._constant = find_constant_outputs(network)
        self._small = False
        self._ranges: list[Range | None] = []

    def run(self) -> None:
        """Try inputs until enough are conclusive, or the time is over."""
        self._ranges = find_ranges(self._network, self._reference, self._seed)
        waiting = list(enumerate(_KINDS[: None if self._network.inputs else 1]))
        # There are at least two trials: a single one could not be compared with others.
        while waiting:
            if len(self.tried) >= _ENOUGH and time.monotonic() >= self._end:
                self.cut_short = True
                break
            number, (kind, scale) = waiting.pop(0)
            try:
                self._try(number, kind, scale)
            except NoReferenceError:
                raise
            except MeasureError as exc:
                self.refused = self.refused or str(exc)
                continue
            kept = self.judged()
            silent = _silent(kept)
            if sum(trial.conclusive for trial in kept) >= _ENOUGH and not silent:
                break
            if all(kept[-1].telling) and not all(trial.conclusive for trial in kept):
                # This kind was telling where others were not, so it is likely to be telling again.
                waiting.insert(0, (number + len(_KINDS) + 2, (kind, scale)))
            elif len(self.tried) == 1 and silent:
                factor = self._missing_factor(silent)
                extra = [("normal", factor), ("normal", 30 * factor)] if factor > 1 else []
                waiting[:0] = enumerate(extra, len(_KINDS))
        self.found = len(self.tried)

    def add(self) -> None:
        """Add inputs for small outputs, which show a lost activation or a lost element for some inputs only."""
        if not (self._small and self.tried and self._network.inputs):
            return
        end = min(self._end, time.monotonic() + _ADDING)
        kinds = [_KINDS[k] for k in (0, 4, 1, 2)]
        for number in range(_MOST_ADDED):
            if self._well_judged():
                return
            if time.monotonic() >= end:
                self.cut_short = True
                return
            try:
                self._try(2 * len(_KINDS) + number, *kinds[number % len(kinds)])
            except NoReferenceError:
                raise
            except MeasureError:
                continue

    def add_samples(self, samples: Sequence[Sequence[Array]]) -> None:
        """Add inputs that somebody gave. One that the reference refuses is left out, and said to be refused."""
        self.drawn = len(self.tried)
        for number, sample in enumerate(samples):
            what = f"sample {number + 1}"
            try:
                rng = np.random.default_rng([self._seed, 1 << 19, number])
                others = draw_inputs(self._network, self._ranges, rng, "normal", 1.0, narrow=False)
            except MeasureError:  # nothing can be made up for an input
                others = list(sample)
            try:
                self._evaluate(list(sample), others, what)
            except NoReferenceError:
                raise
            except MeasureError as exc:
                self.refused_samples.append(f"the reference refuses {what}: {exc}")

    def _well_judged(self) -> bool:
        """Whether enough numbers of each floating-point output were compared that would have shown a mistake."""
        for k, output in enumerate(self.tried[0].expected):
            if output.dtype.kind != "f" or not output.size or k in self._constant:
                continue
            shown = [
                find_clear(trial.expected[k], nearby[k], self._allowed(trial, k))
                for trial, nearby in zip(self.tried, self._nearby, strict=True)
                if trial.expected[k].shape == nearby[k].shape == output.shape
            ]
            if shown and (np.sum(shown) < _NUMBERS or np.mean(np.any(shown, axis=0)) < _NEARLY):
                return False
        return True

    def judged(self, lenient: frozenset[int] = frozenset()) -> list[Trial]:
        """The trials, each with the outputs that it is telling of.

        Args:
            lenient: indices of outputs that are compared with those for all other inputs, instead of inputs nearby.
        """
        count = len(self.tried[0].expected)
        same = self._constant | {k for k in range(count) if _never_varies(self.tried, k)}
        found = []
        for trial, nearby in zip(self.tried, self._nearby, strict=True):
            others = [other.expected for other in self.tried if other is not trial]
            flags = []
            for k in range(count):
                close = k not in lenient and trial.expected[k].dtype.kind == "f"
                rivals = [nearby] if close else others
                allowed = self._allowed(trial, k)
                flags.append(k in same or any(is_telling(trial.expected[k], rival[k], allowed) for rival in rivals))
            found.append(replace(trial, telling=tuple(flags)))
        return found

    def _try(self, number: int, kind: str, scale: float) -> None:
        """Evaluate the reference on the inputs number ``number``, of a kind and a scale."""
        sources = (np.random.default_rng([self._seed, number, k]) for k in range(2))
        inputs, others = (
            draw_inputs(self._network, self._ranges, rng, kind, scale, bool(number % 2)) for rng in sources
        )
        self._evaluate(inputs, others, kind if scale == 1 else f"{kind} x {scale:g}")

    def _evaluate(self, inputs: list[Array], others: list[Array], what: str) -> None:
        """Evaluate the reference on inputs, and on inputs nearby, in the direction of others."""
        nearby = [blend_arrays(a, b) for a, b in zip(inputs, others, strict=True)]
        reference = self._reference
        if not self.tried:
            self._look_at_size(inputs)
        precision = reference.precision
        with ThreadPoolExecutor(1) as pool:  # two processes evaluate at the same time
            beside = pool.submit(self._evaluate_rounded, inputs, nearby)
            expected = reference.outputs(inputs)
        same_one = reference.precision == precision  # otherwise another reference has taken over meanwhile
        evaluated = beside.result() if same_one else self._evaluate_rounded(inputs, nearby)
        noise = []
        for k, output in enumerate(expected):
            same = [outputs[k] for outputs in evaluated.rounded]
            if any(other.shape != output.shape for other in same):
                raise MeasureError("rounding decides the shape of an output")
            quantised = is_quantised(self._network.onnx)
            noise.append(measure_noise(output, same, evaluated.amplitudes, reference.precision, quantised))
        self.tried.append(Trial(tuple(inputs), tuple(expected), tuple(noise), what))
        self._nearby.append(evaluated.nearby)

    def _look_at_size(self, inputs: list[Array]) -> None:
        """Find out whether the outputs are small, and quick to compute. The first evaluation is slower than others."""
        if sum(int(np.prod(spec.shape)) for spec in self._network.outputs) < _SMALL:
            self._reference.outputs(inputs)
            begin = time.monotonic()
            self._reference.outputs(inputs)
            self._small = time.monotonic() - begin < _QUICK

    def _evaluate_rounded(self, inputs: list[Array], nearby: list[Array]) -> _Evaluated:
        """Evaluate the model in its own precision, for the inputs and for inputs nearby."""
        rounded = self._reference.rounded
        integers = any(np.dtype(dtype).kind != "f" for dtype in self._reference.dtypes or ("int64",))
        amplitudes = (*(_FOR_SMALL if self._small else ()), *(_FOR_INTEGERS if integers else _AMPLITUDES))
        outputs = [rounded(inputs, seed, amplitude) for seed, amplitude in enumerate(amplitudes)]
        if is_quantised(self._network.onnx):
            # Any rounding moves bytes by a whole quantum. A larger one does not move them further.
            amplitudes = (1.0,) * len(amplitudes)
        return _Evaluated(amplitudes, outputs, rounded(nearby, 0, 0.0))

    def _allowed(self, trial: Trial, k: int) -> NDArray[np.float64]:
        """The tolerance of each element of the output number ``k``."""
        dtypes = self._reference.dtypes
        return compute_tolerance(trial.expected[k], trial.noise[k], dtypes[k] if k < len(dtypes) else "float32")

    def _missing_factor(self, silent: Sequence[int]) -> float:
        """The factor of inputs with which outputs differ enough, if they grow with the inputs; 0: it is not known.

        Args:
            silent: indices of the outputs that did not differ enough.
        """
        trial, nearby = self.tried[0], self._nearby[0]
        found = 0.0
        for k in silent:
            if trial.expected[k].dtype.kind == "f" and trial.expected[k].shape == nearby[k].shape:
                share = measure_clearness(trial.expected[k], nearby[k], self._allowed(trial, k))
                found = max(found, _AMPLE / share if share * _LARGEST > _AMPLE else 0.0)
        return float(f"{found:.0e}")


def _never_varies(tried: Sequence[Trial], k: int) -> bool:
    """Whether the output number ``k`` is the same for all of at least three inputs, and does not hold one number only.

    An empty output never varies.
    """
    first = tried[0].expected[k]
    kind = first.dtype.kind == "f"
    if len(tried) < 3 or not first.size or np.array_equal(first, np.full_like(first, first.flat[0]), equal_nan=kind):
        return first.size == 0
    return all(np.array_equal(first, trial.expected[k], equal_nan=kind) for trial in tried[1:])


def _silent(trials: Sequence[Trial]) -> list[int]:
    """The indices of the outputs that no trial is telling of."""
    return [k for k, flags in enumerate(zip(*(trial.telling for trial in trials), strict=True)) if not any(flags)]


def _describe(trials: Sequence[Trial], k: int) -> str:
    """Why the output number ``k`` shows nothing: what it looks like."""
    arrays = [trial.expected[k] for trial in trials]
    if not any(np.any(array) for array in arrays):
        return "it is 0 for all inputs that were tried"
    if all(array.dtype.kind == "f" and np.all(np.isnan(array)) for array in arrays):
        return "it is not a number (NaN) for all inputs that were tried"
    if all(np.array_equal(arrays[0], array) for array in arrays[1:]):
        return "it is the same for all inputs that were tried"
    return "it hardly differs between the inputs that were tried"


def _fewest(trials: Sequence[Trial]) -> list[Trial]:
    """As few trials as are telling of all outputs that any is telling of, filled up by some that are not conclusive."""
    kept: list[Trial] = []
    for trial in trials:
        missing = any(f and not any(other.telling[k] for other in kept) for k, f in enumerate(trial.telling))
        if missing or (trial.conclusive and len(kept) < _ENOUGH):
            kept.append(trial)
    rest = [trial for trial in trials if trial not in kept and not trial.conclusive]
    return kept + rest[: max(0, _MOST - len(kept))]
