"""What notebooks show of results, with real objects where these need no compiler."""

from __future__ import annotations

from bench.synthetic_run import HOSTILE, make_run
from tilewright.graph.tasks import TaskList, TaskUse
from tilewright.task import Task
from tilewright.tuning.session_report import describe_result


def test_a_result_shows_its_races_and_its_heaviest_tasks() -> None:
    made = describe_result(make_run(name=HOSTILE, task_name=HOSTILE).report)
    assert "kept: tuned" in made
    assert "right" in made
    assert made.count("of a run") == 10
    assert "<img" not in made


def test_tasks_are_a_tuple_that_shows_as_a_table() -> None:
    use = TaskUse(Task("k", HOSTILE, "contraction", 2e6, ""), 3, ("f",))
    tasks = TaskList([use])
    assert list(tasks) == [use]
    assert isinstance(tasks, tuple)
    assert "<img" not in tasks._repr_html_()
    assert ">6<" in tasks._repr_html_()
