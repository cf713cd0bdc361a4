"""A shell completes commands, options, and the names that an option takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.test_bad_input import ROOT
from tilewright.methods.registry import METHODS


def ask(*words: str) -> list[str]:
    """What Bash is offered after these words, of which the last one is unfinished."""
    asked = {"_TILEWRIGHT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-m", "tilewright.cli"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | asked)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("t",), ["tune", "tasks"]),
        (("tune", "--bud"), ["--budget"]),
        (("tune", "--method", ""), list(METHODS)),
        (("tune", "--target", "x86-64-v"), ["x86-64-v2", "x86-64-v3", "x86-64-v4"]),
        (("bench", "out", "--against", "pytorch"), ["pytorch", "pytorch-compiled"]),
    ],
)
def test_what_a_shell_offers(words: tuple[str, ...], offered: list[str]) -> None:
    assert ask("tilewright", *words) == offered
