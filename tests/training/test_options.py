"""The options of the backend: what each may be, and what a message says of what it may not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tilewright.errors import TilewrightError
from tilewright.training.options import Options


def test_without_options_a_model_is_tuned_for_five_minutes_while_it_trains() -> None:
    assert Options.parse(None) == Options(budget="5m", mode="background", precision="float32")
    assert Options.parse({}).seconds == 300.0


def test_options_are_read_by_name() -> None:
    given = {"budget": "90s", "records": Path("r.db"), "mode": "now", "method": "autotvm", "threads": 1, "share": 0.05}
    options = Options.parse(given)
    assert (options.seconds, options.records, options.mode, options.method) == (90.0, "r.db", "now", "autotvm")
    assert (options.threads, options.share) == (1, 0.05)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budgets": "5m"}, "budget, records, mode, method, threads, precision, share, but one is 'budgets'"),
        ({"budget": "soon"}, "a budget is a duration"),
        ({"budget": 5}, "'budget' .* such as '5m', but this is 5"),
        ({"mode": "later"}, "'mode' .* background, now, cached, but this is 'later'"),
        ({"method": "luck"}, "'method' .* but this is 'luck'"),
        ({"precision": "float16"}, "'precision' .* float32, but this is 'float16'"),
        ({"threads": 0}, "'threads' .* from 1 to"),
        ({"threads": True}, "'threads' .* but this is True"),
        ({"share": 0}, "'share' .* from 0.01 to 1, such as 0.05, but this is 0"),
        ({"share": 5}, "'share' .* but this is 5"),
        ({"share": "5 %"}, "'share' .* but this is '5 %'"),
        ({"share": float("nan")}, "'share' .* but this is nan"),
        ({"records": 3}, "'records' .* but this is 3"),
        ({"records": ""}, "'records' .* but this is ''"),
        ({"records": "http://there/x"}, "but this begins with http://"),
        ("5m", "a dict with some of budget, .* but got '5m'"),
    ],
)
def test_other_options_are_refused(given: Any, message: str) -> None:
    with pytest.raises(TilewrightError, match=message):
        Options.parse(given)
