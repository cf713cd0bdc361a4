"""Which algorithm computes each convolution of a network: measured, the heaviest convolutions first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tilewright.errors import SpaceError
from tilewright.graph.convolution import Algorithm, Convolution, is_fused, winograd_tile
from tilewright.graph.tasks import task_of
from tilewright.measure.runner import Runner
from tilewright.ops import contraction, winograd
from tilewright.ops.registry import make_space
from tilewright.records.store import Store
from tilewright.space.guard import guard_space
from tilewright.space.likely import find_likely
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.report import AlgorithmReport

__all__ = ["MORE_CONFIGS", "AlgorithmChoice", "assume_algorithms", "choose_algorithms", "measure_few", "stages"]

#: Which parameters of those functions are weights that have any.
_WEIGHTS = (1,)
#: Another algorithm than the direct one must be so much faster, for rounding errors are larger in all of them.
_GAIN = 1.05
#: A convolution is computed as a measured one if the estimated share of Winograd's algorithm is less than so many times
#: as large. (ResNet's 7x7 pixels have 2.7 times the share of its 14x14 pixels: 38 MB of transformed weights, which two
#: cores of an Emerald Rapids read in 0.9 ms; directly, the convolution takes 0.7 ms.)
_ALIKE = 2.0
#: Configs measured of each task besides its default, where its space can name good ones.
MORE_CONFIGS = 3


@dataclass(frozen=True)
class AlgorithmChoice:
    """What was chosen for a convolution.

    Attributes:
        convolution: the convolution.
        count: how often the network computes it.
        chosen: its algorithm.
        seconds: of each algorithm that was measured. Of one whose first stages alone took longer than another, those
            stages only. Empty where there was no time to measure, and the algorithm is that of a similar convolution.
    """

    convolution: Convolution
    count: int
    chosen: Algorithm
    seconds: dict[Algorithm, float]

    def report(self) -> AlgorithmReport:
        """For the report of the command."""
        milliseconds: dict[str, float] = {name: 1e3 * seconds for name, seconds in self.seconds.items()}
        return AlgorithmReport(str(self.convolution), self.count, self.chosen, milliseconds)


def stages(convolution: Convolution, algorithm: Algorithm) -> tuple[Task, ...]:
    """The tasks that together compute ``convolution`` by ``algorithm``, without what may be fused into the last."""
    conv = convolution
    m = winograd_tile(algorithm)
    if m is None:
        function = contraction.conv2d(conv.packed_data, conv.packed_weight, conv.stride, conv.padding, (1, 1))
        return (task_of("conv2d", function, _WEIGHTS),)
    tiling, weight = conv.tiling(m), conv.transformed_weight(m)
    if is_fused(algorithm):
        return (task_of(f"conv_winograd{m}", winograd.fused(tiling, conv.packed_data, weight), _WEIGHTS),)
    return (
        task_of(f"products{m}", winograd.products(tiling, weight), _WEIGHTS),
        task_of(f"winograd{m}", winograd.data_transform(tiling, conv.packed_data)),
        task_of(f"inverse{m}", winograd.inverse_transform(tiling, weight[1], weight[4])),
    )


def assume_algorithms(convolutions: Iterable[Convolution]) -> dict[Convolution, Algorithm]:
    """Winograd's F(4x4, 3x3) in three stages where arithmetic and traffic say that it is faster; nothing is measured.

    Args:
        convolutions: with ``float32`` data.

    Returns:
        The algorithms of those that are not to be computed directly.
    """
    assumed: Algorithm = "winograd4"
    return {conv: assumed for conv in convolutions if conv.winograd_pays}


def choose_algorithms(
    convolutions: Iterable[tuple[Convolution, int]],
    target: Target,
    runner: Runner,
    store: Store,
    deadline: float,
    *,
    most_trials: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[AlgorithmChoice], int]:
    """Measure the algorithms of each convolution with a few configs, and choose the fastest.

    What the store knows of a task is not measured again. Convolutions for which there is no time, the lightest, are
    computed as the measured one that is most like them (by pixels and channels); directly, and not in the result, where
    none was measured.

    Args:
        convolutions: with how often each occurs.
        target: what is measured for.
        runner: measures, and stores what it has measured.
        store: earlier measurements.
        deadline: the clock's reading after which no measurement is begun.
        most_trials: no convolution is begun that might exceed so many measurements.
        clock: gives seconds.

    Returns:
        The choices, and how many measurements were made.

    Raises:
        MeasureError: the runner cannot work.
    """
    choices: list[AlgorithmChoice] = []
    unknown: list[tuple[Convolution, int]] = []
    trials = 0
    ordered = sorted(convolutions, key=lambda item: -item[0].flop * item[1])
    for place, (conv, count) in enumerate(ordered):
        # Nine tasks: the direct one, two in one function, and three each of the two in three.
        if clock() >= deadline or trials + 9 * (1 + MORE_CONFIGS) > most_trials:
            unknown += ordered[place:]
            break
        seconds: dict[Algorithm, float] = {}
        # In one function first, then the largest tiles: where stages are slower, their first one often ends it there.
        for algorithm in (conv.algorithms[0], *reversed(conv.algorithms[1:])):
            total = 0.0
            for task in stages(conv, algorithm):
                limit = min(seconds.values(), default=math.inf)
                spent, made = measure_few(task, target, runner, store, limit, deadline)
                trials += made
                total += spent
                if total > limit:  # what follows can only add to it
                    break
            if math.isfinite(total):
                seconds[algorithm] = total
        direct = seconds.get("direct")
        if direct is None or (len(seconds) == 1 and clock() >= deadline):
            unknown.append((conv, count))  # what was not measured, or is not on record, has not lost
            continue
        fastest = min(seconds, key=lambda name: seconds[name])
        choices.append(
            AlgorithmChoice(conv, count, fastest if seconds[fastest] * _GAIN < direct else "direct", seconds)
        )
    return choices + _by_analogy(choices, unknown), trials


def _by_analogy(measured: list[AlgorithmChoice], others: Sequence[tuple[Convolution, int]]) -> list[AlgorithmChoice]:
    """Choices for ``others``, each that of the most similar measured convolution.

    Winograd's algorithm is no choice where it is estimated to gain much less: on few pixels its transformed weights,
    four times as many numbers, take longer to read than all products of the direct algorithm.
    """

    def distance(one: Convolution, other: Convolution) -> float:
        sizes = [(math.prod(c.result[2:]), c.weight[0], c.weight[1]) for c in (one, other)]
        return sum(abs(math.log2(a / b)) for a, b in zip(*sizes, strict=True))

    choices = []
    for conv, count in others:
        like = min(measured, key=lambda choice: distance(choice.convolution, conv), default=None)
        if like is None or like.chosen not in conv.algorithms:
            continue
        if like.chosen == "direct" or conv.winograd_share < _ALIKE * max(like.convolution.winograd_share, 1 / _GAIN):
            choices.append(AlgorithmChoice(conv, count, like.chosen, {}))
    return choices


def measure_few(
    task: Task, target: Target, runner: Runner, store: Store, limit: float, deadline: float
) -> tuple[float, int]:
    """The latency of the best of a few configs, or of the best on record; inf where none works."""
    try:
        space = make_space(task, target)
        with guard_space(f"the design space of {task.name!r}"):
            likely = find_likely(space, 1 + MORE_CONFIGS)
    except SpaceError:
        return math.inf, 0
    known = store.best(task.key, target.key, space.template, 1)
    if known:
        return known[0].seconds, 0
    store.describe(task)
    measured = runner.measure(space, likely, limit, deadline)
    return min((m.seconds for m in measured if m.ok), default=math.inf), len(measured)
