from __future__ import annotations

import pytest

from tilewright.cli.text import moment, plain, table


def test_what_steers_a_terminal_is_not_printed() -> None:
    assert plain("a\x1b[2Jb\nc\td\u202ee é") == "a\ufffd[2Jb\nc\ufffdd\ufffde é"
    assert table(["a"], [["\x1b[31mred"], ["x\udcff"]]) == "a\n\ufffd[31mred\nx\ufffd"


@pytest.mark.parametrize("seconds", [1e300, -1e300, 1e18, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has(seconds: float) -> None:
    assert moment(seconds) == "-"
    assert moment(0.0).startswith("19")
