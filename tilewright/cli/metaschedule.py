"""The export and import of MetaSchedule's databases for ``tilewright records``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.inputs import ShapeOption, make_shape_request
from tilewright.cli.options import (
    JsonOption,
    RecordsOption,
    TargetOption,
    check_model,
    check_target,
    records_place,
)
from tilewright.cli.programs import open_records
from tilewright.cli.verbosity import remark
from tilewright.errors import RecordsError, TilewrightError
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.frontend.shapes import ShapeRequest
    from tilewright.target import Target
    from tilewright.task import Task

__all__ = ["export_database", "import_metaschedule"]


def export_database(records: str | None, folder: Path, target: str) -> dict[str, object]:
    """Write the fastest programs on ``target`` into ``folder``, and print what was written.

    Returns:
        what was written, ready for JSON.

    Raises:
        TargetError: there is no such target.
        RecordsError: the records cannot be read, or hold nothing to write.
        OutputError: ``folder`` holds a database, or cannot be written.
    """
    check_target(target)
    with open_records(records) as store:
        tasks = store.tasks()
        from tilewright.records.metaschedule import write_metaschedule
        from tilewright.target import Target

        written = write_metaschedule(store, tasks, Target.parse(target), folder)
    print(f"{counted(written.records, 'record')} of {counted(written.tasks, 'task')} written to {folder}")
    for name, reason in written.left_out:
        remark(f"left out: {name}: {reason}")
    left_out = [{"task": name, "reason": reason} for name, reason in written.left_out]
    return {"tasks": written.tasks, "records": written.records, "left_out": left_out}


@command
def import_metaschedule(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A work directory of MetaSchedule.")],
    records: RecordsOption = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Recognise the functions of this model as well as those on record."),
    ] = None,
    shape: ShapeOption = None,
    target: TargetOption = "native",
    json_file: JsonOption = None,
) -> None:
    """Add MetaSchedule's measurements on this machine to the records, if Tilewright knows the programs."""
    check_target(target)
    shapes = make_shape_request(shape)
    if model is not None:
        check_model(model)
    elif shapes is not None:
        raise TilewrightError("--shape goes with --model, which was not given; give --model, or leave --shape out")
    from tilewright.records import open_store

    if model is None:
        open_records(records).close()  # raises if there are no records
    with open_store(records_place(records)) as store:
        from tilewright.target import Target

        machine = Target.parse(target)
        named: list[Task] = []
        if model is not None:
            named, machine = _read_tasks(model, shapes, machine)
        tasks = {task.key: task for task in [*store.tasks(), *named]}
        if not tasks:
            raise RecordsError(
                f"a function is recognised as that of a task on record, but {store.where} holds no tasks; "
                "name a model with --model"
            )
        from tilewright.records.metaschedule_import import read_metaschedule

        read = read_metaschedule(folder, store, tasks.values(), machine)
    print(f"{read.added} of {counted(read.records, 'record')} added, of {counted(read.tasks, 'task')}")
    for reason, count in read.passed_over.items():
        print(f"passed over: {count}: {reason}")
    for fault in read.faults:
        remark(f"faulty: {fault}")
    if read.faulty > len(read.faults):
        remark(f"faulty: {counted(read.faulty - len(read.faults), 'more line')}")
    write_json(json_file, vars(read))


def _read_tasks(model: Path, shapes: ShapeRequest | None, target: Target) -> tuple[list[Task], Target]:
    """The tasks of a model, and the target that ``tune`` measures them for."""
    from tilewright.frontend.load import load
    from tilewright.graph.tasks import extract

    network = load(model, shapes)
    machine = target.with_weights(network.weight_bytes)
    return [use.task for use in extract(network, machine).uses], machine
