"""Times executables on 1, 2, ... threads, and computes what the runtime's loops would cost on more cores.

    python -m bench.scaling --models mobilenetv3,resnet50_timm --json scaling.json

The networks are those of ``bench.network --models modern``, with default schedules for this machine's cores, or
directories of executables. All numbers of threads take turns in one process.

A parallel loop is simulated with three costs that are measured here: until one core sees a cache line that another has
written, for taking a part of the loop, and for looking at each of many lines that other cores have written. Threads
are assumed to learn of a loop one after the other, as fast as a core looks at lines. The *serial part* of a loop is
the time in which only the calling thread works: it tells the others, and makes sure that all have left.
"""

from __future__ import annotations

import argparse
import ctypes
import heapq
import statistics
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench._modern import MODERN, fetch
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.runtime.library import SOURCE, find_compiler
from tilewright.processor import model_name
from tilewright.tvm_compat import usable_cores

__all__ = ["Costs", "Loop", "measure_costs", "simulate"]

#: Parts of a loop for each thread (``PARTS`` of ``executable/runtime/pool.h``).
_PARTS = 8
#: The numbers of threads of the simulation.
_THREADS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Costs:
    """The seconds that a parallel loop takes besides its work.

    Attributes:
        line: until a core sees a cache line that another core has written.
        part: in which a thread takes a part of its own share.
        look: in which a core reads a line that another core has written, if it reads many of them in a row.
    """

    line: float
    part: float
    look: float


@dataclass(frozen=True)
class Loop:
    """What a simulated parallel loop takes.

    Attributes:
        seconds: from its start to its end.
        serial: seconds in which the calling thread alone is busy with the loop's organisation.
    """

    seconds: float
    serial: float


def simulate(work: float, threads: int, costs: Costs) -> Loop:
    """Simulate a parallel loop of the runtime, whose parts are all equal.

    Args:
        work: the seconds of the loop on one thread.
        threads: how many threads run it.
        costs: of its organisation.
    """
    if threads == 1:
        return Loop(work, 0.0)
    part = work / (threads * _PARTS)
    left = [_PARTS] * threads
    # When each thread is free. The others learn of the loop one after the other.
    free = [(costs.line + costs.look * max(0, thread - 1), thread) for thread in range(threads)]
    heapq.heapify(free)
    end = 0.0
    while free:
        now, thread = heapq.heappop(free)
        for distance in range(threads):
            owner = (thread + distance) % threads
            if left[owner]:
                left[owner] -= 1
                taking = costs.part if distance == 0 else costs.line + distance * costs.look
                heapq.heappush(free, (now + taking + part, thread))
                break
        else:
            end = max(end, now + threads * costs.look)
    closing = threads * costs.look
    return Loop(end + closing, costs.line + closing)


def measure_costs() -> Costs:
    """Measure what parallel loops cost on this machine, which must have two cores."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "loops.so"
        source = Path(__file__).with_name("_loops.c")
        options = ["-std=c11", "-O2", "-shared", "-fPIC", "-pthread", f"-I{SOURCE.parent}"]
        subprocess.run([*find_compiler(), *options, str(source), "-o", str(library)], check=True)
        loops = ctypes.CDLL(str(library))
    for name, arguments in (("loop_seconds", 1), ("part_seconds", 1), ("turn_seconds", 2)):
        function = getattr(loops, name)
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int] * arguments
    line = min(loops.turn_seconds(0, 2_000) for _ in range(20)) / 2
    clock = min(loops.turn_seconds(1, 2_000) for _ in range(20))
    look = (min(loops.turn_seconds(64, 2_000) for _ in range(20)) - clock) / 63
    part = min(loops.part_seconds(100_000) for _ in range(5))
    print(f"an empty loop of two threads takes {min(loops.loop_seconds(20_000) for _ in range(5)) * 1e6:.2f} us")
    return Costs(line, part, look)


def time_threads(folder: Path, blocks: int) -> dict[str, Any]:
    """The median seconds of an executable by its number of threads, and those of its kernels on one and on all."""
    counts = [n for n in _THREADS if n <= usable_cores()]
    loaded = {n: load_executable(folder, threads=n) for n in counts}
    arrays = _draw_inputs(loaded[1])
    times: dict[int, list[float]] = {n: [] for n in counts}
    for _ in range(blocks):
        for n, executable in loaded.items():
            executable.time(arrays, 2)
            begin = time.perf_counter()
            while time.perf_counter() - begin < 0.2:
                times[n] += executable.time(arrays, 1)
    kernels = [
        [statistics.median(kernel.seconds) for kernel in loaded[n].profile(arrays, 20) or []]
        for n in (counts[0], counts[-1])
    ]
    return {
        "seconds": {str(n): statistics.median(found) for n, found in times.items()},
        "kernels": list(zip(*kernels, strict=True)),
    }


def _draw_inputs(executable: Executable) -> list[Any]:
    random = np.random.default_rng(0)
    return [
        random.standard_normal(spec.shape).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else random.integers(0, 2, spec.shape).astype(spec.dtype)
        for spec in executable.inputs
    ]


def predict(kernels: list[tuple[float, float]], costs: Costs, threads: int) -> tuple[float, float]:
    """The seconds of a network on ``threads`` threads, and the seconds of its loops' serial parts.

    A kernel that two threads do not make faster runs on one.
    """
    total = serial = 0.0
    for one, most in kernels:
        if most > 0.8 * one:
            total += one
            continue
        loop = simulate(one, threads, costs)
        total += loop.seconds
        serial += loop.serial
    return total, serial


def build_default(name: str, folder: Path) -> Path:
    """Build a network of ``bench.network`` with default schedules. Returns the directory of the executable."""
    from tilewright.compiling.build import build
    from tilewright.frontend.load import load
    from tilewright.graph.tasks import extract
    from tilewright.ops.registry import make_space
    from tilewright.target import Target

    target = Target.parse()
    extraction = extract(load(str(fetch(name).path)), target)
    functions = {}
    for use in extraction.uses:
        space = make_space(use.task, target)
        functions[use.task.key] = space.schedule(space.default()).mod["main"]
    build(extraction, functions, folder / name, {})
    return folder / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mobilenetv2,resnet50_timm", help="comma-separated names or directories")
    parser.add_argument("--blocks", type=int, default=10, help="turns of each number of threads")
    parser.add_argument("--json", type=Path, default=Path("scaling.json"))
    arguments = parser.parse_args()
    costs = measure_costs()
    done: dict[str, Any] = {"machine": model_name(), "date": time.strftime("%Y-%m-%d"), "costs": asdict(costs)}
    done["models"] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models.split(","):
            place = Path(name) if name not in MODERN else build_default(name, Path(folder))
            done["models"][name] = time_threads(place, arguments.blocks)
            write_json(arguments.json, done)
    print({name: f"{seconds * 1e9:.1f} ns" for name, seconds in asdict(costs).items()})
    rows = []
    for name, found in done["models"].items():
        one = found["seconds"]["1"]
        rows.append([name, *(f"{one / s:.2f}" for n, s in found["seconds"].items() if n != "1")])
        for threads in _THREADS[2:]:
            total, serial = predict(found["kernels"], costs, threads)
            alone = sum(kernel[0] for kernel in found["kernels"])
            rows[-1].append(f"{alone / total:.1f} ({serial / alone:.2%})")
    measured = [f"{n} threads" for n in _THREADS[1:] if n <= usable_cores()]
    head = ["network", *measured, *(f"{n} simulated (serial)" for n in _THREADS[2:])]
    print(table(head, rows))


if __name__ == "__main__":
    main()
