"""``tilewright records``: look into the records of measurements, and take them elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.options import JsonOption, RecordsOption, records_file
from tilewright.cli.text import milliseconds, table
from tilewright.errors import OutputError, RecordsError

if TYPE_CHECKING:
    from tilewright.records.sql import SQLStore

__all__ = ["app"]

app = typer.Typer(
    help="List or export the records of measurements.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.command("ls")
@command
def ls(records: RecordsOption = None, json_file: JsonOption = None) -> None:
    """List what was measured: each task with its target, its trials, and its best latency."""
    with _open(records) as store:
        entries = store.summary()
    rows = [
        [
            entry.name or entry.task[:16],
            entry.target,
            entry.template,
            str(entry.count),
            str(entry.count - entry.ok),
            milliseconds(entry.best_seconds),
            "-" if not entry.flop or not entry.best_seconds else f"{entry.flop / entry.best_seconds / 1e9:.1f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_time)),
        ]
        for entry in entries
    ]
    print(table(["task", "target", "template", "trials", "failed", "best", "GFLOP/s", "last"], rows, left=3))
    write_json(json_file, {"records": [vars(entry) for entry in entries]})


@app.command("export")
@command
def export(
    records: RecordsOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write here; by default to the terminal.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Write all measurements as JSON lines."""
    from tilewright.records.export import write_jsonl
    from tilewright.records.store import Query

    with _open(records) as store:
        if out is None:
            count = write_jsonl(store.scan(Query()), sys.stdout)
            sys.stdout.flush()
        else:
            try:
                with out.open("w", encoding="utf-8") as file:
                    count = write_jsonl(store.scan(Query()), file)
            except OSError as error:
                raise OutputError(f"{out} cannot be written: {error.strerror}; name another file with --out") from error
            print(f"{count} measurements written to {out}")
    write_json(json_file, {"count": count})


def _open(path: Path | None) -> SQLStore:
    from tilewright.records import open_store

    file = records_file(path)
    # Opening would make it, and somebody who looks for records would be shown an empty list after a typing error.
    if not file.exists():
        raise RecordsError(
            f"there are no records in {file}: no such file; tune something first, or name it with --records"
        )
    return open_store(file)
