"""Pages that are served: to this machine, to those who know the token, and at the next port if one is taken."""

from __future__ import annotations

import json
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
from tilewright.report.content import Page
from tilewright.report.dashboard import dashboard_page, export_csv, select_tasks
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
    assert page.headlines[0].value == "3"


def test_the_page_says_which_machine_has_which_best_and_names_are_text(
    overview: tuple[Overview, list[Measurement]],
) -> None:
    made, _ = overview
    page = dashboard_page(made, "place", {})
    machines = next(each for each in page.sections if each.name == "machines")
    assert machines.lead == ("Of 1 tasks, fast-2x-1 has 1.",)
    assert machines.tables[0].rows[0][1:] == ("fast-2x-1", "250", "slow-2x-1", "750")
    assert render(page).count("<img") == render(Page("t", "s")).count("<img")


def test_an_export_has_all_of_them_and_no_formulas(overview: tuple[Overview, list[Measurement]]) -> None:
    made, _ = overview
    made._names = {"b" * 16: ("=1+1", 0.0)}
    lines = export_csv(made, {}).splitlines()
    assert len(lines) == 4
    assert any(line.startswith(f"{'b' * 16},'=1+1,slow-2x-1") for line in lines)
