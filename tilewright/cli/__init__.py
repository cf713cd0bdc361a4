"""The command line, with one file a command. A command imports heavy modules only when it runs."""

from __future__ import annotations

import time

#: When the command began, in seconds of ``time.monotonic()``. The budget of ``tune`` counts from here.
BEGAN = time.monotonic()

import contextlib  # noqa: E402
import importlib.metadata  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated  # noqa: E402

try:
    import typer

    from tilewright.cli import (
        bench,
        build,
        cost,
        dashboard,
        doctor,
        export,
        quantize,
        records,
        report,
        run,
        tasks,
        tune,
    )
    from tilewright.cli.boundary import guard
    from tilewright.cli.config import Config, find_config, list_options, read_config
    from tilewright.cli.streams import prepare_streams
    from tilewright.cli.verbosity import QuietOption, VerboseOption
    from tilewright.errors import TilewrightError
except KeyboardInterrupt:  # before interrupts are handled, and before any work began
    sys.exit(130)

__all__ = ["app", "main"]

# Without Rich's markup, --help imports no Rich. Errors have a message of their own instead of Typer's tracebacks.
app = typer.Typer(
    name="tilewright",
    help="Tune neural networks for the machine in front of you, within a wall-clock budget.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tilewright {importlib.metadata.version('tilewright')}")
        raise typer.Exit


@app.callback()
@guard
def _options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The configuration. By default tilewright.toml, or [tool.tilewright] in pyproject.toml; /dev/null for "
            "none.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Tune neural networks for the machine in front of you, within a wall-clock budget."""
    try:
        path = config
        if path is None:
            with contextlib.suppress(FileNotFoundError):  # the current folder may have been removed
                path = find_config(Path.cwd())
        context.obj = read_config(path, list_options(app) if path else {})
    except TilewrightError as error:  # whatever a configuration is broken by, --help and doctor work
        context.obj = Config(None, {}, (), error)
    context.default_map = context.obj.values


app.command("tune", short_help="Tune MODEL for this machine and write an executable.")(tune.tune)
app.command("build", short_help="Write an executable of MODEL without tuning.")(build.build)
app.command("bench", short_help="Compare the executable in OUT with other runtimes, by turns.")(bench.bench)
app.command("quantize", short_help="Write MODEL in int8, and compare its outputs with MODEL's.")(quantize.quantize)
app.command("dashboard", short_help="Serve a page about the records on this machine until Ctrl-C.")(dashboard.dashboard)
app.command("report", short_help="Write an HTML page about how the executable in OUT was tuned.")(report.report)
app.command("run", short_help="Run the executable in OUT once, and describe its outputs.")(run.run)
app.command("export", short_help="Write the executable in OUT as a library for C.")(export.export)
app.command("tasks", short_help="List the tasks of MODEL.")(tasks.tasks)
app.command("doctor", short_help="Say what this machine has and lacks, and what that costs.")(doctor.doctor)
app.add_typer(records.app, name="records")
app.add_typer(cost.app, name="cost")


def main() -> None:
    """Run the command line, and exit with 0: done, 1: a bug, 2: bad input or surroundings, 129, 130, 143: a signal."""
    prepare_streams()
    try:
        app(prog_name="tilewright")
    except KeyboardInterrupt:
        sys.exit(130)
