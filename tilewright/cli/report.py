"""``tilewright report``: one HTML file about an executable's run, about two of one model, or about a training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli.boundary import command
from tilewright.cli.replacing import check_replaced
from tilewright.errors import OutputError, TilewrightError
from tilewright.wording import counted
from tilewright.writing import replace_file

__all__ = ["PAGE", "report", "write_page", "write_report"]

#: The name of the page in the directory of an executable.
PAGE = "report.html"


@command
def report(
    executables: Annotated[
        list[Path],
        typer.Argument(
            metavar="OUT...",
            help="The directory of an executable, or the JSON file of a training; two are compared with each other.",
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file to write. By default report.html in the executable's directory, or beside the JSON file.",
        ),
    ] = None,
    bench: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What 'tilewright bench OUT --json FILE' wrote; once for each executable."),
    ] = None,
) -> None:
    """Write one HTML file about how OUT was tuned: what it gained, where its time goes, whether to trust it."""
    benches = bench or []
    if len(executables) > 2:
        raise TilewrightError(
            f"a page is about one executable, or compares two, but this names {len(executables)}; name at most two"
        )
    trainings = [path.is_file() for path in executables]
    if any(trainings) and (benches or not all(trainings)):
        raise TilewrightError(
            "the file of a training is compared with that of another one, without --bench, but this names "
            f"{'--bench' if benches else 'an executable'}; leave it out"
        )
    if len(benches) not in (0, len(executables)):
        raise TilewrightError(
            f"--bench is given once for each executable, but there are {counted(len(executables), 'executable')} and "
            f"--bench was given {counted(len(benches), 'time')}"
        )
    if len(executables) == 2 and html is None:
        raise TilewrightError("a comparison belongs to neither executable, but --html names no file; name one")
    path = html or (executables[0].with_suffix(".html") if any(trainings) else executables[0] / PAGE)
    check_replaced(path, "--html", "pages", b"<!doctype html")
    if any(trainings):
        size = _write_trainings(executables, path)
    elif len(executables) == 1:
        size = write_report(executables[0], path, *benches)
    else:
        size = _write_comparison(executables, path, benches)
    print(f"{path}: {size / 1e6:.2f} MB; open it in a browser")


def write_report(out: Path, path: Path, bench: Path | None = None) -> int:
    """Write the page of an executable. Returns its size in bytes.

    Raises:
        OutputError: there is no executable, or the page cannot be written.
    """
    from tilewright.report.run import read_run
    from tilewright.report.run_page import render_run

    return write_page(path, render_run(read_run(out, bench)))


def write_page(path: Path, text: str) -> int:
    """Write a page into a file. Returns its size in bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    content = text.encode("utf-8", errors="replace")
    try:
        with replace_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise OutputError(
            f"the page {path} cannot be written: {error.strerror}; name another file with --html"
        ) from error
    return len(content)


def _write_comparison(executables: list[Path], path: Path, benches: list[Path]) -> int:
    from tilewright.report.comparison import comparison_page
    from tilewright.report.html import render
    from tilewright.report.run import read_run

    first, second = (read_run(out, benches[n] if benches else None) for n, out in enumerate(executables))
    return write_page(path, render(comparison_page(first, second)))


def _write_trainings(reports: list[Path], path: Path) -> int:
    from tilewright.report.html import render
    from tilewright.report.training_comparison import training_comparison
    from tilewright.report.training_page import read_training, training_page

    first, *others = map(read_training, reports)
    return write_page(path, render(training_comparison(first, others[0]) if others else training_page(first)))
