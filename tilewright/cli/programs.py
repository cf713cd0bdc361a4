"""The measured programs for commands, from the records or from the file of a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tilewright.cli.options import check_target, records_place
from tilewright.errors import RecordsError, TilewrightError

if TYPE_CHECKING:
    from tilewright.cost.dataset import DataSet
    from tilewright.records.sql import SQLStore
    from tilewright.target import Target

__all__ = ["DataOption", "ProgramsTargetOption", "open_records", "programs_of", "recorded_programs"]

DataOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE.parquet", help="A file of 'tilewright records export --programs'."),
]
#: How a target whose key ends in a state of the caches is named.
_STATES = "-shared: 'native:shared', -streamed: 'native:streamed', -cold: 'native:cold'"

ProgramsTargetOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET",
        help="The target of the programs in records: 'native' (the default), 'native:shared', 'native:streamed' or "
        "'native:cold' for those that were timed with weights in that cache, or 'llvm:MCPU'.",
    ),
]


def programs_of(records: str | None, data: Path | None, target: str | None) -> DataSet:
    """The data set of a file, or of the records if no file is named.

    Raises:
        TilewrightError: both records and a file are named, or a target with a file.
        RecordsError: the file or the records cannot be read, or hold no programs.
    """
    if data is None:
        return recorded_programs(records, target or "native")
    if records is not None or target is not None:
        raise TilewrightError(
            "programs come from --data or from --records with --target, but both were given; leave one out"
        )
    from tilewright.cost.dataset import read_data_set

    found = read_data_set(data)
    if not found.tasks:
        raise RecordsError(f"{data} holds no programs; export records that have some")
    return found


def recorded_programs(records: str | None, target: str) -> DataSet:
    """All measured programs with a closed form on one target.

    Raises:
        TargetError: there is no such target.
        RecordsError: the records cannot be read, or hold no such programs.
    """
    check_target(target)
    with open_records(records) as store:
        tasks = store.tasks()
        if not tasks:
            raise RecordsError(
                f"programs are made from the functions of tasks, but {store.where} holds no functions (version 1 kept "
                "none); tune the models again for some trials, which adds them"
            )
        from tilewright.target import Target
        from tilewright.tuning.collect import collect

        machine = Target.parse(target)
        found = collect(store, tasks, machine, command=f"tilewright: the records in {Path(store.where).name}")
        if not found.tasks:
            raise RecordsError(_why_none(store, machine, len(tasks)))
    return found


def _why_none(store: SQLStore, machine: Target, tasks: int) -> str:
    targets = sorted({entry.target for entry in store.summary()})
    if machine.key not in targets:
        return (
            f"programs are of the target {machine.key}, but {store.where} holds measurements of "
            f"{', '.join(targets) or 'no target'}; name another one with --target ({_STATES}), tune something first, "
            "or use the machine of these records"
        )
    return (
        f"a cost model learns from tasks with two measured programs in closed form, but {store.where} has no such task "
        f"on {machine.key}, of {tasks} in all; measure more convolutions, dense layers or matrix products"
    )


def open_records(where: str | None, *, untouched: bool = False) -> SQLStore:
    """Open the store of records, which must exist.

    Args:
        where: the file or URL; None: the default one.
        untouched: whether nothing at all is written into it. Otherwise a file of an older version is migrated.

    Raises:
        RecordsError: the file or database does not exist, or cannot be read.
    """
    from tilewright.records import open_or_read, open_store

    place = records_place(where)
    # Opening makes missing records, and a mistyped name would then show an empty list.
    if isinstance(place, str):
        return open_store(place, writable=False)
    if not os.path.exists(place):
        raise RecordsError(
            f"there are no records in {place}: no such file; tune something first, or name another file with --records",
            absent=True,
        )
    return open_store(place, writable=False) if untouched else open_or_read(place)[0]
