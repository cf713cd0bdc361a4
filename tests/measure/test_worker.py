"""The worker by itself, without the process that it usually is; what the pool makes of its replies is in test_pool."""

from __future__ import annotations

import pytest

from tests.measure.spaces import make_faulty, make_task
from tilewright.measure import worker
from tilewright.measure.protocol import Hello, Prepare, Prepared
from tilewright.target import Target


@pytest.mark.parametrize(("longest", "anchored"), [(600.0, True), (0.0, False)])
def test_a_default_that_takes_long_is_not_timed_with_every_batch(
    monkeypatch: pytest.MonkeyPatch, longest: float, anchored: bool
) -> None:
    monkeypatch.setattr(worker, "_LONGEST_ANCHOR", longest)
    one = worker._Worker(Hello(Target.parse(), make_faulty))
    assert one.handle(Prepare(make_task(), True, 0)) == Prepared(reference=True, anchor=anchored)
