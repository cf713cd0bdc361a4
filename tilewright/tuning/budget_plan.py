"""How the seconds of a budget are divided among the steps of ``tilewright tune``.

The shares of all steps are here; the scheduler divides the seconds for rounds among the tasks. :func:`plan_budget` is
called once, when the network was read and the incumbent was built and judged. So it knows how long compiling takes on
this machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from tilewright.tuning.budget import Budget
from tilewright.tuning.final_race import race_seconds

__all__ = [
    "LEAST_MEASURING",
    "BudgetPlan",
    "Facts",
    "PlannedStep",
    "in_place_seconds",
    "plan_budget",
    "race_reserve",
    "reference_seconds",
    "run_bound",
]

#: Seconds below which a budget is too short to measure anything: half of it passes until workers are ready.
LEAST_MEASURING = 10.0
#: Seconds for finding the inputs that executables are judged on: a share of the budget, at least and at most. Most
#: networks need 1 to 6 s, beside the compiling of the incumbent; DenseNet-121 needs 10.
_REFERENCE, _LEAST_REFERENCE, _MOST_REFERENCE = 0.05, 8.0, 10.0
#: Seconds that compiling an executable takes before one was compiled, and per task; seconds that writing and checking
#: it takes, and per byte of weights. Measured on SqueezeNet to VGG-19.
_COMPILING, _COMPILING_TASK, _WRITING, _WRITING_BYTE = 1.5, 0.1, 2.0, 4e-8
#: Safety factor for repeated work on a noisy machine.
_DOUBT = 1.3
#: The share of the budget for choosing algorithms of convolutions, seconds for that without a time limit, and seconds
#: below which it is not begun, since a convolution takes 2 to 5 s.
_ALGORITHMS, _MOST_ALGORITHMS, _LEAST_ALGORITHMS = 0.1, 60.0, 3.0
#: Seconds in which the first workers start, which tuning would wait for as well: 2.5 on a quiet machine.
_STARTING = 3.0
#: The share of the budget for measuring the best few schedules of each task once more.
_FINALISTS = 0.05
#: The share of the budget for comparing winners with their defaults on several kinds of data, seconds for that without
#: a time limit, and seconds that a task takes.
_CHECKING, _MOST_CHECKING, _CHECKING_TASK = 0.03, 60.0, 0.4
#: The share of the budget for timing the best schedules inside the network, and seconds without a time limit.
_IN_PLACE, _MOST_IN_PLACE = 0.06, 20.0
#: The tuned executable is compared with the incumbent only if the remaining budget is at least this many times the
#: seconds that finishing or racing takes.
_COMPARING = 4.0
#: Seconds that writing and judging an executable takes that is ONNX Runtime on the whole model.
_SEGMENTING = 2.0
#: The share of the budget for the final race, unless its fewest turns take longer; and the share of the machine's speed
#: that a network has at least by then.
_RACE, _LEAST_SPEED = 0.1, 0.5


@dataclass(frozen=True)
class PlannedStep:
    """Seconds for one step, and why so many. inf: there is no time limit."""

    seconds: float
    why: str


@dataclass(frozen=True)
class BudgetPlan:
    """The seconds of each step of a command, in their order. A value: print it with ``print(plan)``.

    Attributes:
        reading: spent: reading the network and cutting it into tasks.
        incumbent: spent: building and judging the executable without tuning.
        algorithms: for measuring algorithms of convolutions, and operators in one function.
        rounds: for tuning the tasks.
        finalists: for measuring the best few schedules of each task once more.
        in_place: for timing the best schedules inside the network.
        checking: for comparing winners with their defaults on several kinds of data.
        race: for racing the tuned executable against the incumbent; 0: there is no race.
        runtime: for racing the better one against ONNX Runtime on the whole model; 0: there is no race.
        writing: for compiling, writing and judging the tuned executable.
        after_race_seconds: the part of ``writing`` that comes after the race.
        most_algorithm_trials: the most measurements for choosing algorithms.
    """

    reading: PlannedStep
    incumbent: PlannedStep
    algorithms: PlannedStep
    rounds: PlannedStep
    finalists: PlannedStep
    in_place: PlannedStep
    checking: PlannedStep
    race: PlannedStep
    runtime: PlannedStep
    writing: PlannedStep
    after_race_seconds: float
    most_algorithm_trials: float

    @property
    def after_rounds(self) -> float:
        """Seconds that the steps after the rounds and the finalists take."""
        steps = (self.in_place, self.checking, self.race, self.runtime, self.writing)
        return sum(step.seconds for step in steps)

    def steps(self) -> Iterator[tuple[str, PlannedStep]]:
        """Each step with its name, in their order."""
        for field in fields(self):
            step = getattr(self, field.name)
            if isinstance(step, PlannedStep):
                yield field.name.replace("_", " "), step

    def __str__(self) -> str:
        lines = [
            f"{name:<11}{'no limit' if math.isinf(step.seconds) else f'{step.seconds:.1f} s':>9}  {step.why}"
            for name, step in self.steps()
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Facts:
    """What a plan is made from.

    Attributes:
        read_seconds: that reading the network and cutting it into tasks took.
        incumbent_seconds: that building and judging the incumbent took.
        extract_seconds: the part of ``read_seconds`` for cutting the network into tasks, which other algorithms of
            convolutions repeat.
        compile_seconds: that compiling the incumbent took; 0: not known.
        tasks: the number of tasks.
        weight_bytes: of the network's packed weights.
        run_seconds: about the longest that a run of the network takes when it is tuned; inf: not known.
        chooses: whether operators of the network can be computed in several ways.
        places: whether schedules can be timed inside the network.
        races_runtime: whether ONNX Runtime can run the model as it would on the target.
        buckets: the number of buckets, each of which is raced by itself.
    """

    read_seconds: float
    incumbent_seconds: float
    extract_seconds: float
    compile_seconds: float
    tasks: int
    weight_bytes: int
    run_seconds: float = math.inf
    chooses: bool = False
    places: bool = False
    races_runtime: bool = False
    buckets: int = 1


def plan_budget(budget: Budget, facts: Facts) -> BudgetPlan:
    """Divide a budget among the steps of a command."""
    total = math.inf if budget.seconds is None else budget.seconds
    left = max(0.0, total - facts.read_seconds - facts.incumbent_seconds)
    compiling = facts.compile_seconds or _COMPILING + _COMPILING_TASK * facts.tasks
    publishing = _WRITING + _WRITING_BYTE * facts.weight_bytes
    writing = PlannedStep(
        publishing + _DOUBT * compiling,
        f"{_DOUBT:g} times the {compiling:.1f} s that compiling took, and {publishing:.1f} s to write and judge it",
    )
    algorithms = _plan_algorithms(budget, facts, left, writing.seconds)
    left -= min(left, algorithms.seconds)
    finite = math.isfinite(facts.run_seconds)
    racing = race_reserve(facts.run_seconds, budget, facts.buckets) if finite else math.inf
    compares = left >= _COMPARING * max(writing.seconds, racing)
    why_not = f"less than {_COMPARING:g} times what finishing or racing takes is left"
    race = PlannedStep(racing, _why_race(budget)) if compares else PlannedStep(0.0, why_not)
    runtime = PlannedStep(
        0.0, why_not if facts.races_runtime else "ONNX Runtime does not run the model, or not as on the target"
    )
    if compares and facts.races_runtime:
        least = facts.buckets * race_seconds(facts.run_seconds)[0] if finite else math.inf
        runtime = PlannedStep(
            facts.buckets * _SEGMENTING + least, "three turns of both, and the writing of an executable for it"
        )
    in_place = PlannedStep(0.0, why_not if facts.places else "schedules cannot be timed inside this network")
    if compares and facts.places:
        in_place = PlannedStep(in_place_seconds(budget), _why_share(budget, _IN_PLACE))
    checking = min(_share(budget, _CHECKING, _MOST_CHECKING), _CHECKING_TASK * facts.tasks)
    finalists = PlannedStep(0.0, f"{100 * _FINALISTS:g} % of the trials")
    if budget.seconds is not None:
        finalists = PlannedStep(_FINALISTS * budget.seconds, _why_share(budget, _FINALISTS))
    spent = in_place.seconds + checking + race.seconds + runtime.seconds + writing.seconds + finalists.seconds
    return BudgetPlan(
        reading=PlannedStep(facts.read_seconds, "spent: reading the network and cutting it into tasks"),
        incumbent=PlannedStep(facts.incumbent_seconds, "spent: building and judging the executable without tuning"),
        algorithms=algorithms,
        rounds=PlannedStep(max(0.0, left - spent), "what the other steps leave"),
        finalists=finalists,
        in_place=in_place,
        checking=PlannedStep(checking, f"{_why_share(budget, _CHECKING)}, at most {_CHECKING_TASK:g} s a task"),
        race=race,
        runtime=runtime,
        writing=writing,
        after_race_seconds=publishing,
        most_algorithm_trials=math.inf if budget.trials is None else _ALGORITHMS * budget.trials,
    )


def reference_seconds(budget: Budget) -> float:
    """Seconds for finding the inputs that executables are judged on."""
    return min(_MOST_REFERENCE, max(_LEAST_REFERENCE, _share(budget, _REFERENCE, math.inf)))


def in_place_seconds(budget: Budget) -> float:
    """Seconds for timing the best schedules inside the network."""
    return _share(budget, _IN_PLACE, _MOST_IN_PLACE)


def race_reserve(run: float, budget: Budget, buckets: int = 1) -> float:
    """Seconds of a budget for the final races of a network of which a run takes ``run`` seconds, one in each bucket."""
    least, full = (buckets * seconds for seconds in race_seconds(run))
    return full if budget.seconds is None else min(full, max(least, _RACE * budget.seconds))


def run_bound(flop: float, reachable: float) -> float:
    """About the longest that a run of a tuned network takes, in seconds.

    Args:
        flop: of a run.
        reachable: operations per second that good code reaches on the machine.
    """
    return flop / (_LEAST_SPEED * reachable)


def _plan_algorithms(budget: Budget, facts: Facts, left: float, writing: float) -> PlannedStep:
    if not facts.chooses:
        return PlannedStep(0.0, "no convolution or attention of the network has a choice")
    seconds = _share(budget, _ALGORITHMS, _MOST_ALGORITHMS)
    # Cutting the network into tasks once more takes as long as before, and making design spaces about that as well.
    reserve = 2.0 * facts.extract_seconds + writing
    if seconds < _LEAST_ALGORITHMS or left <= reserve:
        return PlannedStep(0.0, "the budget is too short to measure a convolution")
    return PlannedStep(
        min(_STARTING + seconds, left - reserve), f"{_why_share(budget, _ALGORITHMS)}, and {_STARTING:g} s for workers"
    )


def _share(budget: Budget, share: float, most: float) -> float:
    """A share of the seconds of a budget; ``most`` without a time limit."""
    return most if budget.seconds is None else share * budget.seconds


def _why_race(budget: Budget) -> str:
    if budget.seconds is None:
        return "ten turns of both executables"
    return f"ten turns of both executables, within {100 * _RACE:g} % of the budget, but at least three turns"


def _why_share(budget: Budget, share: float) -> str:
    return "as much as pays without a time limit" if budget.seconds is None else f"{100 * share:g} % of the budget"
