"""A fleet as the place where a command tunes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from tilewright.errors import FleetError
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.machine import own_target
from tilewright.fleet.runner import FleetRunner
from tilewright.fleet.wire import kind_of
from tilewright.measure.outcome import Measurement
from tilewright.measure.runner import Pool
from tilewright.target import Caches, Target
from tilewright.tuning.context import Workplace

__all__ = ["choose_kinds", "is_own", "workplace_of"]


def choose_kinds(fleet: Fleet, wanted: Sequence[str]) -> list[str]:
    """The kinds of machine to tune for: those that were asked for by the beginning of their names.

    Raises:
        FleetError: no node is of a kind that was asked for; or there are several kinds, and none was asked for.
    """
    everything = "all" in wanted
    known, wanted = list(fleet.kinds), [kind for kind in wanted if kind != "all"]
    for kind in wanted:
        if not any(name.startswith(kind) for name in known):
            raise FleetError(
                f"--kind is a kind of machine that the fleet has, but none of its nodes is of kind {kind!r}; it has "
                f"{', '.join(known)}"
            )
    if not wanted and len(known) > 1 and not everything:
        raise FleetError(
            f"the fleet has several kinds of machine: {', '.join(known)}; choose some with --kind, or 'all'"
        )
    return [name for name in known if not wanted or name.startswith(tuple(wanted))]


def workplace_of(fleet: Fleet, kind: str, caches: Caches) -> Workplace:
    """The nodes of this machine's own kind as a workplace. From now on this process runs as many threads as they do."""
    target = replace(fleet.kinds[kind], caches=caches)
    os.environ["TVM_NUM_THREADS"] = str(target.cores)

    def make_pool(target: Target, on_measurement: Callable[[Measurement], None]) -> Pool:
        return FleetRunner(target, fleet, on_measurement)

    return Workplace(target, make_pool, fleet.limits(kind))


def is_own(target: Target) -> bool:
    """Whether a kind of machine differs from this one in nothing but the number of cores: its code then runs here.

    Raises:
        TargetError: this machine is to count as one whose code does not run here.
    """
    return kind_of(replace(own_target(), cores=target.cores)) == kind_of(target)
