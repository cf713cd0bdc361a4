"""The tutorial of training: both runs begin alike, and learn as much."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

from tests.models import runs
from tests.pages import names, programs

pytestmark = runs


def test_the_digits_are_learned_alike(capsys: pytest.CaptureFixture[str]) -> None:
    program = "\n".join(programs("tutorial/train-a-network.md"))
    defined = names(program.replace('"budget": "1m"', '"budget": "1s"'))
    first = zip(defined["eager_losses"][:5], defined["losses"][:5], strict=True)
    assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in first)
    eager, ours = (defined["accuracy"](defined[name]) for name in ("eager", "network"))
    assert eager > 0.9
    assert abs(eager - ours) < 0.03
    assert "forward" in capsys.readouterr().out
