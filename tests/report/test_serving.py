"""Pages that are served: to this machine, to those who know the token, and at the next port if one is taken."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.synthetic_run import HOSTILE
from tilewright.errors import OutputError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records import open_store
from tilewright.records.overview import Overview
from tilewright.records.runs import RunRecord
from tilewright.report.content import Page
from tilewright.report.dashboard import dashboard_page, export_csv, export_json, export_runs_csv, select_tasks
from tilewright.report.figures import duration
from tilewright.report.html import render
from tilewright.report.serving import PageServer, listen
from tilewright.task import Task

pytest.importorskip("starlette", reason="pages are served by Starlette, which is not installed")
pytest.importorskip("uvicorn", reason="pages are served by Uvicorn, which is not installed")

DAY = 86400.0


def fetch(address: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(address, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def server() -> Iterator[PageServer]:
    pages = iter(range(100))
    with PageServer(lambda chosen: Page(f"page {next(pages)}", chosen.get("task", ""), live=".")) as started:
        yield started


def test_only_those_with_the_token_and_the_name_of_this_machine_are_answered(server: PageServer) -> None:
    assert fetch(server.address)[0] == 200
    assert fetch(server.address.partition("?")[0])[0] == 403
    assert fetch(server.address[:-1])[0] == 403
    assert fetch(server.address, host="evil.example")[0] == 403
    assert fetch(server.address.replace("/?", "/update?"), host="evil.example")[0] == 403
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(urllib.request.Request(server.address, data=b"x"), timeout=10)


def test_a_browser_that_follows_is_told_of_changes(server: PageServer) -> None:
    with urllib.request.urlopen(server.address.replace("/?", "/events?"), timeout=10) as stream:
        assert b"retry" in stream.readline()
        server.changed()
        lines = [stream.readline(), stream.readline(), stream.readline()]
        assert b"event: update\n" in lines
    status, text = fetch(server.address.replace("/?", "/update?"))
    assert status == 200
    assert "page 0" in json.loads(text)["body"]


def test_a_port_that_is_taken_is_passed_over() -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        with listen(port) as other:
            assert port < other.getsockname()[1] < port + 20
            assert other.getsockname()[0] == "127.0.0.1"
    with pytest.raises(OutputError, match="free port"):
        listen(70000)


def measurement(task: str, target: str, seconds: float, day: float) -> Measurement:
    ok = seconds > 0
    outcome = Outcome.OK if ok else Outcome.RUN_CRASHED
    return Measurement(
        task, target, "contraction/1", (1, 2), outcome, (seconds,) if ok else (), time=day * DAY, elapsed=2.0
    )


@pytest.fixture
def overview(tmp_path: Path) -> Iterator[tuple[Overview, list[Measurement]]]:
    first = [
        measurement("a" * 16, "fast-2x-1", 0.25, 20000.2),
        measurement("a" * 16, "fast-2x-1", 0.5, 20001.9),
        measurement("a" * 16, "slow-2x-1", 0.75, 20001.1),
        measurement("b" * 16, "slow-2x-1", 0.0, 20001.5),
    ]
    with open_store(tmp_path / "records.db") as store:
        store.add(first)
        store.describe(Task("a" * 16, HOSTILE, "contraction", 1e9, ""))
        made = Overview(store)
        made.refresh()
        store.add([measurement("b" * 16, "slow-2x-1", 0.125, 20002.0)])
        made.refresh()
        yield made, first


def test_sums_follow_the_store(overview: tuple[Overview, list[Measurement]]) -> None:
    made, _ = overview
    found = {(each.task[0], each.target): (each.count, each.ok, each.best_seconds) for each in made.tasks}
    assert found == {
        ("a", "fast-2x-1"): (2, 2, 0.25),
        ("a", "slow-2x-1"): (1, 1, 0.75),
        ("b", "slow-2x-1"): (2, 1, 0.125),
    }
    assert [(each.day, each.target, each.count, each.ok) for each in made.days] == [
        (20000, "fast-2x-1", 1, 1),
        (20001, "fast-2x-1", 1, 1),
        (20001, "slow-2x-1", 2, 1),
        (20002, "slow-2x-1", 1, 1),
    ]


def test_filters_leave_what_was_asked_for(overview: tuple[Overview, list[Measurement]]) -> None:
    made, _ = overview
    assert len(select_tasks(made, {"target": "slow-2x-1"})) == 2
    assert [each.target for each in select_tasks(made, {"task": "ONERROR", "target": "slow-2x-1"})] == ["slow-2x-1"]
    assert select_tasks(made, {"template": "other/1"}) == []
    page = dashboard_page(made, "place", {"target": "slow-2x-1"})
    assert {each.label: each.value for each in page.headlines}["measurements"] == "3"


def test_the_page_says_which_machine_has_which_best_and_names_are_text(
    overview: tuple[Overview, list[Measurement]],
) -> None:
    made, _ = overview
    page = dashboard_page(made, "place", {})
    machines = next(each for each in page.sections if each.name == "machines")
    assert machines.lead == ("Of 1 task that several machines have measured: fast-2x-1 has the best of 1.",)
    assert machines.tables[0].rows[0][1:] == ("fast-2x-1", "slow-2x-1", "250", "750")
    assert render(page).count("<img") == render(Page("t", "s")).count("<img")


def test_an_export_has_all_of_them_and_no_formulas(overview: tuple[Overview, list[Measurement]]) -> None:
    made, _ = overview
    made._names = {"b" * 16: ("=1+1", 0.0)}
    lines = export_csv(made, {}).splitlines()
    assert len(lines) == 4
    assert any(line.startswith(f"{'b' * 16},'=1+1,slow-2x-1") for line in lines)


def test_a_count_of_operations_that_is_no_number_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.add([measurement("a" * 16, "fast-2x-1", 0.25, 20000.2)])
        store.describe(Task("a" * 16, "a task", "contraction", 1e9, ""))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("update tasks set flop = x'00ff'")
    with open_store(path, writable=False) as store:
        made = Overview(store)
        made.refresh()
        assert "a task" in render(dashboard_page(made, "place", {}))


def test_how_long_was_measured_is_said_in_a_unit_that_fits(overview: tuple[Overview, list[Measurement]]) -> None:
    made, _ = overview
    shown = dashboard_page(made, "place", {}).headlines[-1]
    assert (shown.value, shown.unit) == ("10.0", "s")
    assert duration(90.0) == ("1.50", "min")
    assert duration(7200.0) == ("2.00", "h")


@pytest.fixture
def tuned(tmp_path: Path) -> Iterator[Overview]:
    """A store with three runs of two networks on two machines; everything of one network was measured on one."""
    tasks = (("a" * 16, 2.0), ("b" * 16, 1.0))
    runs = [
        RunRecord("=net", "slow-2x-1", "Slow", "default", 20000 * DAY, None, 60.0, 5, 4e-3, 3e-3, "tuned", "right"),
        RunRecord(HOSTILE, "fast-2x-1", "Fast", "default", 20001 * DAY, None, 60.0, 5, None, None, "incumbent", ""),
        RunRecord(
            "=net", "fast-2x-1", "Fast", "default", 20002 * DAY, 60.0, 61.0, 9, 2e-3, 1e-3, "tuned", "right", tasks
        ),
    ]
    with open_store(tmp_path / "records.db") as store:
        store.add(
            [
                measurement(key, "fast-2x-1", seconds, 20000.0)
                for (key, _), seconds in zip(tasks, (0.25, 0.5), strict=True)
            ]
        )
        store.add([measurement("a" * 16, "slow-2x-1", 0.5, 20000.0), measurement("c" * 16, "slow-2x-1", 0.5, 20000.0)])
        for run in runs:
            store.add_run(run)
        made = Overview(store)
        made.refresh()
        yield made


def test_the_page_has_the_networks_and_runs_of_a_store(tuned: Overview) -> None:
    page = dashboard_page(tuned, "place", {})
    sections = {each.name: each for each in page.sections}
    networks = sections["networks"].tables[0].rows
    assert networks[0] == ("=net", "fast-2x-1", "Fast", "1", "1.00", "1,000", "2024-10-06")
    assert networks[2][4:6] == ("3.00", "\u2013"), "a task was not measured there"
    assert sections["runs"].tables[0].rows[0][3:] == ("2024-10-06", "60.0", "9", "2.00", "1.00", "2.00")
    assert sections["runs"].charts[0].title == "Latency of =net after each run"
    assert sections["machines"].tables[0].rows == (("=net", "fast-2x-1", "slow-2x-1", "1.00", "3.00"),)
    assert next(each.options for each in sections["networks"].filters) == ("", HOSTILE, "=net")
    assert render(page).count("<img") == render(Page("t", "s")).count("<img")


def test_a_network_leaves_its_runs_and_its_tasks(tuned: Overview) -> None:
    page = dashboard_page(tuned, "place", {"network": "=net"})
    values = {each.label: each.value for each in page.headlines}
    assert (values["runs"], values["tasks"]) == ("2", "2")
    assert [each.task[0] for each in select_tasks(tuned, {"network": "=net", "target": "slow-2x-1"})] == ["a"]
    assert dashboard_page(tuned, "place", {"network": "none"}).headlines[0].value == "0"


def test_runs_are_exported_as_csv_and_json(tuned: Overview) -> None:
    lines = export_runs_csv(tuned, {}).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("'=net,fast-2x-1,Fast,default,")
    content = json.loads(export_json(tuned, {"network": "=net"}))
    assert [run["after_seconds"] for run in content["runs"]] == [1e-3, 3e-3]
    assert {task["task"][0] for task in content["tasks"]} == {"a", "b"}


def test_a_store_without_runs_says_so(overview: tuple[Overview, list[Measurement]]) -> None:
    page = dashboard_page(overview[0], "place", {})
    networks = next(each for each in page.sections if each.name == "networks")
    assert "No tuning is recorded here yet" in networks.lead[0]
    assert networks.filters
