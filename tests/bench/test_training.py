"""The bench of training: what it makes of the times of steps, passes and kernels."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from bench._alone import Alone, describe_memory, describe_steps, find_full_speed, find_overtaking
from bench._training_kernels import Timed, bound_seconds, list_convolutions, list_kernels, show_kernels
from bench._training_steps import StepSeconds
from bench._training_tasks import DATA, ELEMENTWISE, FORWARD, WEIGHTS
from bench.training import Plan, bench, main, show, take_pass
from tilewright.measure.limits import Limits
from tilewright.measure.peers import Peer

#: 100 GFLOP/s in a product, 100 GB/s in caches, 10 GB/s in memory.
LIMITS = Limits(fma=120e9, product=100e9, cache_bandwidth=100e9, memory_bandwidth=10e9)


def step(forward: float, backward: float, rest: float) -> StepSeconds:
    seconds = StepSeconds(forward + backward + rest)
    seconds.forward, seconds.backward = forward, backward
    return seconds


def call(kind: str, seconds: float, layer: str = "", first: bool = True, **others: Any) -> Timed:
    fields: dict[str, Any] = {
        "graph": "backward",
        "kernel": "k_01234567",
        "task": "products 36x4",
        "flop": 0.0,
        "bytes": 0.0,
    } | others
    return Timed(
        kind=kind, layer=layer, layer_flop=1e9, convolution=bool(layer), seconds=seconds, first=first, **fields
    )


def test_passes_of_a_step_come_out_of_its_process_with_it() -> None:
    sent = pickle.loads(pickle.dumps([step(0.1, 0.2, 0.05), step(0.3, 0.6, 0.05)]))
    peer = Peer("eager", {0: sent[:1], 2: sent[1:]})
    assert take_pass(peer, "step").blocks == {0: [pytest.approx(0.35)], 2: [pytest.approx(0.95)]}
    assert take_pass(peer, "forward").blocks == {0: [0.1], 2: [0.3]}
    assert take_pass(peer, "backward").blocks == {0: [0.2], 2: [0.6]}


def test_overtaking_is_for_good() -> None:
    theirs = [1.0, 2.0, 3.0, 4.0]
    assert find_overtaking([3.0, 3.1, 3.2, 3.3], theirs) == 3.3
    assert find_overtaking([0.5, 4.0, 6.0], theirs) is None
    assert find_overtaking([9.0, *(9.0 + n / 10 for n in range(1, 20))], theirs) == pytest.approx(9.9)


def test_steps_are_compared_with_those_around_them_and_with_eager_ones() -> None:
    spans = [9.0, 5.0, *[1.5] * 40, 2.1, *[0.5] * 100]  # traced, in PyTorch's kernels, a slow one, in ours
    found = describe_steps(list(itertools.accumulate(spans)), [9.0, *(9.0 + n for n in range(1, 20))])
    assert found["slowest_step"] == pytest.approx(4.2)
    assert found["slowest_step_around"] == pytest.approx(1.4)
    assert found["first_minute_lost"] == pytest.approx(0.5)


def test_a_training_with_records_is_at_full_speed_when_its_steps_are_as_fast_as_the_last_ones_were() -> None:
    before = list(itertools.accumulate([9.0, *[3.0] * 20, *[1.0] * 70]))
    assert find_full_speed([6.0, 8.0, 9.05, 10.0, 11.0], before) == pytest.approx(8.0)
    assert find_full_speed([6.0, 8.0, 10.0], before) is None


def test_memory_is_compared_with_that_of_eager_steps() -> None:
    alone = {"tilewright": Alone([1.0], 1200), "again": Alone([1.0], 1000), "eager-last": Alone([1.0], 1000)}
    found = describe_memory(alone, "eager-last")
    assert (found["peak_memory"], found["peak_memory_again"]) == (1.2, 1.0)
    assert found["peak_bytes"] == {"tilewright": 1200, "again": 1000, "eager-last": 1000}


@pytest.mark.parametrize(
    ("flop", "moved", "seconds"),
    [(1e9, 1e6, 1e-2), (1e3, 1e6, 1e-5), (1e3, 33e6, 33e-5), (1e3, 132e6, 1e-2)],
    ids=["product", "caches", "both", "memory"],
)
def test_a_bound_is_that_of_arithmetic_caches_or_memory(flop: float, moved: float, seconds: float) -> None:
    assert bound_seconds(flop, moved, LIMITS, 32_000_000) == pytest.approx(seconds)


def test_kernels_are_summed_over_calls_and_those_that_lose_most_come_first() -> None:
    calls = [
        call(FORWARD, 0.02, "3x3 a", flop=1e9),
        call(ELEMENTWISE, 0.05, kernel="", task="copy"),
        call(FORWARD, 0.03, "3x3 a", flop=1e9),
        call(FORWARD, 0.01, "3x3 b", flop=1e9),
    ]
    rows = list_kernels(calls, LIMITS)
    assert [(row["kind"], row["layer"], row["calls"]) for row in rows] == [
        (ELEMENTWISE, "", 1),
        (FORWARD, "3x3 a", 2),
        (FORWARD, "3x3 b", 1),
    ]
    assert rows[1]["us"] == pytest.approx(50e3)
    assert rows[1]["bound_us"] == pytest.approx(20e3)
    assert rows[1]["above_us"] == pytest.approx(30e3)


def test_a_convolution_counts_as_computed_directly_with_all_that_belongs_to_it() -> None:
    calls = [
        call(FORWARD, 0.001, "3x3 a", flop=1e6),  # transformed weights
        call(FORWARD, 0.004, "3x3 a", first=False, flop=4e8),
        call(FORWARD, 0.005, "3x3 a", flop=4e8),  # another convolution of the same shape
        call(WEIGHTS, 0.020, "3x3 a", flop=4e8),
        call(DATA, 0.050, "3x3 b", flop=4e8),
    ]
    first, second = list_convolutions(calls, LIMITS)
    assert first["layer"] == "3x3 a"
    assert first[FORWARD] == {
        "count": 2,
        "ms": pytest.approx(10.0),
        "gflops": pytest.approx(200.0),
        "of_peak": pytest.approx(2.0),
    }
    assert first[WEIGHTS]["of_peak"] == pytest.approx(0.5)
    assert DATA not in first
    assert second[DATA]["of_peak"] == pytest.approx(0.2)


def test_tables() -> None:
    calls = [call(FORWARD, 0.02, "3x3 a", flop=1e9), call(WEIGHTS, 0.02, "3x3 a", flop=1e9)]
    ratio = {"arm": "eager", "ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6}
    entry: dict[str, Any] = {
        "gradient_error": 1e-6,
        "profiled_ms": 50.0,
        "waiting": ["forward part 1: waiting"],
        "limits": {**LIMITS.describe(), "reachable": LIMITS.reachable},
        "kernels": list_kernels(calls, LIMITS),
        "convolutions": list_convolutions(calls, LIMITS),
    }
    for key in ("step", "forward", "backward"):
        entry[f"{key}_ms"] = {"tilewright": {"median_ms": 20.0}}
        entry[f"{key}_ratio"] = {"eager": ratio, "inductor": ratio}
    printed = show({"net": entry})
    assert printed.count("0.50 (0.40 to 0.60)") == 6
    assert "never" not in printed  # nobody trained alone
    trained = {**entry, "overtakes_seconds": {"eager": None, "inductor": 12.0}, "slowest_step": 1.25}
    assert [word in show({"net": trained}) for word in ("never", "12", "1.25")] == [True] * 3
    kernels = show_kernels({"net": entry, "old": {"kernels_error": "no compiler"}})
    assert "net: 40 ms of a step of 50 ms are in our kernels" in kernels
    assert "PyTorch runs forward part 1: waiting" in kernels
    assert "goal" not in kernels  # nobody was raced
    entry["step_ms"] |= {"eager": {"median_ms": 30.0}, "inductor": {"median_ms": 20.0}}
    assert "goal: 13 ms, 0.65 of PyTorch's best; 7 ms too long" in show_kernels({"net": entry})
    assert "old: no kernels were timed: no compiler" in kernels


@pytest.mark.parametrize("options", [("--minutes", "0"), ("--kernels-only",)])
def test_kernels_of_an_earlier_run_need_its_records(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["training", *options])
    with pytest.raises(SystemExit):
        main()
    assert "need its --records" in capsys.readouterr().err


def test_tuning_starts_from_empty_records(tmp_path: Path) -> None:
    plan = Plan("encoder", 5.0, tmp_path)
    assert (plan.own, plan.arms) == ("tilewright", ["eager", "inductor"])
    plan.records.touch()
    with pytest.raises(SystemExit, match="empty records"):
        bench(plan)
