"""``tilewright cost``: fits cost models to measured programs, and judges their ranking."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.completing import complete_from
from tilewright.cli.options import JsonOption, RecordsOption
from tilewright.cli.programs import DataOption, ProgramsTargetOption, programs_of
from tilewright.cli.replacing import check_replaced
from tilewright.cli.text import table
from tilewright.errors import CostModelError, OutputError, RecordsError
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.cost.dataset import TaskData
    from tilewright.cost.evaluate import Quality
    from tilewright.cost.model import CostModel

__all__ = ["app"]

app = typer.Typer(
    help="Train cost models on measured programs, and evaluate them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

#: The measures of quality by their fields in ``Quality``, with their names in tables.
_MEASURES = {"pairwise_accuracy": "pairwise accuracy", "recall_at_10": "recall@10", "top1_regret": "top-1 regret"}


class _Mean(TypedDict):
    """The mean of a measure over tasks, and its 95 % interval."""

    mean: float
    low: float
    high: float


@app.command("train", short_help="Fit a cost model to measured programs.")
@command
def train(
    out: Annotated[Path, typer.Option(metavar="MODEL.npz", help="Where to write the model.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_from("tilewright.cost.models", "MODELS"),
            help="xgb_rank, xgb_reg, xgb_ensemble, mlp, gcn or gcn_attention.",
        ),
    ] = "xgb_rank",
    records: RecordsOption = None,
    data: DataOption = None,
    target: ProgramsTargetOption = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Do not train on tasks with TEXT in their name or in a network's name, and judge the model by these.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The seed of all random numbers.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Fit a cost model to the programs of --data, or of --records, and write it to MODEL.npz."""
    # Cheap checks come first.
    from tilewright.cost.models import make_model, save_model

    fresh = make_model(model, seed)
    if os.path.isdir(out) or not os.path.isdir(out.parent):
        raise OutputError(f"--out names a file in a directory that exists, but it is {out}; name another file")
    check_replaced(out, "--out", "cost models", b"pk")
    found = programs_of(records, data, target)
    template = _template(found.tasks)
    trained, judged = _split(found.tasks, hold_out)
    began = time.monotonic()
    fresh.fit([task.nest for task in trained], [task.seconds for task in trained])
    seconds = time.monotonic() - began
    about = {
        "target": found.about.get("target", {}),
        "targets": sorted({task.target for task in trained}),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "tasks": len(trained),
        "programs": sum(map(len, trained)),
        "seed": seed,
        "hold_out": hold_out,
        "trained_on": sorted({task.task for task in trained}),
    }
    save_model(model, fresh, template, about, out)
    fitted = f"{counted(len(trained), 'task')}, {counted(about['programs'], 'program')}"
    print(f"{model} fitted to {fitted} in {seconds:.1f} s: {out}")
    label = "on the training data, which says little about other tasks"
    if judged:
        label = f"on {counted(len(judged), 'task')} with {hold_out!r}, not trained on"
    entries, means = _judge(fresh, judged or trained)
    print(f"quality {label} (mean, 95 % interval over tasks):")
    print(_table_of_means(means))
    kept = {name: value for name, value in about.items() if name != "trained_on"}
    write_json(
        json_file,
        {**kept, "model": model, "seconds": seconds, "held_out": bool(judged), "tasks": entries, "mean": means},
    )


