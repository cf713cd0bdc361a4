"""In which ways the parts of a network are computed: algorithms of convolutions, and operators in one function."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from tilewright.graph.buckets import Extracted
from tilewright.graph.convolution import Algorithm, Convolution
from tilewright.graph.expansions import Joint
from tilewright.measure.runner import NoRunner, Runner
from tilewright.ops.attention import Attention
from tilewright.records.store import Query, Store
from tilewright.target import Target
from tilewright.tuning.algorithms import AlgorithmChoice, choose_algorithms
from tilewright.tuning.joining import JoinChoice, choose_joined

__all__ = ["Ways", "choose_ways", "has_choice", "recorded_ways"]


@dataclass(frozen=True)
class Ways:
    """What was chosen for the parts of a network for which there is a choice.

    Attributes:
        choices: all of them, for reports.
        trials: the measurements that were made for them.
    """

    choices: list[AlgorithmChoice | JoinChoice] = field(default_factory=list)
    trials: int = 0

    @property
    def algorithms(self) -> dict[Convolution, Algorithm]:
        """The algorithms of those convolutions that are not computed directly."""
        found = [c for c in self.choices if isinstance(c, AlgorithmChoice) and c.chosen != "direct"]
        return {choice.convolution: choice.chosen for choice in found}

    @property
    def joined(self) -> frozenset[Attention | Joint]:
        """The attentions and the pairs of convolutions that one function computes."""
        return frozenset(c.form for c in self.choices if isinstance(c, JoinChoice) and c.joined)

    def apply(self, extraction: Extracted) -> Extracted:
        """The network that is computed in these ways."""
        return extraction.with_algorithms(self.algorithms, self.joined)

    def same(self, other: Ways) -> bool:
        """Whether both compute a network in the same ways."""
        return (self.algorithms, self.joined) == (other.algorithms, other.joined)


def has_choice(extraction: Extracted) -> bool:
    """Whether parts of the network can be computed in several ways."""
    return bool(extraction.convolutions or extraction.attentions or extraction.joints)


def choose_ways(
    extraction: Extracted,
    target: Target,
    runner: Runner,
    store: Store,
    deadline: float,
    most_trials: float = math.inf,
) -> Ways:
    """Measure in which ways the parts of a network are fastest; what the store knows is not measured again.

    Args:
        extraction: the network.
        target: what is measured for.
        runner: measures, and stores what it has measured.
        store: earlier measurements.
        deadline: the reading of ``time.monotonic`` after which no measurement is begun.
        most_trials: the most measurements.

    Raises:
        MeasureError: the runner cannot work.
    """
    now = time.monotonic()
    # What one function may compute is measured first, in half of the time if there are convolutions, too.
    until = now + (deadline - now) / 2 if extraction.convolutions else deadline
    joined, made = choose_joined(
        [*extraction.attentions, *extraction.joints],
        extraction.separate_tasks,
        target,
        runner,
        store,
        until,
        most_trials=most_trials,
    )
    algorithms, more = choose_algorithms(
        extraction.convolutions, target, runner, store, deadline, most_trials=most_trials - made
    )
    return Ways([*algorithms, *joined], made + more)


def recorded_ways(extraction: Extracted, target: Target, store: Store) -> Ways:
    """The ways that are fastest by the records; of what they do not know, the usual ones. Nothing is measured."""
    if not has_choice(extraction) or next(iter(store.scan(Query(target=target.key))), None) is None:
        return Ways()
    return choose_ways(extraction, target, NoRunner(), store, math.inf)
