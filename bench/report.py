"""How large a page about a run is, and how long it takes to make and to open.

    python -m bench.report --json r.json

The run is synthetic: 150 tasks by default. ``open_ms`` is from the start of the navigation in headless Chromium until
everything in the window is drawn, ``drawn_ms`` until the last chart is. Needs Debian's chromium and the extra ``dev``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench._browser import browser, missing, show
from bench.synthetic_run import make_run
from tilewright.processor import model_name
from tilewright.records import open_store
from tilewright.records.overview import Overview
from tilewright.records.runs import RunRecord, encode_run
from tilewright.records.schema import runs
from tilewright.report.dashboard import dashboard_page, export_csv, export_json, export_runs_csv
from tilewright.report.html import render
from tilewright.report.run_page import render_run

#: Runs in the store of the dashboard.
_RUNS = 2000
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


def measure_views(records: int, times: int) -> dict[str, object]:
    """The milliseconds that views of the dashboard of a store with so many records take to make: ``views_ms`` of the
    slowest, ``views`` of each.

    ``first_look_ms`` is what the command takes at its start, when it reads the store once.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.db"
        open_store(path).close()
        fill_store(path, records)
        with open_store(path, writable=False) as store:
            overview = Overview(store)
            first = _milliseconds(overview.refresh)
            views: dict[str, list[float]] = {}
            for _ in range(times):
                for name, chosen in _VIEWS.items():
                    views.setdefault(name, []).append(_milliseconds(lambda: _view(overview, chosen)))  # noqa: B023
                for export in (export_csv, export_runs_csv, export_json):
                    views.setdefault(export.__name__, []).append(_milliseconds(lambda: export(overview, {})))  # noqa: B023
    medians = {name: statistics.median(taken) for name, taken in views.items()}
    return {
        "records": records,
        "runs": _RUNS,
        "first_look_ms": first,
        "views_ms": max(medians.values()),
        "views": medians,
    }


_VIEWS = {
    "all": {},
    "network": {"network": "network 3"},
    "machine": {"target": "machine-3"},
    "task": {"task": "conv2d 17"},
}


def _view(overview: Overview, chosen: dict[str, str]) -> None:
    overview.refresh()
    render(dashboard_page(overview, "a store", chosen))


def _milliseconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def fill_store(path: Path, records: int, count: int = _RUNS) -> None:
    """Fill a store with records of 2,000 tasks on 8 machines, over a year, and with runs of 20 networks of 100 tasks.

    Args:
        path: of an SQLite store without records.
        records: how many.
        count: of the runs.
    """
    rng = random.Random(0)
    rows = (
        (
            f"{n // 8 % 2000:016x}",
            f"machine-{n % 8}",
            "contraction/1",
            "[1,2]",
            "ok",
            "[0.001]",
            rng.lognormvariate(-8, 1),
            "",
            1.75e9 + 3.1e7 * n / records,
            0.1,
        )
        for n in range(records)
    )
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO measurements (task, target, template, config, outcome, repeats, seconds, message, time, "
            "elapsed) VALUES (?,?,?,?,?,?,?,?,?,?)",
            rows,
        )
        names = ((f"{n:016x}", f"conv2d {n}", "contraction", 1e8) for n in range(2000))
        connection.executemany("INSERT INTO tasks (key, name, kind, flop) VALUES (?,?,?,?)", names)
        columns = [column.name for column in runs.c if column.name != "id"]
        marks = ",".join("?" * len(columns))
        made = (encode_run(_make_run(n, count, rng)) for n in range(count))
        connection.executemany(
            f"INSERT INTO {runs.name} ({','.join(columns)}) VALUES ({marks})",
            ([run[name] for name in columns] for run in made),
        )


def _make_run(number: int, count: int, rng: random.Random) -> RunRecord:
    network, machine = number % 20, number // 20 % 8
    after = 1e-3 * (network + 1) * (1 + 0.2 * machine) * (1 + 0.5 * (1 - number / count) * rng.random())
    return RunRecord(
        network=f"network {network}",
        target=f"machine-{machine}",
        machine=f"A processor of kind {machine}",
        method="default",
        time=1.75e9 + 3.1e7 * number / count,
        budget_seconds=300.0,
        wall_seconds=301.0,
        trials=1000,
        before_seconds=after * rng.uniform(1.0, 2.5),
        after_seconds=after,
        published="tuned",
        outcome="right",
        tasks=tuple((f"{100 * network + n:016x}", 1.0 + n % 3) for n in range(100)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=150)
    parser.add_argument("--trials", type=int, default=40, help="of each task")
    parser.add_argument("--records", type=int, default=1_000_000, help="of the store of the dashboard")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if (lack := missing()) is not None:
        raise SystemExit(lack)
    page = measure_page(arguments.tasks, arguments.trials, arguments.times)
    found = {"machine": model_name(), **page, **measure_views(arguments.records, arguments.times)}
    print(json.dumps(found, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
