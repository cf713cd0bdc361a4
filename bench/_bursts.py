"""A process that disturbs the machine: bursts of arithmetic and of memory traffic, with pauses between them.

    python -m bench._bursts --share 0.3 --milliseconds 20

The process ends when its standard input ends, so it never outlives the process that started it.
"""

from __future__ import annotations

import argparse
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen

import numpy as np

#: Of the memory that is copied: more than the last cache has.
COPIED = 64 << 20


@contextmanager
def bursts(share: float, milliseconds: float, count: int = 1) -> Iterator[None]:
    """Disturb meanwhile, with so many processes."""
    options = ["--share", str(share), "--milliseconds", str(milliseconds)]
    processes = []
    try:
        for seed in range(count):
            command = [sys.executable, "-m", "bench._bursts", *options, "--seed", str(seed)]
            processes.append(Popen(command, stdin=PIPE, stdout=PIPE))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, required=True, help="of the time that is disturbed, 0 to 1")
    parser.add_argument("--milliseconds", type=float, required=True, help="of a burst, on average")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    burst = arguments.milliseconds / 1e3
    pause = burst * (1.0 - arguments.share) / max(arguments.share, 1e-3)
    source = np.ones(COPIED // 8)
    target = np.zeros_like(source)
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], rng.exponential(pause))[0]:
        until = time.monotonic() + rng.exponential(burst)
        traffic = rng.random() < 0.5
        piece = 0
        while time.monotonic() < until:
            if traffic:
                part = slice(piece * 65536, (piece + 1) * 65536)
                np.copyto(target[part], source[part])
                piece = (piece + 1) % (len(source) // 65536)
            else:
                sum(range(2000))


if __name__ == "__main__":
    main()
