"""Measures how often the true best of 8 close kernels wins on a machine that another process disturbs.

    python -m bench.noise --json noise.json

The 8 kernels lie 2 to 15 % apart. The *synthetic* ones add up numbers, where each addition waits for the one before, so
that their work is known exactly. The *real* ones are configs of one convolution. A short tuning finds them, and a long
race measures them before the disturbance begins, on a machine that should be quiet.

In each race every method chooses one of the 8, without earlier measurements, in random order:

- ``rule``: each is timed like a candidate (a sequential rule, a low quantile, other turns for disturbed ones).
- ``rule + race``: after that the three best run by turns, like the finalists of a tuning.
- ``race``: all 8 run by turns.
- ``means``: each is called in a loop for an eighth of the time of ``rule + race``. The lowest mean wins.
- ``means at race's cost``: the same, for an eighth of the time of ``race``.

*Won* is the share of races in which the true best was chosen. *Lost* is how much slower the chosen kernel truly is.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench._bursts import bursts
from bench._recorded import TASKS
from bench.search import interval
from tilewright.cli.text import table
from tilewright.executable.runtime.library import use_for_kernels
from tilewright.graph.tasks import task_of
from tilewright.measure.arguments import Arguments, parameters_of
from tilewright.measure.interleaved import interleave, winner
from tilewright.measure.outcome import robust_seconds
from tilewright.measure.pool import LocalPool
from tilewright.measure.rule import HOPELESS_FACTOR
from tilewright.measure.timing import Timer, collector_resting
from tilewright.methods.autotvm import quick
from tilewright.ops.registry import make_space
from tilewright.records.memory import MemoryStore
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tuning.tuner import TaskTuner
from tilewright.tvm_compat import set_threads, spin_briefly

COUNT = 8
#: What the synthetic kernels take, as multiples of the first one.
RATIOS = (1.0, 1.02, 1.03, 1.05, 1.07, 1.09, 1.12, 1.15)
#: Additions of the first one: about 60 us.
ADDITIONS = 40_000
#: The best of the real kernels is faster than the second by so much, and the last is slower by no more than this.
CLEAR, CLOSE = 1.02, 1.15
REAL = "conv3x3-128-28"
#: Most candidates for the real kernels.
CANDIDATES = 32
#: As in a pool: turns of a disturbed kernel.
TURNS = 3
SECONDS_PER_RACER = 0.2


@dataclass(frozen=True)
class Kernel:
    """Something that can be called, and how long that truly takes: in seconds, or in some other unit for all."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    truth: float
    kept: Any = None

    def first(self, timer: Timer) -> float:
        """Seconds of a call after others."""
        return timer.first_call(self.function, self.arguments)


@dataclass(frozen=True)
class Choice:
    """Which one a method chose, and the seconds that it took."""

    chosen: int
    seconds: float


def by_rule(kernels: Sequence[Kernel], timer: Timer) -> list[float]:
    """The latency of each in seconds, timed as a pool times candidates."""
    best = math.inf
    found: dict[int, tuple[float, ...]] = {}
    waiting = [(index, 1) for index in range(len(kernels))]
    while waiting:
        index, turn = waiting.pop(0)
        kernel = kernels[index]
        timing = timer.time(kernel.function, kernel.arguments, kernel.first(timer), best)
        earlier = found.get(index, timing.repeats)
        found[index] = min(timing.repeats, earlier, key=robust_seconds) if timing.causes else timing.repeats
        best = min(best, robust_seconds(found[index]))
        if timing.causes and turn < TURNS and robust_seconds(found[index]) <= HOPELESS_FACTOR * best:
            waiting.append((index, turn + 1))
    return [robust_seconds(found[index]) for index in range(len(kernels))]


def by_race(kernels: Sequence[Kernel], timer: Timer, rounds: int | None = None) -> list[tuple[float, ...]]:
    """The blocks of each in a race; with ``rounds``, a race of so many without an end before."""
    turns = []
    for kernel in kernels:
        estimate = timer.estimate(kernel.function, kernel.arguments, kernel.first(timer))
        turns.append(partial(timer.turn, kernel.function, kernel.arguments, estimate))
    if rounds is not None:
        return list(zip(*([turn() for turn in turns] for _ in range(rounds)), strict=True))
    return interleave(turns, SECONDS_PER_RACER * len(turns), clock=time.perf_counter)


def rule(kernels: Sequence[Kernel], timer: Timer) -> int:
    return int(np.argmin(by_rule(kernels, timer)))


