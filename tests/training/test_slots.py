"""Slots have their share of a training's time, and make no step long."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.training.clocks import Clock
from tilewright.training.lengths import StepLengths
from tilewright.training.options import Options
from tilewright.training.slots import PREPARING, TUNING, Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of slots."""
    made = Clock()
    monkeypatch.setattr("tilewright.training.slots.time", made)
    return made


@pytest.mark.parametrize("share", [PREPARING, TUNING])
def test_slots_have_their_share_of_the_time_and_delay_no_step_by_half(share: float, clock: Clock) -> None:
    pace, steps, begins = Pace(), StepLengths(), list[float]()
    for number in range(400):
        begins.append(clock.now)
        pace.begin_step(steps)
        if number == 3:
            assert clock.slept == []
            pace.set_share(share)
        clock.now += 1.0 if number < 200 else 0.6  # our kernels are there
    assert pace.given == pytest.approx(share * clock.now, rel=0.05)
    assert pace.given == pytest.approx(sum(clock.slept))
    spans = np.diff([*begins, clock.now])
    around = [np.median(spans[max(0, place - 8) : place + 9]) for place in range(len(spans))]
    assert (spans / around).max() <= 1.5
    assert pace.step_seconds == pytest.approx(0.6)


def run_steps(pace: Pace, clock: Clock, steps: StepLengths, length: float) -> float:
    """Take steps of this length. Returns the share of the time that was given away once the length was known."""
    before = since = 0.0
    for number in range(200):
        if number == 40:
            before, since = pace.given, clock.now
        pace.begin_step(steps)
        clock.now += length
    return (pace.given - before) / (clock.now - since)


def test_steps_that_became_shorter_pay_for_slots(clock: Clock) -> None:
    """With a small share, the first kernels pay for the next ones: no step takes longer than in PyTorch, and 5 %."""
    pace, steps, given = Pace(), StepLengths(), dict[tuple[float, bool], float]()
    for length, paid in ((1.0, False), (1.0, True), (0.6, True), (0.6, False)):
        steps.ours = int(length < 1.0)
        pace.set_share(0.05, paid)
        given[length, paid] = run_steps(pace, clock, steps, length)
    assert given[1.0, False] == pytest.approx(0.05, rel=0.1)
    assert given[1.0, True] == pytest.approx(0.05, rel=0.1)
    assert given[0.6, True] == pytest.approx(1.0 - 0.6 * 0.95, rel=0.05)
    assert given[0.6, False] == pytest.approx(0.05, rel=0.1)


def test_the_steps_of_a_model_pay_no_more_than_they_gained_themselves(clock: Clock) -> None:
    """Two models share slots. Steps of one take 1 s in PyTorch, those of the other 0.05 s, and gain nothing."""
    pace, long, short = Pace(), StepLengths(), StepLengths()
    run_steps(pace, clock, long, 1.0)
    pace.set_share(0.05, True)
    long.ours = 1
    for _ in range(2):
        assert run_steps(pace, clock, long, 0.6) == pytest.approx(1.0 - 0.6 * 0.95, rel=0.05)
        assert run_steps(pace, clock, short, 0.05) == pytest.approx(0.05, rel=0.1)
    assert (long.before, long.now) == pytest.approx((1.0, 0.6))
    assert (short.before, short.now) == pytest.approx((0.05, 0.05))


def test_a_validation_changes_no_slots_of_the_training(clock: Clock) -> None:
    pace, steps, validation = Pace(), StepLengths(), StepLengths(inference=True)
    pace.set_share(TUNING)
    for _ in range(2):
        run_steps(pace, clock, steps, 1.0)
        for _number in range(40):
            pace.begin_step(validation)
            clock.now += 0.1
    assert pace.step_seconds == pytest.approx(0.1)
    given = []
    for _ in range(40):
        before = pace.given
        pace.begin_step(steps)
        clock.now += 1.0
        given.append(pace.given - before)
        assert pace.step_seconds == pytest.approx(1.0)
    # A slot that is shorter than a quarter of a step is not worth its costs.
    assert all(seconds >= 0.25 for seconds in given if seconds)
    assert any(given)


