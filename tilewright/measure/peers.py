"""Races several runtimes: each in its own process, by turns, block by block.

Two runtimes never share a process, and never run at once: the threads of one go on spinning after its run, which made
the other up to 2.5 times as slow. So the processes whose turn it is not are stopped (SIGSTOP), whatever their threads
are at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from tilewright.errors import MeasureError
from tilewright.measure.peer_process import PeerProcess
from tilewright.tensor import Array, TensorSpec, random_arrays

__all__ = ["Entrant", "Peer", "Runnable", "race", "turn_runs"]

#: The seconds that all blocks of one peer may take together (a choice). A slower peer sits blocks out.
_MOST_SECONDS = 60.0
#: A peer has at least so many blocks: fewer give no interval.
_LEAST_BLOCKS = 3
#: A run of more seconds needs no warm-up: what is cold at its start is a small part of it.
_LONG_RUN = 1.0
#: The number of runs that warm up before each block: the first runs find the caches full of another process's data.
_WARM_UP = 2
#: The least seconds of a run that numbers of runs are computed from, because clocks may read 0.
_LEAST_SECONDS = 1e-9


class Runnable(Protocol):
    """A network that a runtime runs."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Its inputs, in order."""
        ...

    def __call__(self, *arrays: Array) -> list[Array]:
        """The outputs of one run."""
        ...

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of ``runs`` runs, without copying the inputs."""
        ...


@dataclass(frozen=True)
class Entrant:
    """A runtime that takes part in a race.

    Attributes:
        name: such as ``onnxruntime``.
        factory: makes the runnable in a process of its own, which finds the factory by its name.
        arguments: of the factory.
    """

    name: str
    factory: Callable[..., Runnable]
    arguments: tuple[object, ...] = ()


@dataclass
class Peer:
    """The runs of one entrant.

    Attributes:
        name: the entrant's name.
        blocks: the seconds of each run, by the number of the block.
        outputs: of the first run, on the inputs that all entrants got.
        error: why it takes part no longer, or never did; empty if nothing went wrong.
    """

    name: str
    blocks: dict[int, list[float]] = field(default_factory=dict)
    outputs: list[Array] = field(default_factory=list)
    error: str = ""


def race(
    entrants: Sequence[Entrant],
    blocks: int,
    block_seconds: float,
    threads: int,
    seed: int = 0,
    *,
    cold: bool = False,
    more: Callable[[Sequence[Peer]], bool] | None = None,
) -> list[Peer]:
    """Let ``entrants`` run by turns on the same random inputs. One that fails leaves the others alone.

    Args:
        entrants: the inputs are drawn once, for the first entrant; every entrant gets the same.
        blocks: the number of turns that each has. One that is very slow has fewer.
        block_seconds: about how many seconds a turn lasts, without its warm-up. A single run may be longer.
        threads: how many threads each may use.
        seed: of the inputs.
        cold: empty the caches before each run. The time that takes is part of a turn's time, but of no run's.
        more: asked once all turns are over, with what came of them. It says whether each entrant has another turn.

    Raises:
        MeasureError: the first entrant fails before it has run.
    """
    peers = [Peer(entrant.name) for entrant in entrants]
    running: list[_Turns] = []
    arrays: list[Array] = []
    try:
        for entrant, peer in zip(entrants, peers, strict=True):
            process = PeerProcess(threads)
            try:
                specs = process.start(entrant.factory, entrant.arguments)
                arrays = arrays or random_arrays(specs, seed)
                peer.outputs, seconds = process.prepare(arrays, cold)
                process.pause()
            except MeasureError as error:
                process.kill()
                if peer is peers[0]:
                    raise MeasureError(f"{entrant.name} cannot be timed: {error}") from error
                peer.error = str(error)
            except BaseException:
                process.kill()
                raise
            else:
                running.append(_Turns(process, peer, seconds, blocks, block_seconds))
        for block in count():
            if block >= blocks and (more is None or not more(peers)):
                break
            # Every other block backwards, so that nobody always follows the same one.
            for turns in running if block % 2 == 0 else running[::-1]:
                turns.take(block)
    finally:
        for turns in running:
            turns.process.kill()
    return peers


def turn_runs(seconds: float, block_seconds: float) -> tuple[int, int]:
    """How many runs a turn warms up with, and how many it times.

    Args:
        seconds: of a run.
        block_seconds: about how many seconds a turn lasts.
    """
    runs = max(1, round(block_seconds / max(seconds, _LEAST_SECONDS)))
    if seconds > _LONG_RUN:
        return 0, runs
    return (_WARM_UP if runs > 1 else 1), runs


class _Turns:
    """The turns of one process.

    Args:
        process: of the peer.
        peer: keeps what comes of the turns.
        seconds: of a run.
        blocks: the number of turns that each has.
        block_seconds: about how many seconds a turn lasts.
    """

    def __init__(self, process: PeerProcess, peer: Peer, seconds: float, blocks: int, block_seconds: float) -> None:
        self.process = process
        self._peer = peer
        self._seconds = seconds
        self._warm_up, self._runs = turn_runs(seconds, block_seconds)
        turn = seconds * (self._runs + self._warm_up)
        turns = min(blocks, max(_LEAST_BLOCKS, int(_MOST_SECONDS / turn)))
        self._every = math.ceil(blocks / turns)

    def take(self, block: int) -> None:
        """Time the block of this number, unless the process sits it out."""
        if self._peer.error or block % self._every:
            return
        try:
            self.process.resume()
            self._peer.blocks[block] = self.process.time(self._warm_up, self._runs)
            self.process.pause()
        except MeasureError as error:
            self._peer.error = str(error)
            self.process.kill()