@app.command("eval", short_help="Judge how well a cost model ranks measured programs.")
@command
def evaluate(
    file: Annotated[Path, typer.Argument(metavar="MODEL.npz", help="A file of 'tilewright cost train'.")],
    records: RecordsOption = None,
    data: DataOption = None,
    target: ProgramsTargetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Judge how well the model in MODEL.npz ranks the programs of --data, or of --records: each task, and the means."""
    from tilewright.cost.models import load_model
    from tilewright.space.loop_nest import name_nest

    stored = load_model(file)
    tasks = programs_of(records, data, target).tasks
    template = _template(tasks)
    if name_nest(template) != name_nest(stored.template):
        raise CostModelError(
            f"{file} was fitted to programs of the template {stored.template}, but these are of {template}; "
            "train it again on programs of that template"
        )
    judged, means = _judge(stored.model, tasks)
    known = stored.about.get("trained_on")
    seen = {str(key) for key in known} if isinstance(known, list) and all(isinstance(k, str) for k in known) else None
    entries = [{**entry, "trained_on": None if seen is None else entry["task"] in seen} for entry in judged]
    rows = [
        [
            f"{entry['name']} *" if entry["trained_on"] else str(entry["name"]),
            str(entry["programs"]),
            str(entry["failed"]),
            *(_number(entry[name]) for name in _MEASURES),
        ]
        for entry in entries
    ]
    print(table(["task", "programs", "failed", *_MEASURES.values()], rows))
    fitted = f"{counted(stored.about.get('tasks', '?'), 'task')} on {_named(stored.about.get('targets'))}"
    print(f"{stored.name}, fitted to {fitted}; programs of {_named(sorted({task.target for task in tasks}))}")
    if seen is None:
        print("the file does not say which tasks the model was fitted to; these tasks may be among them")
    elif any(entry["trained_on"] for entry in entries):
        print("* the model was trained on this task, so its figures say little about other tasks")
    print("mean and 95 % interval over tasks:")
    print(_table_of_means(means))
    write_json(json_file, {"model": stored.name, "template": stored.template, "tasks": entries, "mean": means})


def _template(tasks: Sequence[TaskData]) -> str:
    """The template of the tasks' programs, which must be one, though its versions may differ: the last of these."""
    from tilewright.space.loop_nest import name_nest

    templates = sorted({task.template for task in tasks})
    if len({name_nest(template) for template in templates}) != 1:
        raise RecordsError(
            f"a cost model is of programs of one template, but these are of {', '.join(templates)}; use a file for each"
        )
    return max(templates, key=lambda template: (":" not in template, len(template), template))


def _split(tasks: Sequence[TaskData], hold_out: str | None) -> tuple[list[TaskData], list[TaskData]]:
    """The tasks to train on, and the held-out tasks. A held-out task is not trained on for any target."""
    if hold_out is None:
        return list(tasks), []
    held = {task.task for task in tasks if any(hold_out in text for text in (task.name, *task.networks))}
    if not 0 < len(held) < len({task.task for task in tasks}):
        networks = sorted({network for task in tasks for network in task.networks})
        raise RecordsError(
            f"--hold-out names some of the tasks, but {hold_out!r} is in the names of {'all' if held else 'none'}; "
            f"the first is {tasks[0].name!r}, the networks are {', '.join(networks) or 'not known'}"
        )
    return [task for task in tasks if task.task not in held], [task for task in tasks if task.task in held]


def _judge(model: CostModel, tasks: Sequence[TaskData]) -> tuple[list[dict[str, object]], dict[str, _Mean]]:
    """The quality on each task, and the mean of each measure, ready for JSON."""
    from tilewright.cost.evaluate import bootstrap
    from tilewright.cost.evaluate import evaluate as judged

    try:
        qualities: list[Quality] = judged(model, tasks)
    except (ValueError, RuntimeError) as error:
        # Libraries raise these if the table has other columns than that of the fit.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CostModelError(f"the model cannot score these programs, which differ in width: {reason}") from error
    entries: list[dict[str, object]] = [
        {
            "task": task.task,
            "name": task.name,
            "programs": len(task),
            "failed": int((~task.ok).sum()),
            **asdict(quality),
        }
        for task, quality in zip(tasks, qualities, strict=True)
    ]
    means: dict[str, _Mean] = {}
    for name in _MEASURES:
        mean, low, high = bootstrap([getattr(quality, name) for quality in qualities])
        means[name] = {"mean": mean, "low": low, "high": high}
    return entries, means


def _table_of_means(means: dict[str, _Mean]) -> str:
    rows = [
        [label, _number(means[name]["mean"]), f"{_number(means[name]['low'])} .. {_number(means[name]['high'])}"]
        for name, label in _MEASURES.items()
    ]
    return table(["", "mean", "95 % interval"], rows)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) and value == value else "-"


def _named(targets: object) -> str:
    return ", ".join(map(str, targets)) if isinstance(targets, list) and targets else "a target that is not known"
