"""The options of ``tilewright tune`` for many machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import typer

from tilewright.errors import TilewrightError

if TYPE_CHECKING:
    from tilewright.target import Caches
    from tilewright.tuning.context import Workplace
    from tilewright.tuning.progress import Progress

__all__ = ["FleetOption", "KindOption", "check_fleet", "fleet_place"]

FleetOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Measure on the nodes of a Ray cluster: ray://HOST:10001, HOST:6379, auto, or local, which starts one "
        "here. Needs the extra fleet.",
    ),
]
KindOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND",
        help="With --fleet: the kind of machine to tune for, such as znver4-8x (the beginning suffices); several: an "
        "executable for each. By default all kinds of the fleet.",
    ),
]


def check_fleet(address: str | None, kinds: list[str] | None) -> None:
    """Refuse options that cannot go together, before anything is imported.

    Raises:
        TilewrightError: there are kinds without a fleet.
        FleetError: the address has not the form of one.
    """
    if address is None:
        if kinds:
            raise TilewrightError("--kind chooses among the machines of a fleet, but there is no --fleet; name one")
        return
    from tilewright.fleet.cluster import check_address

    check_address(address)


@contextmanager
def fleet_place(address: str, kinds: list[str] | None, target: str, progress: Progress) -> Iterator[Workplace]:
    """The nodes of one kind, as the place where a command tunes.

    Raises:
        FleetError: there is no cluster, or none of its nodes can measure what is wanted.
        MissingExtraError: Ray is not installed.
    """
    kind, _, caches = target.partition(":")
    if kind != "native":
        raise TilewrightError(f"a fleet tunes for the machines that it has, but --target is {target!r}; leave it out")
    from tilewright.fleet.place import fleet_workplace

    how = cast("Caches", caches or "warm")
    with fleet_workplace(address, kinds[0] if kinds else None, how, lambda line: progress.announce([line])) as place:
        yield place
