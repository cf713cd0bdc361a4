"""Races: kernels timed by turns, block by block, until it is clear which one is the fastest.

Kernels whose blocks lie side by side see the same machine, so a disturbance that lasts longer than a round favours
none. A racer is judged by the low quantile of its blocks in *this* race. Drawing whole rounds again tells how sure the
order is. The blocks of a round are drawn together, because the racers shared what happened in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tilewright.measure.outcome import ROBUST_QUANTILE, Measurement, robust_seconds

__all__ = ["MOST_ROUNDS", "as_often", "interleave", "ratios", "winner"]

#: The number of rounds before the first judgement (a choice: the 0.2-quantile of 7 blocks is near the second).
_LEAST_ROUNDS = 7
#: The number of rounds before the first judgement if the time is over.
_LEAST_LATE_ROUNDS = 3
#: The largest number of rounds: 30 rounds of 2 ms blocks take 60 ms for each racer.
MOST_ROUNDS = 30
#: A racer drops out if it is slower than the fastest one with this probability. It is high because a racer is judged
#: up to 24 times.
_CONFIDENCE = 0.99
#: Racers whose latencies are surely within this share of the fastest need no decision (a choice).
_TIE = 0.005
#: The number of draws: 4 of them lie beyond each end of a 99 % interval.
_RESAMPLES = 400


def interleave(
    racers: Sequence[Callable[[], float]],
    seconds: float,
    *,
    rounds: int = MOST_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, ...]]:
    """Let ``racers`` run by turns. One that is surely slower than the fastest drops out.

    Args:
        racers: each times one block of its own and returns the seconds of a call.
        seconds: no round begins after so many, once there were three rounds.
        rounds: the largest number of rounds.
        clock: returns seconds.

    Returns:
        for each racer, its blocks in the order of the rounds. The i-th blocks of all racers are of the same round.
    """
    blocks: list[list[float]] = [[] for _ in racers]
    running = list(range(len(racers)))
    until = clock() + seconds
    for number in range(rounds):
        # Every other round backwards, and each pair of rounds begun by another one: nobody always follows the same.
        first = number // 2 % max(1, len(running))
        order = running[first:] + running[:first]
        for racer in order if number % 2 == 0 else order[::-1]:
            blocks[racer].append(racers[racer]())
        late = clock() >= until
        if number + 1 < (_LEAST_LATE_ROUNDS if late else _LEAST_ROUNDS):
            continue
        low, high = ratios(np.asarray([blocks[racer] for racer in running]))
        tied = bool((high <= 1.0 + _TIE).all())
        running = [racer for racer, ratio in zip(running, low.tolist(), strict=True) if ratio <= 1.0]
        if tied or late or len(running) == 1:
            break
    return [tuple(times) for times in blocks]


def ratios(blocks: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much slower racers are than the fastest of them: both ends of an interval for each ratio, ``(n,)``.

    Each end is right with 99 % confidence. Both ends of the fastest racer are 1.

    Args:
        blocks: ``(n, rounds)`` seconds.
    """
    fastest = int(np.argmin(np.quantile(blocks, ROBUST_QUANTILE, axis=1)))
    draws = np.random.default_rng(0).integers(0, blocks.shape[1], (_RESAMPLES, blocks.shape[1]))
    estimates = np.quantile(blocks[:, draws], ROBUST_QUANTILE, axis=2)  # (n, resamples)
    low, high = np.quantile(estimates / estimates[fastest], [1.0 - _CONFIDENCE, _CONFIDENCE], axis=1)
    return low, high


def winner(blocks: Sequence[tuple[float, ...]]) -> int:
    """The place of the fastest racer that stayed to the end, in what :func:`interleave` returned.

    Raises:
        ValueError: nobody ran.
    """
    longest = max((len(times) for times in blocks), default=0)
    if longest == 0:
        raise ValueError("a race is won by one that ran, but nobody did")
    return min((i for i, times in enumerate(blocks) if len(times) == longest), key=lambda i: robust_seconds(blocks[i]))


def as_often(measured: Sequence[Measurement]) -> list[Measurement]:
    """Measurements of a race that had to be given up, cut to equally many repeats, so that :func:`winner` compares all.

    Measurements of a single repeat stay as they are: these candidates were dropped at once, and have lost.
    """
    least = min((len(m.repeats) for m in measured if len(m.repeats) > 1), default=1)
    return [replace(m, repeats=m.repeats[:least]) if m.ok else m for m in measured]
