"""``tilewright records``: lists, exports, imports and merges the records of measurements."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.merging import merge_records, pull_records, push_records
from tilewright.cli.metaschedule import export_database, import_metaschedule
from tilewright.cli.options import JsonOption, RecordsOption
from tilewright.cli.programs import ProgramsTargetOption, open_records, recorded_programs
from tilewright.cli.replacing import check_replaced
from tilewright.cli.text import milliseconds, moment, table
from tilewright.cli.verbosity import remark
from tilewright.errors import OutputError, TilewrightError
from tilewright.wording import counted
from tilewright.writing import replace_file

__all__ = ["app"]

app = typer.Typer(
    help="List, export, import or merge the records of measurements.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.command("ls", short_help="List the measured tasks.")
@command
def ls(records: RecordsOption = None, json_file: JsonOption = None) -> None:
    """List the measured tasks: each with its target, its trials, and its best latency."""
    with open_records(records) as store:
        entries, where = store.summary(), store.where
    rows = [
        [
            entry.name or entry.task[:16],
            entry.target,
            entry.template,
            str(entry.count),
            str(entry.count - entry.ok),
            milliseconds(entry.best_seconds),
            "-" if not entry.flop or not entry.best_seconds else f"{entry.flop / entry.best_seconds / 1e9:.1f}",
            moment(entry.last_time),
        ]
        for entry in entries
    ]
    print(table(["task", "target", "template", "trials", "failed", "best", "GFLOP/s", "last"], rows, left=3))
    if not entries:
        remark(f"{where} holds no measurements; `tilewright tune MODEL` adds some")
    write_json(json_file, {"records": [vars(entry) for entry in entries]})


@app.command("export", short_help="Write all measurements to files of other formats.")
@command
def export(
    records: RecordsOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write. By default the terminal.")
    ] = None,
    programs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.parquet",
            help="Write the measured programs of one target to this file instead, for cost models (extra parquet).",
        ),
    ] = None,
    metaschedule: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the fastest programs of one target here instead, as MetaSchedule's database."
        ),
    ] = None,
    target: ProgramsTargetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Write all measurements as JSON lines, or programs of one target: for cost models, or for MetaSchedule."""
    given = [name for name, to in (("--out", out), ("--programs", programs), ("--metaschedule", metaschedule)) if to]
    if len(given) > 1:
        raise TilewrightError(f"{' and '.join(given)} are different kinds of export; give one at a time")
    if programs is not None:
        write_json(json_file, _export_programs(records, programs, target or "native"))
        return
    if metaschedule is not None:
        write_json(json_file, export_database(records, metaschedule, target or "native"))
        return
    if target is not None:
        raise TilewrightError(
            "--target goes with --programs or --metaschedule, but neither was given; give one, or leave --target out"
        )
    if out is not None:
        check_replaced(out, "--out", "exports", b"{")
    from tilewright.records.export import write_jsonl
    from tilewright.records.store import Query

    with open_records(records) as store:
        try:
            if out is None:
                count = write_jsonl(store.scan(Query()), sys.stdout)
                sys.stdout.flush()
            else:
                with replace_file(out) as part, part.open("w", encoding="utf-8") as file:
                    count = write_jsonl(store.scan(Query()), file)
                print(f"{counted(count, 'measurement')} written to {out}")
        except BrokenPipeError:
            raise  # the reader has gone
        except OSError as error:
            place = "the standard output" if out is None else out
            raise OutputError(f"{place} cannot be written: {error.strerror}; name another file with --out") from error
    write_json(json_file, {"count": count})


app.command("import-metaschedule", short_help="Add what MetaSchedule has measured on this machine.")(
    import_metaschedule
)
app.command("merge", short_help="Add the measurements of other stores to the records.")(merge_records)
app.command("pull", short_help="Add the measurements of a shared store to the records.")(pull_records)
app.command("push", short_help="Add the measurements of the records to a shared store.")(push_records)


def _export_programs(records: str | None, file: Path, target: str) -> dict[str, object]:
    check_replaced(file, "--programs", "exports", b"par1")
    data = recorded_programs(records, target)
    from tilewright.cost.dataset import write_data_set

    write_data_set(data, file)
    count, failed = sum(map(len, data.tasks)), sum(int((~task.ok).sum()) for task in data.tasks)
    print(
        f"{counted(count, 'program')} of {counted(len(data.tasks), 'task')} written to {file}, {failed} of them failed"
    )
    return {"tasks": len(data.tasks), "programs": count, "failed": failed, "target": data.tasks[0].target}