def rule_and_race(kernels: Sequence[Kernel], timer: Timer) -> int:
    finalists = np.argsort(by_rule(kernels, timer))[:3].tolist()
    return int(finalists[winner(by_race([kernels[index] for index in finalists], timer))])


def race(kernels: Sequence[Kernel], timer: Timer) -> int:
    return winner(by_race(kernels, timer))


def means(kernels: Sequence[Kernel], seconds: float) -> int:
    """Call each in a loop for an equal part of ``seconds``."""
    found = []
    for kernel in kernels:
        calls, begin = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - begin < seconds / len(kernels):
            kernel.function(*kernel.arguments)
            calls += 1
        found.append((time.perf_counter() - begin) / calls)
    return int(np.argmin(found))


METHODS: dict[str, Callable[[Sequence[Kernel], Timer], int]] = {
    "rule": rule,
    "rule + race": rule_and_race,
    "race": race,
}
#: Means of equal cost, and whose.
EQUAL = {"means": "rule + race", "means at race's cost": "race"}


def one_race(kernels: Sequence[Kernel], timer: Timer, rng: np.random.Generator) -> dict[str, Choice]:
    """What each method chooses: the number of a kernel."""
    found: dict[str, Choice] = {}
    # Means come after those whose cost they have; otherwise by chance.
    names = [*rng.permutation(list(METHODS)).tolist(), *rng.permutation(list(EQUAL)).tolist()]
    for name in names:
        order = rng.permutation(len(kernels)).tolist()
        racers = [kernels[index] for index in order]
        begin = time.perf_counter()
        with collector_resting():
            chosen = METHODS[name](racers, timer) if name in METHODS else means(racers, found[EQUAL[name]].seconds)
        found[name] = Choice(order[chosen], time.perf_counter() - begin)
    return found


def synthetic(target: Target) -> list[Kernel]:
    """Kernels whose work is known exactly; their truth is in multiples of the first one's."""
    return [_additions(target, round(ADDITIONS * ratio), ratio) for ratio in RATIOS]


def _additions(target: Target, count: int, ratio: float) -> Kernel:
    import tvm
    from tvm import te

    # Without -ffast-math no compiler reorders a sum: each addition takes the processor's whole latency. The same 4 kB
    # again and again, so that no cache matters.
    numbers = te.placeholder((target.cores, 1024), name="numbers")
    step = te.reduce_axis((0, count), name="step")
    total = te.compute((target.cores,), lambda core: te.sum(numbers[core, step % 1024], axis=step), name="total")
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": te.create_prim_func([numbers, total])}))
    schedule.parallel(schedule.get_loops(schedule.get_sblock("total"))[0])
    return _built(schedule, target, ratio)


def real(target: Target, seconds: float, rounds: int) -> list[Kernel]:
    """Configs of one task within 15 % of each other, the first one clearly the best; their truth is in seconds."""
    space = make_space(task_of(REAL, TASKS[REAL]()), target)
    rows = _good_configs(space, target, seconds)
    kernels = [_built(space.schedule(row), target, math.nan) for row in rows]
    shared = kernels[0].arguments  # the same data for all
    with collector_resting():
        blocks = by_race([Kernel(k.function, shared, k.truth, k.kept) for k in kernels], Timer(), rounds)
    truths = [robust_seconds(times) for times in blocks]
    return [Kernel(kernels[i].function, shared, truths[i], kernels[i].kept) for i in spread(truths)]


def _good_configs(space: DesignSpace, target: Target, seconds: float) -> Configs:
    """``(n, knobs)``: what a short tuning finds."""
    with LocalPool(target) as pool:
        tuner = TaskTuner(space, target, pool, MemoryStore(), np.random.default_rng(0), quick())
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not tuner.exhausted:
            tuner.round(16, deadline)
        return tuner.finalists(CANDIDATES, CLOSE * 1.1)


def spread(truths: Sequence[float]) -> list[int]:
    """Which 8 to take: the best, which nothing is near, and 7 others as evenly between 2 and 15 % as there are.

    Fewer where there are not so many. What lies nearer to the best than 2 % is left out.
    """
    order = np.argsort(truths).tolist()
    best = truths[order[0]]
    others = [index for index in order[1:] if CLEAR <= truths[index] / best <= CLOSE]
    wanted = np.linspace(0, len(others) - 1, min(COUNT - 1, len(others))).round().astype(int)
    return [order[0], *(others[position] for position in wanted.tolist())]


