"""``tilewright tasks``: lists the tasks of a model, with their best latencies so far."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, TypedDict

from tilewright.cli.boundary import command, write_json
from tilewright.cli.inputs import FixOption, ShapeOption, make_shape_request
from tilewright.cli.options import (
    JsonOption,
    ModelArgument,
    RecordsOption,
    TargetOption,
    begin_reading,
    check_machine,
    check_model,
    check_target,
)
from tilewright.cli.programs import open_records
from tilewright.cli.text import milliseconds, quantity, table
from tilewright.errors import RecordsError
from tilewright.scratch import scratch
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.graph.buckets import Extracted
    from tilewright.records.sql import SQLStore
    from tilewright.target import Target
    from tilewright.task import Task

__all__ = ["tasks"]


class _Entry(TypedDict):
    """A task, ready for JSON."""

    weight: float
    name: str
    key: str
    kind: str
    template: str
    instruction: str
    flop: float
    space_size: float
    best_seconds: float | None


@command
def tasks(
    model: ModelArgument,
    shape: ShapeOption = None,
    fix: FixOption = None,
    target: TargetOption = "native",
    records: RecordsOption = None,
    json_file: JsonOption = None,
) -> None:
    """List the tasks of MODEL: FLOP, weight, design space and its size, and the best latency so far.

    Tasks that multiply bytes or bfloat16 numbers have the instruction of the target that does so.

    Convolutions and attentions are computed in the ways that are fastest by the records.
    """
    check_target(target)
    request = make_shape_request(shape, fixed=fix)
    check_model(model)
    check_machine()
    with ExitStack() as stack:
        stack.enter_context(scratch(runs=False))
        reading = stack.enter_context(begin_reading(model, request))
        store = _open(records)
        if store is not None:
            stack.callback(store.close)
        from tilewright.target import Target

        machine = Target.parse(target)
        from tilewright.frontend.load import load_buckets
        from tilewright.graph.buckets import extract_buckets

        networks = load_buckets(reading, request)
        machine = machine.with_weights(max(network.weight_bytes for network in networks))
        from tilewright.tuning.ways import recorded_ways

        extraction = extract_buckets(networks, machine)
        if store is not None:
            extraction = recorded_ways(extraction, machine, store).apply(extraction)
        entries = _list_entries(extraction, machine, store)
    found = [segment for part in extraction.parts for segment in part.network.segments]
    segments = [
        {"operators": list(s.operators), "nodes": len(s.model.graph.node), "reasons": list(s.reasons)} for s in found
    ]
    flop = sum(entry["weight"] * entry["flop"] for entry in entries)
    report = {"tasks": entries, "fallbacks": extraction.fallbacks, "target": machine.key, "flop": flop}
    write_json(json_file, {**report, "segments": segments})
    rows = [_row(entry) for entry in entries]
    print(table(["task", "space", "instruction", "weight", "FLOP", "configs", "best so far", "GFLOP/s"], rows, left=3))
    print(f"{counted(len(entries), 'task')}, {quantity(flop)}FLOP; target {machine.key}")
    for number, segment in enumerate(found, 1):
        nodes = counted(len(segment.model.graph.node), "operator")
        print(f"segment {number}, run by ONNX Runtime: {nodes} ({', '.join(segment.operators)})")
        for reason in segment.reasons:
            print(f"  {reason}")
    if extraction.fallbacks:
        print(f"left in plain layout: {', '.join(extraction.fallbacks)}")


def _row(entry: _Entry) -> list[str]:
    """The cells of a task in the table."""
    seconds = entry["best_seconds"]
    return [
        entry["name"],
        entry["template"],
        entry["instruction"] or "-",
        str(entry["weight"]),
        quantity(entry["flop"]),
        quantity(entry["space_size"]),
        milliseconds(seconds),
        f"{entry['flop'] / seconds / 1e9:.1f}" if seconds else "-",
    ]


def _list_entries(extraction: Extracted, target: Target, store: SQLStore | None) -> list[_Entry]:
    """The tasks, with the number of their calls in all buckets."""
    calls: dict[str, float] = {}
    for part in extraction.parts:
        for use in part.uses:
            calls[use.task.key] = calls.get(use.task.key, 0) + use.weight
    return [_describe(use.task, calls[use.task.key], target, store) for use in extraction.uses]


def _describe(task: Task, weight: float, target: Target, store: SQLStore | None) -> _Entry:
    from tilewright.ops.registry import make_space
    from tilewright.space.configs import size
    from tilewright.space.space import name_instruction

    space = make_space(task, target)
    best = store.best(task.key, target.key, space.template, 1) if store is not None else []
    return {
        "weight": weight,
        "name": task.name,
        "key": task.key,
        "kind": task.kind,
        "template": space.template,
        "instruction": name_instruction(space),
        "flop": task.flop,
        "space_size": size(space),
        "best_seconds": best[0].seconds if best else None,
    }


def _open(where: str | None) -> SQLStore | None:
    """Open the records; None if there are none. This command makes no records."""
    try:
        return open_records(where)
    except RecordsError as error:
        if error.absent:
            return None
        raise
