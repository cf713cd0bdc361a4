"""The command line: one file per command, each of which imports what is heavy only when it runs."""

from __future__ import annotations

import time

#: When the command began, as near as a process can tell: the budget of ``tune`` counts from here.
BEGAN = time.monotonic()

import sys  # noqa: E402

try:
    import typer

    from tilewright.cli import bench, cost, records, run, tasks, tune
    from tilewright.cli.streams import prepare_streams
except KeyboardInterrupt:  # nobody watches yet, and nothing has begun
    sys.exit(130)

__all__ = ["app", "main"]

# Without Rich's markup, --help needs no Rich; errors of our own never show as Typer's coloured tracebacks.
app = typer.Typer(
    name="tilewright",
    help="Tune neural networks for the machine in front of you, within a wall-clock budget.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("tune")(tune.tune)
app.command("bench")(bench.bench)
app.command("run")(run.run)
app.command("tasks")(tasks.tasks)
app.add_typer(records.app, name="records")
app.add_typer(cost.app, name="cost")


def main() -> None:
    """Run the command line and exit: 0 done, 1 a bug of ours, 2 bad input or surroundings, 130, 143, 129 a signal."""
    prepare_streams()
    try:
        app(prog_name="tilewright")
    except KeyboardInterrupt:
        sys.exit(130)
