"""A fleet as the place where a command tunes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tilewright.errors import FleetError
from tilewright.fleet.cluster import connected
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.runner import FleetRunner
from tilewright.fleet.wire import kind_of
from tilewright.measure.outcome import Measurement
from tilewright.measure.runner import Pool
from tilewright.target import Caches, Target
from tilewright.tuning.context import Workplace

__all__ = ["choose_kinds", "fleet_workplace", "workplace_of"]


@contextmanager
def fleet_workplace(
    address: str, kind: str | None, caches: Caches, tell: Callable[[str], None]
) -> Iterator[Workplace]:
    """Tune on the nodes of one kind for the duration of a block.

    Args:
        address: of the cluster, as :func:`tilewright.fleet.cluster.connected` takes it.
        kind: of machine; None: the only kind that there is.
        caches: how candidates are timed.
        tell: is called with what people should know of nodes.

    Raises:
        FleetError: there is no cluster, none of its nodes is of the kind, or nodes cannot take part.
        MissingExtraError: Ray is not installed.
    """
    with connected(address) as crew:
        fleet = Fleet(crew, tell)
        fleet.gather()
        kinds = choose_kinds(fleet, [] if kind is None else [kind])
        if len(kinds) > 1:
            raise FleetError(
                f"this command tunes for one kind of machine, but the fleet has {', '.join(kinds)}; choose with --kind"
            )
        yield workplace_of(fleet, kinds[0], caches)


def choose_kinds(fleet: Fleet, wanted: list[str]) -> list[str]:
    """The kinds of machine to tune for: those that were asked for by the beginning of their names, or all.

    Raises:
        FleetError: no node is of a kind that was asked for.
    """
    known = list(fleet.kinds)
    for kind in wanted:
        if not any(name.startswith(kind) for name in known):
            raise FleetError(
                f"--kind is a kind of machine that the fleet has, but none of its nodes is of kind {kind!r}; it has "
                f"{', '.join(known)}"
            )
    return [name for name in known if not wanted or name.startswith(tuple(wanted))]


def workplace_of(fleet: Fleet, kind: str, caches: Caches) -> Workplace:
    """The nodes of one kind as a workplace. This process then compiles and runs code for as many threads as they do.

    Raises:
        FleetError: code for this kind does not run here.
    """
    target = replace(fleet.kinds[kind], caches=caches)
    here = Target.parse()
    if kind_of(replace(here, cores=target.cores)) != kind:
        raise FleetError(
            f"the executable is built and judged by the machine that gives the command, but nodes of kind {kind} are not "
            f"like this one ({kind_of(here)}); give the command on one of them"
        )
    os.environ["TVM_NUM_THREADS"] = str(target.cores)

    def make_pool(target: Target, on_measurement: Callable[[Measurement], None]) -> Pool:
        return FleetRunner(target, fleet, on_measurement)

    return Workplace(target, make_pool, fleet.limits(kind))
