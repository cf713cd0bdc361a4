"""Processes that answer questions, and are started again."""

from __future__ import annotations

from bench._watched import Watched
from tests.bench.fragile import Fragile


def test_a_process_that_crashes_or_hangs_is_started_again() -> None:
    with Watched(Fragile, 1.0, renewed=3) as watched:
        assert [watched.ask("count")["asked"] for _ in range(4)] == [1, 2, 3, 1]
        lost = watched.ask("die")
        assert (lost["outcome"], lost["died"]) == ("crashed", True)
        assert "SIGABRT" in lost["message"]
        assert "within 1 s" in watched.ask("hang")["message"]
        assert watched.ask("count") == {"asked": 1}
        assert "no attribute" in watched.ask("nothing")["message"]
        assert watched.restarts == 2
