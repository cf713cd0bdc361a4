"""``tilewright records merge``, ``pull`` and ``push``: records of other stores into one's own, and the other way."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.options import JsonOption, RecordsOption, records_place
from tilewright.cli.programs import open_records
from tilewright.cli.verbosity import remark
from tilewright.errors import RecordsError, RecordsFormatError, RecordsVersionError
from tilewright.records.address import is_url
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.records.merge import Merged
    from tilewright.records.sql import SQLStore

__all__ = ["merge_records", "pull_records", "push_records"]

StoreArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="FILE|URL", help="The other store: a file, or postgresql://USER@HOST/DATABASE.")
]
MergeTargetOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="native|KEY",
        help="Only measurements of one kind of machine: this one's, or a target as 'records ls' shows it.",
    ),
]


@command
def merge_records(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="FILE|URL...", help="Other stores: files, or postgresql://USER@HOST/DATABASE."),
    ],
    records: RecordsOption = None,
    target: MergeTargetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Add the measurements of other stores to the records. What is there already is not added again."""
    targets = _target_keys(target)
    with contextlib.ExitStack() as opened:
        # A mistake in the last name is told before the first store is merged.
        sources = [opened.enter_context(_open_other(place)) for place in stores]
        _merge_each(sources, opened.enter_context(_open_own(records)), targets, json_file)


@command
def pull_records(
    store: StoreArgument,
    records: RecordsOption = None,
    target: MergeTargetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Add the measurements of a shared store to the records. What is there already is not added again."""
    targets = _target_keys(target)
    with _open_other(store) as source, _open_own(records) as own:
        _merge_each([source], own, targets, json_file)


@command
def push_records(
    store: StoreArgument,
    records: RecordsOption = None,
    target: MergeTargetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Add the measurements of the records to a shared store, which is made if it is not there."""
    from tilewright.records import open_store

    targets = _target_keys(target)
    with open_records(records) as own, open_store(store if is_url(store) else Path(store)) as shared:
        _merge_each([own], shared, targets, json_file)


def _merge_each(
    sources: list[SQLStore], destination: SQLStore, targets: set[str] | None, json_file: Path | None
) -> None:
    from tilewright.records.merge import Merged, check_different, merge

    for source in sources:
        check_different(source, destination)
    results = []
    for source in sources:
        merged = Merged()
        try:
            merge(source, destination, targets, merged)
        except RecordsFormatError:
            _tell(source.where, merged, stopped="stopped at a damaged place, and what is new is kept")
            raise
        except (RecordsError, KeyboardInterrupt):
            _tell(source.where, merged, stopped="stopped, and what is new is kept: the same command goes on")
            raise
        _tell(source.where, merged)
        results.append({"from": source.where, **vars(merged)})
    write_json(json_file, {"records": destination.where, "merged": results})


def _tell(where: str, merged: Merged, stopped: str = "") -> None:
    """Print what became of a store's records, and why the merge stopped early if it did."""
    refused = merged.refused.total()
    text = f"{where}: {merged.read} read: {merged.new} new, {merged.known} known, {refused} refused"
    if merged.left_out:
        text += f"; {merged.left_out} of other targets"
    if merged.tasks:
        text += f"; {counted(merged.tasks, 'new task')}"
    if merged.runs:
        text += f"; {counted(merged.runs, 'new run')}"
    if stopped:
        print(f"{text}; {stopped}", file=sys.stderr)
    else:
        print(text)
    for kind, reasons in (("measurement", merged.refused), ("task", merged.refused_tasks)):
        for reason, count in _most_common(reasons):
            remark(f"refused: {counted(count, kind)}: {reason}")


def _most_common(reasons: Counter[str]) -> Iterator[tuple[str, int]]:
    # A reason may quote a text of the store, which has no place in a message of one line.
    for reason, count in reasons.most_common():
        yield " ".join(reason.split()), count


def _open_own(records: str | None) -> SQLStore:
    from tilewright.records import open_store

    return open_store(records_place(records))


def _open_other(place: str) -> SQLStore:
    """Open another store for reading, which must exist and is left as it is.

    A store of version 1 cannot be read so. It is migrated, as by the other commands.

    Raises:
        RecordsError: there is no such store, or it cannot be read.
    """
    from tilewright.records import open_or_read, open_store

    if is_url(place):
        return open_store(place, writable=False)
    path = Path(place)
    if not os.path.exists(path):
        raise RecordsError(f"records are merged from a store, but {path} does not exist; check the path", absent=True)
    try:
        return open_store(path, writable=False)
    except (RecordsFormatError, RecordsVersionError):
        raise
    except RecordsError:
        return open_or_read(path)[0]


def _target_keys(target: str | None) -> set[str] | None:
    """The keys of the targets that ``--target`` names: this machine's in each state of the caches, or the one given."""
    if target != "native":
        return None if target is None else {target}
    from tilewright.target import Target

    machine = Target.parse("native")
    return {machine.key, *(other.key for other in machine.otherwise_timed)}