def _built(schedule: Any, target: Target, truth: float) -> Kernel:
    import tvm

    arguments = Arguments(parameters_of(schedule.mod["main"]), "noise")
    module = tvm.compile(schedule.mod, target=target.tvm).mod
    return Kernel(module["main"], arguments.tensors, truth, (module, arguments))


def wilson(won: int, races: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z = 1.959964
    middle = (won + z * z / 2) / (races + z * z)
    half = z / (races + z * z) * math.sqrt(won * (races - won) / races + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def summary(kernels: Sequence[Kernel], races: Sequence[dict[str, Choice]]) -> dict[str, Any]:
    """Of each method how often it won, how much it lost, and what it cost, with 95 % intervals."""
    best = min(range(len(kernels)), key=lambda index: kernels[index].truth)
    result: dict[str, Any] = {}
    for name in (*METHODS, *EQUAL):
        choices = [found[name] for found in races]
        won = sum(choice.chosen == best for choice in choices)
        low, high = wilson(won, len(choices))
        result[name] = {
            "won": {"mean": won / len(choices), "low": low, "high": high},
            "lost": interval([kernels[choice.chosen].truth / kernels[best].truth - 1.0 for choice in choices]),
            "seconds": float(np.mean([choice.seconds for choice in choices])),
        }
    return result


def text(report: dict[str, Any]) -> str:
    rows = []
    for part in report["parts"]:
        for name, found in part["methods"].items():
            won, lost = ({key: 100 * value for key, value in found[what].items()} for what in ("won", "lost"))
            rows.append(
                [
                    part["kernels"],
                    f"{100 * part['share']:.0f} %",
                    name,
                    f"{won['mean']:.0f} ({won['low']:.0f} to {won['high']:.0f})",
                    f"{lost['mean']:.2f} ({lost['low']:.2f} to {lost['high']:.2f})",
                    f"{found['seconds']:.2f}",
                ]
            )
    head = ["kernels", "disturbed", "method", "won % (95 %)", "lost % (95 %)", "seconds"]
    truths = [
        f"{part['kernels']}: {', '.join(f'{ratio:.3f}' for ratio in part['ratios'])}"
        for part in report["parts"]
        if part["share"] == report["parts"][0]["share"]
    ]
    about = f"{report['races']} races each; {report['machine']}, {report['threads']} threads, {report['date']}"
    about += f"; {report['wall_seconds']:.0f} s"
    return "\n".join([table(head, rows), *truths, about])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=200)
    parser.add_argument("--shares", default="0,0.3,0.6", help="of the time that is disturbed; comma-separated")
    parser.add_argument("--milliseconds", type=float, default=20.0, help="of a burst, on average")
    parser.add_argument("--processes", type=int, default=1, help="that disturb")
    parser.add_argument("--kernels", default="synthetic,real", help="synthetic, real, or both")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the tuning that finds the real kernels")
    parser.add_argument("--rounds", type=int, default=300, help="of the race that finds their true latencies")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    spin_briefly()
    set_threads()
    target = Target.parse()
    use_for_kernels(target.cores)
    made: dict[str, Callable[[], list[Kernel]]] = {
        "synthetic": lambda: synthetic(target),
        "real": lambda: real(target, arguments.seconds, arguments.rounds),
    }
    names = arguments.kernels.split(",")
    unknown = [name for name in names if name not in made]
    if unknown:
        parser.error(f"kernels are synthetic or real, but this is {unknown[0]!r}")
    report: dict[str, Any] = {
        "command": f"python -m bench.noise --races {arguments.races}",
        "races": arguments.races,
        "machine": target.machine,
        "threads": target.cores,
        "date": time.strftime("%Y-%m-%d"),
        "parts": [],
    }
    timer = Timer()
    for name in names:
        kernels = made[name]()
        if len(kernels) < 3:
            parser.error(f"a race needs rivals, but only {len(kernels)} {name} kernels were found; give more --seconds")
        least = min(kernel.truth for kernel in kernels)
        for share in map(float, arguments.shares.split(",")):
            rng = np.random.default_rng(0)
            disturbing = bursts(share, arguments.milliseconds, arguments.processes) if share > 0 else nullcontext()
            with disturbing:
                races = [one_race(kernels, timer, rng) for _ in range(arguments.races)]
            report["parts"].append(
                {
                    "kernels": name,
                    "share": share,
                    "ratios": [kernel.truth / least for kernel in kernels],
                    "methods": summary(kernels, races),
                }
            )
    report["wall_seconds"] = time.monotonic() - began
    print(text(report))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
