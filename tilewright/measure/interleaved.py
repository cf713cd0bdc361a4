"""Races: kernels timed by turns, block by block, until it is clear which one is the fastest.

Kernels whose blocks lie side by side see the same machine, so what disturbs it for longer than a round is no one's
luck. A racer is judged by the low quantile of its blocks in *this* race, and how sure the order is, by drawing whole
rounds again: all racers' blocks of a round together, since they shared what happened in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tilewright.measure.outcome import ROBUST_QUANTILE, Measurement, robust_seconds

__all__ = ["MOST_ROUNDS", "as_often", "interleave", "ratios", "winner"]

#: No judgement before so many rounds, or so many where the time is over; at most so many.
_LEAST_ROUNDS = 7
_LEAST_LATE_ROUNDS = 3
MOST_ROUNDS = 30
#: A racer is out when it is slower than the fastest one with this probability. It is asked after every round.
_CONFIDENCE = 0.99
#: Those that are surely no further apart, as a share, need no decision.
_TIE = 0.005
_RESAMPLES = 400


def interleave(
    racers: Sequence[Callable[[], float]],
    seconds: float,
    *,
    rounds: int = MOST_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, ...]]:
    """Let ``racers`` run by turns; one that is surely slower than the fastest drops out.

    Args:
        racers: each times one block of its own and gives the seconds of a call.
        seconds: no round is begun after so many, once there were three.
        rounds: how many there are at most.
        clock: gives seconds.

    Returns:
        for each racer, its blocks in the order of the rounds: the i-th ones of all were timed in the same round.
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

    Each end is right with 99 % confidence. Those of the fastest are 1.

    Args:
        blocks: ``(n, rounds)`` seconds.
    """
    fastest = int(np.argmin(np.quantile(blocks, ROBUST_QUANTILE, axis=1)))
    draws = np.random.default_rng(0).integers(0, blocks.shape[1], (_RESAMPLES, blocks.shape[1]))
    estimates = np.quantile(blocks[:, draws], ROBUST_QUANTILE, axis=2)  # (n, resamples)
    low, high = np.quantile(estimates / estimates[fastest], [1.0 - _CONFIDENCE, _CONFIDENCE], axis=1)
    return low, high


def winner(blocks: Sequence[tuple[float, ...]]) -> int:
    """The fastest of those that stayed in a race to its end, by what :func:`interleave` returned.

    Raises:
        ValueError: nobody ran.
    """
    longest = max((len(times) for times in blocks), default=0)
    if longest == 0:
        raise ValueError("a race is won by one that ran, but nobody did")
    return min((i for i, times in enumerate(blocks) if len(times) == longest), key=lambda i: robust_seconds(blocks[i]))


def as_often(measured: Sequence[Measurement]) -> list[Measurement]:
    """Measurements of a race that had to be given up, with as many repeats each, so that :func:`winner` compares all.

    But for those that were dropped at once, with a single repeat: they have lost.
    """
    least = min((len(m.repeats) for m in measured if len(m.repeats) > 1), default=1)
    return [replace(m, repeats=m.repeats[:least]) if m.ok else m for m in measured]
