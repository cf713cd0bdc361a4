"""The final race: the tuned executable and the incumbent run by turns, in processes of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tilewright.compare import peers
from tilewright.errors import MeasureError, OutputError
from tilewright.measure.compare import compare, latency
from tilewright.measure.peers import Entrant, Peer, race, turn_runs
from tilewright.tuning.report import RaceReport, RuntimeRaceReport

__all__ = ["compare_executables", "compare_runtime", "goes_on", "race_seconds"]

#: Turns of the race; the fewest turns; about how many seconds one lasts; and the seconds that two processes take to
#: start.
_TURNS, _LEAST_TURNS, _TURN_SECONDS, _STARTING = 10, 3, 0.08, 3.0
#: An undecided race goes on for this many turns at a time while there is time; and the most turns in all.
_MORE_TURNS, _MOST_TURNS = 5, 40
#: Seconds that an executable has run after which the race is over, decided or not.
_MOST_SECONDS = 60.0
#: A race is decided if equal executables would differ as much with less than this probability.
_DECIDED = 0.05


def race_seconds(run: float) -> tuple[float, float]:
    """About how many seconds the final race takes, if one run takes ``run`` seconds: the least, and in full."""
    turn = run * sum(turn_runs(run, _TURN_SECONDS))
    least, full = (_STARTING + 2 * turns * turn for turns in (_LEAST_TURNS, _TURNS))
    return least, full


def compare_executables(
    tuned: Path, incumbent: Path, threads: int, until: float = math.inf, shares: Sequence[float] = (1.0,)
) -> RaceReport | None:
    """Race two executables by turns, in processes of their own; None where one of them cannot be timed.

    Args:
        tuned: the directory of the one.
        incumbent: the directory of the other.
        threads: how many each may use.
        until: ``time.monotonic()`` value. After it the race has three turns at most, and an undecided race ends.
        shares: what each bucket counts. The ratio is the mean of the buckets' ratios, and latencies are mean ones.
    """
    found = _race_buckets(tuned, incumbent, threads, until, shares)
    if found is None:
        return None
    mean = _average(found, shares)
    kept = "tuned" if mean.ratio <= 1.0 else "incumbent"
    return RaceReport(kept, mean.ours_ms, mean.theirs_ms, mean.ratio, mean.ratio_low, mean.ratio_high)


def compare_runtime(
    executable: Path, runtime: Path, threads: int, until: float = math.inf, shares: Sequence[float] = (1.0,)
) -> tuple[RuntimeRaceReport, tuple[int, ...]] | None:
    """Race an executable against one that is ONNX Runtime on the whole model, as :func:`compare_executables` does.

    The executable is kept unless it is surely slower: unless the whole interval of the ratio is above 1.

    Returns:
        the report, and the numbers of the buckets in which the executable is surely slower.
    """
    found = _race_buckets(executable, runtime, threads, until, shares)
    if found is None:
        return None
    mean = _average(found, shares)
    slower = tuple(bucket for bucket, raced in enumerate(found) if raced.ratio_low > 1.0)
    kept = "onnxruntime" if len(slower) == len(shares) else "executable"
    report = RuntimeRaceReport(kept, mean.ours_ms, mean.theirs_ms, mean.ratio, mean.ratio_low, mean.ratio_high)
    return report, slower


@dataclass(frozen=True)
class _Raced:
    ours_ms: float
    theirs_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


def _average(found: Sequence[_Raced], shares: Sequence[float]) -> _Raced:
    """The means over buckets, by their shares: geometric ones of ratios. Buckets that were not raced do not count."""
    weights = np.asarray(shares[: len(found)]) / sum(shares[: len(found)])

    def mean(name: str) -> float:
        return float(np.dot(weights, [getattr(raced, name) for raced in found]))

    def geometric(name: str) -> float:
        return float(np.exp(np.dot(weights, np.log([getattr(raced, name) for raced in found]))))

    if len(found) == 1:
        return found[0]
    return _Raced(
        mean("ours_ms"), mean("theirs_ms"), geometric("ratio"), geometric("ratio_low"), geometric("ratio_high")
    )


def _race_buckets(one: Path, other: Path, threads: int, until: float, shares: Sequence[float]) -> list[_Raced] | None:
    """The races in all buckets for which there is time; None if one of them fails."""
    found: list[_Raced] = []
    for bucket in range(len(shares)):
        now = time.monotonic()
        if bucket and now >= until:
            break
        raced = _race_two(one, other, threads, now + (until - now) / (len(shares) - bucket), bucket)
        if raced is None:
            return None
        found.append(raced)
    return found


def _race_two(one: Path, other: Path, threads: int, until: float, bucket: int) -> _Raced | None:
    try:
        entrants = [Entrant(str(path), peers.executable, (str(path.absolute()), bucket)) for path in (one, other)]
        ours, theirs = race(entrants, _LEAST_TURNS, _TURN_SECONDS, threads, more=partial(goes_on, until))
    except (MeasureError, OutputError):
        return None
    found = compare(ours, theirs)
    if ours.error or theirs.error or not found["ratio"] > 0:
        return None
    medians = latency(ours)["median_ms"], latency(theirs)["median_ms"]
    return _Raced(*medians, found["ratio"], found["ratio_low"], found["ratio_high"])


def goes_on(until: float, peers: Sequence[Peer]) -> bool:
    """Whether a race of two goes on: it is short, or neither is surely faster; and there is time."""
    ours, theirs = (peer.blocks for peer in peers)
    turns = ours.keys() & theirs.keys()
    if len(turns) >= _MOST_TURNS or time.monotonic() >= until or any(peer.error for peer in peers):
        return False
    if max(sum(map(sum, runs.values())) for runs in (ours, theirs)) >= _MOST_SECONDS:
        return False
    if len(turns) < _TURNS or len(turns) % _MORE_TURNS:
        return True
    from scipy.stats import binomtest  # half of what a command's imports take, and few commands come here

    # A sign test, for turns of a network of microseconds have thousands of runs.
    faster = sum(bool(np.median(ours[turn]) < np.median(theirs[turn])) for turn in turns)
    return bool(binomtest(faster, len(turns)).pvalue >= _DECIDED)
