from __future__ import annotations

import io

import pytest

from tilewright.cli.text import moment, plain, styled, table


def test_what_steers_a_terminal_is_not_printed() -> None:
    assert plain("a\x1b[2Jb\nc\td\u202ee é") == "a\ufffd[2Jb\nc\ufffdd\ufffde é"
    assert table(["a"], [["\x1b[31mred"], ["x\udcff"]]) == "a\n\ufffd[31mred\nx\ufffd"


@pytest.mark.parametrize("seconds", [1e300, -1e300, 1e18, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has(seconds: float) -> None:
    assert moment(seconds) == "-"
    assert moment(0.0).startswith("19")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "codes"),
    [({"TERM": "xterm-256color"}, "1;31"), ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "1"), ({"TERM": "dumb"}, "")],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], codes: str
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert styled("error: ", "bold red", io.StringIO()) == "error: "
    said = styled("error: ", "bold red", Terminal())
    assert said == (f"\x1b[{codes}merror: \x1b[0m" if codes else "error: ")
