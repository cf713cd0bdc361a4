"""A network in several buckets: cut into tasks that are tuned together, and built as one executable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from tilewright.errors import UnsupportedOperatorError
from tilewright.frontend.network import Network
from tilewright.graph.convolution import Algorithm, Convolution
from tilewright.graph.expansions import Joint
from tilewright.graph.left_out import extract_all
from tilewright.graph.tasks import Extraction
from tilewright.ops.attention import Attention
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["Buckets", "Extracted", "SharedUse", "combine", "describe_bucket", "extract_buckets"]


@dataclass(frozen=True)
class SharedUse:
    """A task and its uses in all buckets, like a :class:`~tilewright.graph.tasks.TaskUse`.

    Attributes:
        task: the task.
        weight: the number of calls in each bucket, multiplied by the bucket's factor and summed up.
        functions: names of the fused functions that are this task in some bucket.
    """

    task: Task
    weight: float
    functions: tuple[str, ...]


@dataclass(frozen=True)
class Buckets:
    """A network in several buckets, ready to be tuned and built as one executable.

    It has the attributes of an :class:`~tilewright.graph.tasks.Extraction` that concern all buckets.

    Attributes:
        parts: the network in each bucket.
        shares: the share of the tuning that each bucket gets, relative to the other ones.
    """

    parts: tuple[Extraction, ...]
    shares: tuple[float, ...]

    @property
    def target(self) -> Target:
        """The machine that the network was rewritten for."""
        return self.parts[0].target

    @property
    def network(self) -> Network:
        """The network in the first bucket."""
        return self.parts[0].network

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Operators that keep the plain layout in at least one bucket."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.fallbacks))

    @property
    def convolutions(self) -> tuple[tuple[Convolution, int], ...]:
        """The convolutions for which there is a choice of algorithms, and how often each occurs in all buckets."""
        counts: dict[Convolution, int] = {}
        for part in self.parts:
            for convolution, count in part.convolutions:
                counts[convolution] = counts.get(convolution, 0) + count
        return tuple(counts.items())

    @cached_property
    def factors(self) -> tuple[float, ...]:
        """The weight of each bucket's latency in the tuning.

        A bucket of larger inputs has longer latencies, and would get nearly all of the tuning. So the weight is
        proportional to the bucket's share, and inversely proportional to its FLOP. The mean of the weights, weighted by
        FLOP, is 1.
        """
        flops = [sum(use.weight * use.task.flop for use in part.uses) or 1.0 for part in self.parts]
        mean, total = sum(flops) / len(flops), sum(self.shares) / len(flops)
        return tuple(share / total * mean / flop for share, flop in zip(self.shares, flops, strict=True))

    @cached_property
    def uses(self) -> tuple[SharedUse, ...]:
        """The tasks of all buckets, each once, the heaviest first; their weights are multiplied by ``factors``."""
        weights: dict[str, float] = {}
        functions: dict[str, dict[str, None]] = {}
        tasks = {use.task.key: use.task for part in reversed(self.parts) for use in part.uses}
        for part, factor in zip(self.parts, self.factors, strict=True):
            for use in part.uses:
                key = use.task.key
                weights[key] = weights.get(key, 0.0) + factor * use.weight
                functions.setdefault(key, {}).update(dict.fromkeys(use.functions))
        made = [SharedUse(tasks[key], weight, tuple(functions[key])) for key, weight in weights.items()]
        return tuple(sorted(made, key=lambda use: (-use.task.flop * use.weight, use.task.key)))

    @property
    def attentions(self) -> tuple[tuple[Attention, int], ...]:
        """The attentions that one function can compute, and how often each occurs in all buckets."""
        counts: Counter[Attention] = Counter()
        for part in self.parts:
            counts.update(dict(part.attentions))
        return tuple(counts.items())

    @property
    def joints(self) -> tuple[tuple[Joint, int], ...]:
        """Pairs of convolutions that one function can compute, and how often each occurs in all buckets."""
        counts: Counter[Joint] = Counter()
        for part in self.parts:
            counts.update(dict(part.joints))
        return tuple(counts.items())

    def separate_tasks(self, form: Attention | Joint) -> tuple[Task, ...]:
        """The tasks that compute one of ``attentions`` or ``joints`` if it is several functions."""
        if isinstance(form, Joint):
            return form.several
        part = next(part for part in self.parts if form in dict(part.attentions))
        return part.separate_tasks(form)

    def with_algorithms(
        self, algorithms: Mapping[Convolution, Algorithm], joined: Collection[Attention | Joint] = frozenset()
    ) -> Buckets:
        """The network with other algorithms for some convolutions; raises as ``Extraction.with_algorithms`` does."""
        return Buckets(tuple(part.with_algorithms(algorithms, joined) for part in self.parts), self.shares)


#: A network that is ready to be tuned, in one bucket or in several.
Extracted: TypeAlias = "Extraction | Buckets"


def combine(parts: Sequence[Extraction], shares: Sequence[float]) -> Extraction | Buckets:
    """The network of some buckets; a single one is that network itself.

    Raises:
        UnsupportedOperatorError: there are several buckets, and one has no plan.
    """
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if part.plan is None:
            raise UnsupportedOperatorError(
                f"an executable with several buckets has kernels of its own, but {part.network.name} needs TVM's "
                f"virtual machine with {describe_bucket(part.network)}; tune one shape at a time"
            )
    return Buckets(tuple(parts), tuple(shares))


def extract_buckets(
    networks: Sequence[Network], target: Target, shares: Sequence[float] | None = None
) -> Extraction | Buckets:
    """Cut the networks of all buckets into tasks. Raises as ``left_out.extract_all`` and :func:`combine` do.

    Args:
        networks: the network in each bucket.
        target: the machine to rewrite them for.
        shares: the share of the tuning that each bucket gets; None: equal ones.
    """
    return combine([extract_all(network, target) for network in networks], shares or [1.0] * len(networks))


def describe_bucket(network: Network) -> str:
    """The shapes of a network's inputs, for people."""
    return " ".join(f"{spec.name}={','.join(map(str, spec.shape))}" for spec in network.inputs)
