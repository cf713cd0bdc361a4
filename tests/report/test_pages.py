"""Pages as people see them: every chart is drawn, nothing is fetched, and everybody can read and use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench._browser import browser, missing, show
from bench.report import fill_store
from bench.synthetic_run import HOSTILE, make_run, make_training
from tilewright.records import open_store
from tilewright.records.overview import Overview
from tilewright.report.comparison import comparison_page
from tilewright.report.content import Page
from tilewright.report.dashboard import dashboard_page
from tilewright.report.history import History
from tilewright.report.html import render
from tilewright.report.run_page import run_page
from tilewright.report.training_page import training_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

lacking = missing()
pytestmark = pytest.mark.skipif(lacking is not None, reason=lacking or "")

RUN = {"curve", "failures", "graph", "knobs", "latency", "memory", "peers", "phases", "roofline", "time"}
TRAINING = {"parts", "roofline", "slots", "steps", "time"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


def dashboard(folder: Path) -> Page:
    """The page of a store with runs on several machines."""
    open_store(folder / "records.db").close()
    fill_store(folder / "records.db", 80, 400)
    with open_store(folder / "records.db", writable=False) as store:
        overview = Overview(store)
        overview.refresh()
        return dashboard_page(overview, HOSTILE, {"network": "network 0"})


PAGES: dict[str, tuple[Callable[[Path], Page], set[str]]] = {
    "run": (lambda _: run_page(make_run()), RUN),
    "training": (lambda _: training_page(make_training()), TRAINING),
    "dashboard": (dashboard, {"latencies", "trend"}),
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 360)])
@pytest.mark.parametrize("kind", PAGES)
def test_every_chart_is_drawn_and_nobody_is_shut_out(
    chromium: Browser, tmp_path: Path, kind: str, scheme: Any, width: int
) -> None:
    make, charts = PAGES[kind]
    address = write(tmp_path / "page.html", render(make(tmp_path)))
    with show(chromium, address, scheme=scheme, width=width) as shown:
        marks = shown.marks()
        assert set(marks) == charts
        assert all(count > 0 for count in marks.values()), marks
        shown.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert shown.faults() == []
        assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        assert shown.complaints == []


@pytest.mark.parametrize("kind", PAGES)
def test_the_keyboard_reaches_all_that_can_be_used(chromium: Browser, tmp_path: Path, kind: str) -> None:
    from playwright.sync_api import expect

    address = write(tmp_path / "page.html", render(PAGES[kind][0](tmp_path)))
    with show(chromium, address) as shown:
        wanted = shown.page.evaluate(
            "(() => { const all = [...document.querySelectorAll('a[href], button, input, select, summary, "
            '[tabindex="0"]\')].filter((e) => e.checkVisibility({contentVisibilityAuto: true})); '
            "all.forEach((e, n) => { e.dataset.n = n; }); return all.length; })()"
        )
        reached = set()
        for _ in range(wanted + 3):
            shown.page.keyboard.press("Tab")
            reached.add(shown.page.evaluate("document.activeElement.dataset.n"))
        assert len(reached - {None}) == wanted
        if kind == "run":
            first = shown.page.locator("[data-rows=search] tr:first-child")
            before = first.text_content() or ""
            shown.page.focus("#choice-search")
            shown.page.keyboard.press("ArrowDown")
            expect(first).not_to_have_text(before)


@pytest.mark.parametrize("kind", PAGES)
def test_text_survives_twice_its_size(chromium: Browser, tmp_path: Path, kind: str) -> None:
    """200 % zoom of a window of 1100 pixels leaves half of them."""
    address = write(tmp_path / "page.html", render(PAGES[kind][0](tmp_path)))
    with show(chromium, address, width=550) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        cut = shown.page.evaluate(
            "[...document.querySelectorAll('h1, h2, h3, p, dd, dt, summary')].filter((e) => "
            "!e.classList.contains('told') && !e.closest('.plot') && e.scrollWidth > e.clientWidth + 1"
            " && getComputedStyle(e).display !== 'inline').map((e) => e.outerHTML.slice(0, 120))"
        )
        assert cut == []


def test_hostile_names_are_text(chromium: Browser, tmp_path: Path) -> None:
    address = write(tmp_path / "page.html", render(run_page(make_run(6, name=HOSTILE, task_name=HOSTILE))))
    with show(chromium, address, width=360) as shown:
        assert shown.page.inner_text("h1") == HOSTILE
        assert shown.page.query_selector("img") is None
        assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shown.page.hover("#chart-graph svg .mark-symbol path >> nth=1", force=True)
        assert shown.page.query_selector("img") is None
        assert shown.complaints == []


def test_hostile_names_of_a_training_are_text(chromium: Browser, tmp_path: Path) -> None:
    address = write(tmp_path / "page.html", render(training_page(make_training(name=HOSTILE))))
    with show(chromium, address, width=360) as shown:
        assert shown.page.inner_text("h1") == HOSTILE
        assert shown.page.query_selector("img") is None
        assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert shown.complaints == []


def test_a_page_that_knows_little_shows_that(chromium: Browser, tmp_path: Path) -> None:
    run = make_run()
    bare = replace(run, report=type(run.report)(), known=False, history=History(), nodes=(), plan=None, bench=None)
    with show(chromium, write(tmp_path / "page.html", render(run_page(bare)))) as shown:
        assert shown.marks() == {}
        assert "right" in shown.page.inner_text("#trust")
        assert shown.complaints == []
        assert shown.faults() == []


def test_calls_of_which_no_roofline_is_known_are_drawn_as_well(chromium: Browser, tmp_path: Path) -> None:
    run = make_run()
    tasks = tuple(replace(task, possible_seconds=None) if n % 2 else task for n, task in enumerate(run.tasks))
    run = replace(run, report=replace(run.report, tasks=tasks))
    with show(chromium, write(tmp_path / "page.html", render(run_page(run)))) as shown:
        assert shown.page.locator("#chart-graph .mark-symbol.role-mark path").count() == len(run.nodes)
        assert shown.complaints == []


def test_two_runs_are_compared(chromium: Browser, tmp_path: Path) -> None:
    first, second = make_run(), make_run(30)
    with show(chromium, write(tmp_path / "page.html", render(comparison_page(first, second)))) as shown:
        assert all(shown.marks().values())
        assert "24 tasks are in both runs" in shown.page.inner_text("#tasks")
        assert shown.complaints == []
        assert shown.faults() == []
