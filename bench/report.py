"""How large a page about a run is, and how long it takes to make and to open.

    python -m bench.report --json r.json

The run is synthetic: 150 tasks by default. ``open_ms`` is from the start of the navigation in headless Chromium until
everything in the window is drawn, ``drawn_ms`` until the last chart is. Needs Debian's chromium and the extra ``dev``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from bench.synthetic_run import make_run
from tests.report.browser import browser, missing, show
from tilewright.processor import model_name
from tilewright.report.run_page import render_run

_MARKS = "['open', 'drawn'].map((name) => performance.getEntriesByName(name)[0].startTime)"


def measure_page(tasks: int, trials: int, times: int) -> dict[str, float]:
    """The bytes of a page, and the medians of the milliseconds that making and opening it take."""
    run = make_run(tasks, trials)
    made, opened = [], list[list[float]]()
    for _ in range(times):
        begin = time.perf_counter()
        text = render_run(run)
        made.append(1e3 * (time.perf_counter() - begin))
    with tempfile.TemporaryDirectory() as folder, browser() as started:
        path = Path(folder) / "page.html"
        path.write_text(text, encoding="utf-8")
        for _ in range(times):
            with show(started, path.as_uri()) as shown:
                opened.append(shown.page.evaluate(_MARKS))
    return {
        "tasks": tasks,
        "trials": tasks * trials,
        "bytes": len(text.encode()),
        "make_ms": statistics.median(made),
        "open_ms": statistics.median(open_ for open_, _ in opened),
        "drawn_ms": statistics.median(drawn for _, drawn in opened),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=150)
    parser.add_argument("--trials", type=int, default=40, help="of each task")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if (lack := missing()) is not None:
        raise SystemExit(lack)
    found = {"machine": model_name(), **measure_page(arguments.tasks, arguments.trials, arguments.times)}
    print(json.dumps(found, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