@pytest.mark.parametrize(
    ("share", "allowed"), [(None, (PREPARING, TUNING)), (0.2, (0.2, TUNING)), (0.02, (0.02, 0.02))]
)
def test_an_option_limits_the_share(share: float | None, allowed: tuple[float, float]) -> None:
    options = Options(share=share)
    assert (options.limit(PREPARING), options.limit(TUNING)) == allowed
    assert Options(mode="now").limit(PREPARING) == 0.0


def test_time_that_slots_could_not_take_is_not_given_later(clock: Clock) -> None:
    """While slots become longer they get less than their share. A small share that follows does not make up for it."""
    pace, steps, before, since = Pace(), StepLengths(), 0.0, 0.0
    for number in range(60):
        if number in (4, 20):
            pace.set_share(PREPARING if number == 4 else TUNING)
            before, since = pace.given, clock.now
        pace.begin_step(steps)
        clock.now += 1.0
    assert pace.given - before <= 1.5 * TUNING * (clock.now - since)


def test_a_step_that_is_longer_has_no_slot(clock: Clock) -> None:
    pace, steps = Pace(), StepLengths()
    pace.set_share(PREPARING)
    for number in range(40):
        before = len(clock.slept)
        pace.begin_step(steps, full=number % 3 == 0)
        clock.now += 1.0
        assert number < 4 or (len(clock.slept) > before) is (number % 3 != 0)


def test_a_graph_that_does_not_come_again_holds_up_nothing(clock: Clock) -> None:
    pace, steps = Pace(), StepLengths()
    for number in range(40):
        pace.set_share(PREPARING if number > 3 else 0.0)
        pace.begin_step(steps, full=number > 3)
        clock.now += 1.0
    assert len(clock.slept) > 20


def test_another_thread_works_while_the_training_sleeps(clock: Clock) -> None:
    pace, steps = Pace(), StepLengths()
    for _ in range(4):
        pace.begin_step(steps)
        clock.now += 1.0
    count, seen = [0], list[int]()
    thread = threading.Thread(target=pace.between_steps, args=(lambda: seen.append(count[0]),))
    thread.start()
    time.sleep(0.1)
    assert not seen
    while thread.is_alive():
        pace.begin_step(steps)
        count[0] += 1
        time.sleep(0.01)
    assert len(seen) == 1


class Process:
    """A process that can be stopped."""

    running = True

    def pause(self) -> None:
        """Stop it."""
        self.running = False

    def resume(self) -> None:
        """Let it go on."""
        self.running = True


def test_the_process_is_stopped_however_long_a_graph_runs(clock: Clock) -> None:
    pace, steps, process = Pace(), StepLengths(), Process()
    pace.process = process
    pace.set_share(PREPARING)
    for number in range(6):
        pace.begin_step(steps)
        with pace.run():
            clock.now += 10.0
            pace.look()
            assert not process.running
        # PyTorch traces the model in the first step. The length of a step is known from the third one on.
        assert process.running is (number < 2)
        clock.now += 1.0
    clock.now += 1000.0  # the training has stopped by itself
    pace.look()
    assert process.running


def test_a_step_that_begins_during_a_look_is_not_disturbed() -> None:
    pace, looked, seen = Pace(), threading.Event(), list[bool]()

    def run() -> None:
        with pace.run():
            looked.wait(60)
            seen.append(process.running)

    class Slow(Process):
        """A step begins while this process is about to go on."""

        def resume(self) -> None:
            """Let it go on."""
            if thread.ident is None:
                thread.start()
                time.sleep(0.05)
            super().resume()

    thread, process = threading.Thread(target=run), Slow()
    pace.process = process
    pace.look()  # nothing trains
    looked.set()
    thread.join(60)
    assert seen == [False]
