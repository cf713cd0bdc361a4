"""Programs on pages of the documentation, and suites of contracts for what they define."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

__all__ = ["DOCS", "MINE", "ROOT", "conformance", "names", "programs"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: The name of the page's own strategy in a suite.
MINE = "mine"


def programs(page: str, language: str = "python") -> list[str]:
    """The programs of a page in ``docs/``, in order."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def names(*several: str) -> dict[str, Any]:
    """What the programs define, run one after the other."""
    defined: dict[str, Any] = {}
    for program in several:
        exec(program, defined)
    return defined


def conformance(module: ModuleType, argument: str) -> list[Any]:
    """The tests of ``module`` that are about a strategy, with this one alone, and all their other arguments."""
    found = []
    for name, function in vars(module).items():
        marks = [mark.args for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
        values = {key: list(given) for key, given, *_ in marks}
        if name.startswith("test_") and argument in values and not hasattr(function, "hypothesis"):
            values[argument] = [MINE]
            for row in itertools.product(*values.values()):
                label = "-".join(map(str, row))
                found.append(pytest.param(function, dict(zip(values, row, strict=True)), id=f"{name}-{label}"))
    return found
