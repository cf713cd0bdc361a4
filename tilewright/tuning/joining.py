"""Which attentions, pairs of convolutions, and pairs of dense layers of a network one function computes.

One function is measured against the separate ones, the heaviest first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tilewright.graph.expansions import Joint
from tilewright.graph.tasks import task_of
from tilewright.measure.runner import Runner
from tilewright.ops.attention import Attention, attention
from tilewright.ops.attention.form import KIND as ATTENTION
from tilewright.ops.mlp import KIND as MLP
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.algorithms import MORE_CONFIGS, measure_few
from tilewright.tuning.report import AlgorithmReport

__all__ = ["JoinChoice", "choose_joined", "joined_task"]

#: One function must be so much faster than several, which are tuned by more measurements later.
_GAIN = 1.05
#: Of two dense layers it may even be a little slower by itself, where two functions find the hidden rows in each
#: core's own cache. Within a network the second one reads half of them from another core. In ViT-tiny and in MiniLM
#: both together took 1.11 times as long as by themselves, and one function as long as by itself.
_MLP_GAIN = 0.95
#: The names of both ways in reports.
_ONE, _SEVERAL = "one_function", "several"


@dataclass(frozen=True)
class JoinChoice:
    """What was chosen for an attention, or for a pair of convolutions or dense layers.

    Attributes:
        form: the attention or the pair.
        count: how often the network computes it.
        joined: whether one function computes it.
        seconds: of both ways, by their names. Of several functions that were slower, the first ones only. Empty where
            there was no time to measure, and the choice is that of a similar one.
    """

    form: Attention | Joint
    count: int
    joined: bool
    seconds: dict[str, float]

    def report(self) -> AlgorithmReport:
        """For the report of the command."""
        milliseconds = {name: 1e3 * seconds for name, seconds in self.seconds.items()}
        return AlgorithmReport(str(self.form), self.count, _ONE if self.joined else _SEVERAL, milliseconds)


def joined_task(form: Attention | Joint) -> Task:
    """The task of the one function."""
    return form.one if isinstance(form, Joint) else task_of("attention", attention(form))


def choose_joined(
    forms: Iterable[tuple[Attention | Joint, int]],
    separate: Callable[[Attention | Joint], Sequence[Task]],
    target: Target,
    runner: Runner,
    store: Store,
    deadline: float,
    *,
    most_trials: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[JoinChoice], int]:
    """Measure both ways of each form with a few configs, and choose the faster one.

    What the store knows of a task is not measured again. A form for which there is no time is computed as the measured
    one of its kind whose work is most like its own; by several functions, and not in the result, where none was
    measured.

    Args:
        forms: attentions and pairs of convolutions, with how often each occurs.
        separate: gives the tasks of the several functions.
        target: what is measured for.
        runner: measures, and stores what it has measured.
        store: earlier measurements.
        deadline: the clock's reading after which no measurement is begun.
        most_trials: no form is begun that might exceed so many measurements.
        clock: gives seconds.

    Returns:
        The choices, and how many measurements were made.

    Raises:
        MeasureError: the runner cannot work.
    """
    choices: list[JoinChoice] = []
    trials = 0
    ordered = sorted(forms, key=lambda item: -item[0].work * item[1])
    for form, count in ordered:
        if clock() >= deadline:
            break
        several = sorted(separate(form), key=lambda task: -task.flop)
        if trials + (1 + len(several)) * (1 + MORE_CONFIGS) > most_trials:
            break
        one, made = measure_few(joined_task(form), target, runner, store, math.inf, deadline)
        trials += made
        total, known = 0.0, True
        for task in several:
            spent, made = measure_few(task, target, runner, store, one, deadline)
            trials += made
            total += spent
            known = known and (made > 0 or math.isfinite(spent))
            if total > one * _gain_of(form):  # what follows can only add to it
                break
        if not (math.isfinite(one) and math.isfinite(total)):
            if clock() >= deadline:
                break  # the time ended: what is not measured has not lost
            if not (math.isfinite(one) and known):
                choices.append(JoinChoice(form, count, joined=False, seconds={}))
                continue
        seconds = {_ONE: one} | ({_SEVERAL: total} if math.isfinite(total) else {})
        choices.append(JoinChoice(form, count, one * _gain_of(form) < total, seconds))
    return choices + _by_analogy(choices, ordered[len(choices) :]), trials


def _gain_of(form: Attention | Joint) -> float:
    """How much faster one function must be than several."""
    return _MLP_GAIN if _kind_of(form) == MLP else _GAIN


def _kind_of(form: Attention | Joint) -> str:
    """The kind of the one function's task."""
    return form.one.kind if isinstance(form, Joint) else ATTENTION


def _by_analogy(measured: list[JoinChoice], others: Sequence[tuple[Attention | Joint, int]]) -> list[JoinChoice]:
    """Choices for ``others``, each that of the measured form of its kind with the most similar work."""

    def distance(one: Attention | Joint, other: Attention | Joint) -> float:
        return abs(math.log2(one.work / other.work))

    choices = []
    for form, count in others:
        like = min(
            (choice for choice in measured if _kind_of(choice.form) == _kind_of(form)),
            key=lambda choice: distance(choice.form, form),
            default=None,
        )
        if like is not None:
            choices.append(JoinChoice(form, count, like.joined, {}))
    return choices
