"""``tilewright build``: writes an executable without tuning, which may be for another machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.inputs import FixOption, SampleOption, ShapeOption, make_shape_request
from tilewright.cli.options import (
    JsonOption,
    ModelArgument,
    RecordsOption,
    TargetOption,
    begin_reading,
    check_machine,
    check_model,
    check_out,
    check_target,
)
from tilewright.cli.precision import BuildPrecisionOption, prepare_model
from tilewright.cli.programs import open_records
from tilewright.cli.verbosity import Verbosity, remark, verbosity
from tilewright.errors import RecordsError, TilewrightError
from tilewright.executable.replacing import reserve_out
from tilewright.jsonable import to_json
from tilewright.scratch import scratch
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.records.store import TolerantStore

__all__ = ["build"]


@command
def build(
    model: ModelArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="The directory of the executable. By default the model's name and -built."
        ),
    ] = None,
    target: TargetOption = "native",
    records: RecordsOption = None,
    shape: ShapeOption = None,
    sample: SampleOption = None,
    fix: FixOption = None,
    precision: BuildPrecisionOption = "float32",
    json_file: JsonOption = None,
) -> None:
    """Write an executable of MODEL without tuning, with the best schedules on record, also for another machine."""
    out = out or Path(f"{model.stem}-built")
    check_target(target)
    if precision not in ("float32", "bf16"):
        raise TilewrightError(f"--precision of build is float32 or bf16, but this is {precision!r}; correct it")
    request = make_shape_request(shape, sample, fix)
    check_model(model)
    check_out(out)
    check_machine()
    with ExitStack() as stack:
        stack.enter_context(reserve_out(out))
        stack.enter_context(scratch())
        store = _open(records, stack)
        from tilewright.target import Target

        machine = Target.parse(target)
        from tilewright.compiling.build import check_compiler

        check_compiler(machine.triple)
        model, told = prepare_model(precision, model, request, target, 0, stack)
        reading = stack.enter_context(begin_reading(model, request))
        from tilewright.frontend.shapes import make_request
        from tilewright.tuning.building import build_model

        built = build_model(reading, out, machine, make_request(request), store)
    write_json(
        json_file,
        {
            "target": built.target.key,
            "triple": built.target.triple,
            "tasks": built.tasks,
            "recorded_tasks": built.recorded,
            "verdict": to_json(built.verdict.report()),
            "notes": [*told, *built.notes],
        },
    )
    if verbosity() is Verbosity.QUIET:
        print(out)
        return
    print(f"{counted(built.tasks, 'task')}, {built.recorded} with schedules from the records; target {machine.mcpu}")
    print(f"outputs: {built.verdict.outcome.value}; {built.verdict.evidence}")
    for note in (*told, *built.notes):
        remark(f"note: {note}")
    print(f"executable: {out}; write it as a library for C with: tilewright export {quote(str(out))} --c DIRECTORY")


def _open(where: str | None, stack: ExitStack) -> TolerantStore:
    """Open the records; an empty store if there are none. This command makes no records."""
    try:
        store = open_records(where)
    except RecordsError as error:
        if not error.absent:
            raise
        from tilewright.records.memory import MemoryStore

        return MemoryStore()
    stack.callback(store.close)
    return store
