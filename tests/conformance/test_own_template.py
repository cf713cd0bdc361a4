"""The examples of the page about operator families are run, on nothing but what it says is public."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright.ops
from tests.targets import LANES, host_target, lane_target, require
from tilewright.errors import SpaceError
from tilewright.graph.tasks import task_of
from tilewright.ops import TEMPLATES, Template
from tilewright.space.configs import sample
from tilewright.target import Target

PAGE = Path(__file__).parents[2] / "docs/how-to/write-your-own-template.md"
EXPRESSION, TEMPLATE, TRIAL = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@cache
def defined() -> dict[str, Any]:
    """What the page defines, without its trial."""
    names: dict[str, Any] = {}
    for program in (EXPRESSION, TEMPLATE, TRIAL.partition("\ntarget = ")[0]):
        exec(program, names)
    return names


def task_with(columns: int) -> Any:
    return task_of("distances", defined()["distances"](24, 10, columns))


def test_the_page_uses_only_what_is_public() -> None:
    imported = re.findall(r"from tilewright\.ops import (?:\(([^)]*)\)|([^\n]*))", EXPRESSION + TEMPLATE + TRIAL)
    names = {name.strip() for several in imported for name in "".join(several).split(",") if name.strip()}
    assert names <= set(tilewright.ops.__all__)
    assert "import tilewright.space" not in EXPRESSION + TEMPLATE + TRIAL
    assert set(re.findall(r"from (tilewright\.\S+)", EXPRESSION + TEMPLATE)) == {"tilewright.ops"}
    assert all(hasattr(tilewright.ops, name) for name in tilewright.ops.__all__)


def test_the_trial(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    require(host_target())
    monkeypatch.setattr(Target, "parse", host_target)
    exec(TRIAL, dict(defined()))
    template, error = capsys.readouterr().out.split()
    assert template == "distances/1"
    assert float(error) < 1e-4


def test_programs_of_random_configs_are_right() -> None:
    target = host_target()
    require(target)
    space = defined()["my_space"](task_with(32), target)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((24, 10)).astype(np.float32), rng.standard_normal((10, 32)).astype(np.float32)
    wanted = ((x[:, :, None] - y[None]) ** 2).sum(axis=1)
    for config in sample(space, rng, 4):
        np.testing.assert_allclose(defined()["run"](space, config, x, y), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lanes", LANES)
def test_it_serves_its_own_tasks_alone(lanes: int) -> None:
    template: Template = defined()["DistancesTemplate"]()
    target = lane_target(lanes)
    assert template.serves(task_with(32), target)
    assert not template.serves(task_with(30), target)
    with pytest.raises(SpaceError, match="vectors of 4 or more"):
        template.space(task_with(30), target)
    assert defined()["my_space"](task_with(30), target).template.startswith("auto")
    assert not any(other.serves(task_with(32), target) for other in TEMPLATES[:-1])
