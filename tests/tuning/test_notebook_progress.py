"""Progress in a notebook: one place that changes, whose texts are escaped."""

from __future__ import annotations

from bench.synthetic_run import HOSTILE
from tilewright.notebook import html_table
from tilewright.tuning.notebook_progress import NotebookProgress, default_progress
from tilewright.tuning.progress import SilentProgress, TuneState


class Place:
    """Stands for the notebook's place of an output."""

    def __init__(self) -> None:
        self.shown: list[object] = []

    def show(self, made: object) -> Place:
        self.shown.append(made)
        return self

    def update(self, obj: object) -> None:
        self.shown[-1] = obj


def test_the_bar_moves_in_its_place() -> None:
    place = Place()
    with NotebookProgress(place.show, lambda html: html) as progress:
        progress.announce(["24 tasks"])
        progress.update(TuneState(remaining=60.0))
        progress.update(TuneState(remaining=15.0, task=HOSTILE))
    assert len(place.shown) == 1
    shown = str(place.shown[0])
    assert '<progress value="0.750"' in shown
    assert "24 tasks" in shown
    assert "<img" not in shown


def test_without_a_time_limit_there_is_no_bar() -> None:
    place = Place()
    NotebookProgress(place.show, lambda html: html).update(TuneState(trials=3))
    assert "<progress" not in str(place.shown[0])
    assert "trials 3" in str(place.shown[0])


def test_outside_of_a_notebook_nothing_is_shown() -> None:
    assert isinstance(default_progress(), SilentProgress)


def test_tables_escape_names_and_count_what_they_leave_out() -> None:
    made = html_table(HOSTILE, (HOSTILE,), [(HOSTILE, HOSTILE)] * 50)
    assert "<img" not in made
    assert "</script>" not in made
    assert "and 10 more" in made
