"""``tilewright tasks``: what a model consists of, and how far its tuning is."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tilewright.cli.boundary import command, write_json
from tilewright.cli.options import (
    JsonOption,
    ModelArgument,
    RecordsOption,
    ShapeOption,
    TargetOption,
    begin_reading,
    check_machine,
    check_model,
    check_target,
    parse_shapes,
)
from tilewright.cli.programs import open_records
from tilewright.cli.text import milliseconds, quantity, table
from tilewright.errors import RecordsError
from tilewright.scratch import scratch
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.records.sql import SQLStore
    from tilewright.target import Target
    from tilewright.task import Task

__all__ = ["tasks"]


@command
def tasks(
    model: ModelArgument,
    shape: ShapeOption = None,
    target: TargetOption = "native",
    records: RecordsOption = None,
    json_file: JsonOption = None,
) -> None:
    """List the tasks of MODEL: FLOP, weight, size of the design space, and the best latency so far."""
    check_target(target)
    shapes = parse_shapes(shape)
    check_model(model)
    check_machine()
    with ExitStack() as stack:
        stack.enter_context(scratch(runs=False))
        reading = stack.enter_context(begin_reading(model, shapes))
        store = _open(records)
        if store is not None:
            stack.callback(store.close)
        from tilewright.target import Target

        machine = Target.parse(target)
        from tilewright.frontend.load import load
        from tilewright.graph.tasks import extract

        network = load(reading, shapes)
        machine = machine.with_weights(network.weight_bytes)
        extraction = extract(network, machine)
        entries = [{"weight": use.weight, **_entry(use.task, machine, store)} for use in extraction.uses]
    flop = sum(entry["weight"] * entry["flop"] for entry in entries)
    write_json(json_file, {"tasks": entries, "fallbacks": extraction.fallbacks, "target": machine.key, "flop": flop})
    rows = [
        [
            entry["name"],
            entry["template"],
            str(entry["weight"]),
            quantity(entry["flop"]),
            quantity(entry["space_size"]),
            milliseconds(entry["best_seconds"]),
            f"{entry['flop'] / entry['best_seconds'] / 1e9:.1f}" if entry["best_seconds"] else "-",
        ]
        for entry in entries
    ]
    print(table(["task", "space", "weight", "FLOP", "configs", "best so far", "GFLOP/s"], rows, left=2))
    print(f"{counted(len(entries), 'task')}, {quantity(flop)}FLOP; target {machine.key}")
    if extraction.fallbacks:
        print(f"left in plain layout: {', '.join(extraction.fallbacks)}")


def _entry(task: Task, target: Target, store: SQLStore | None) -> dict[str, Any]:
    from tilewright.ops.registry import make_space
    from tilewright.space.configs import size

    space = make_space(task, target)
    best = store.best(task.key, target.key, space.template, 1) if store is not None else []
    return {
        "name": task.name,
        "key": task.key,
        "kind": task.kind,
        "template": space.template,
        "flop": task.flop,
        "space_size": size(space),
        "best_seconds": best[0].seconds if best else None,
    }


def _open(where: str | None) -> SQLStore | None:
    """The records, where there are any; a look at a model makes none."""
    try:
        return open_records(where)
    except RecordsError as error:
        if error.absent:
            return None
        raise
