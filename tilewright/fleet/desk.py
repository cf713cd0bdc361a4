"""The node's side: takes on works, has a pool measure them one after the other, and keeps the news for the head.

A desk knows nothing of Ray, which only calls its methods. It imports no TVM either: that is in the pool's workers.
"""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import TilewrightError
from tilewright.fleet.canary import examine
from tilewright.fleet.machine import is_builder
from tilewright.fleet.wire import Announcement, Done, Entry, Report, Versions, Work
from tilewright.measure.batch import PoolStatistics
from tilewright.measure.limits import measure_limits
from tilewright.measure.outcome import Measurement
from tilewright.measure.pool import LocalPool
from tilewright.measure.protocol import Library
from tilewright.ops.generic.generation import remember_generated
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Caches, Target
from tilewright.task import Task

__all__ = [
    "Depot",
    "Desk",
    "Libraries",
    "NodeBuilder",
    "NodePool",
    "PoolMaker",
    "make_local_builder",
    "make_local_pool",
]

#: Seconds that a question for news waits for some, and then for more. The head asks again at once. So a node costs the
#: head at most two questions a second, and a lost node loses what it measured in half a second.
_WAIT, _LINGER = 2.0, 0.5
#: The targets whose workers a builder keeps at once: each worker has 200 MB.
_MOST_BUILDERS = 2


#: Candidates that were compiled, by their configs.
Libraries: TypeAlias = Mapping[tuple[int, ...], Library]


class NodePool(Protocol):
    """What a desk needs of a pool."""

    on_measurement: Callable[[Measurement], None] | None

    @property
    def statistics(self) -> PoolStatistics:  # noqa: D102 - as of LocalPool
        ...
    def measure(  # noqa: D102
        self,
        space: DesignSpace,
        configs: Configs,
        best: float,
        deadline: float,
        libraries: Libraries | None = None,
    ) -> list[Measurement]: ...
    def race(self, space: DesignSpace, configs: Configs, deadline: float) -> list[Measurement]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class NodeBuilder(Protocol):
    """What a builder's desk needs of a pool."""

    def compile(self, space: DesignSpace, configs: Configs, deadline: float) -> Libraries: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Depot(Protocol):
    """Where the libraries of builders wait for the nodes that measure them. It travels to the nodes."""

    def put(self, libraries: Libraries) -> object:
        """Keep libraries. Returns what :meth:`get` finds them by, on any node."""
        ...

    def get(self, place: object) -> Libraries:
        """The libraries at a place; none if they are lost, which costs only time."""
        ...


PoolMaker = Callable[[Target], NodePool]
BuilderMaker = Callable[[Target, int], NodeBuilder]


def make_local_pool(target: Target) -> NodePool:
    """The workers of this machine."""
    return LocalPool(target)


def make_local_builder(target: Target, workers: int) -> NodeBuilder:
    """The workers of this machine as builders."""
    return LocalPool(target, workers)


@dataclass(frozen=True)
class _Named:
    """What a pool needs to know of a design space; its workers make the space itself."""

    task: Task
    template: str
    start: tuple[int, ...]

    def default(self) -> NDArray[np.int32]:
        """The default config, ``(knobs,)``."""
        return np.asarray(self.start, dtype=np.int32)


@dataclass
class _Outbox:
    """The news for one session: entries that the head has not acknowledged."""

    last: int = 0
    entries: deque[tuple[int, Entry]] = field(default_factory=deque)

    def put(self, entry: Entry) -> None:
        self.last += 1
        self.entries.append((self.last, entry))


class Desk:
    """Measures for the sessions of a fleet on one node.

    Args:
        cores: how many threads kernels run on.
        name: of the node, for people; by default the machine's.
        make_pool: makes the pool for a target.
        make_builder: makes the builder for a target, with so many workers.
        depot: where the libraries of builders are kept.
    """

    def __init__(
        self,
        cores: int,
        name: str = "",
        make_pool: PoolMaker = make_local_pool,
        make_builder: BuilderMaker = make_local_builder,
        depot: Depot | None = None,
    ) -> None:
        self._cores, self._name = cores, name or socket.gethostname()
        self._make_pool, self._make_builder, self._depot = make_pool, make_builder, depot
        self._life = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._works: deque[tuple[float, Work]] = deque()
        self._cancelled: set[tuple[str, int]] = set()
        self._outboxes: dict[str, _Outbox] = {}
        self._pools: dict[Caches, NodePool] = {}
        self._builders: OrderedDict[str, NodeBuilder] = OrderedDict()
        self._closed = False
        self._examining = threading.Lock()
        self._announcement: Announcement | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hello(self) -> Announcement:
        """Examine this machine: what it is, what it reaches, and whether it computes right. Takes some seconds.

        Raises:
            MeasureError, FleetError: it cannot be examined.
        """
        with self._examining:  # several sessions may ask; one examination serves all
            if self._announcement is None:
                builder = is_builder()
                target, answer = examine(self._cores)
                limits = measure_limits(self._cores, target.features)
                self._announcement = Announcement(self._name, target, limits, answer, Versions.here(), builder)
            return self._announcement

    def work(self, work: Work) -> None:
        """Take on a work. It is measured after those that came before."""
        with self._changed:
            self._works.append((time.monotonic() + work.seconds, work))
            self._changed.notify_all()

    def cancel(self, session: str, number: int) -> None:
        """Do not begin a work."""
        with self._changed:
            self._works = deque(item for item in self._works if (item[1].session, item[1].number) != (session, number))

    def collect(self, session: str, after: int, wait: float = _WAIT, linger: float = _LINGER) -> Report:
        """The news for a session.

        Args:
            session: whose.
            after: number of the last entry that has arrived; entries up to it are forgotten.
            wait: seconds to wait for news.
            linger: seconds to wait for more news once there is some, unless a work is finished.
        """
        with self._changed:
            box = self._outboxes.setdefault(session, _Outbox())
            while box.entries and box.entries[0][0] <= after:
                box.entries.popleft()
            self._changed.wait_for(lambda: box.entries or self._closed, wait)
            self._changed.wait_for(lambda: self._closed or any(isinstance(e[1][1], Done) for e in box.entries), linger)
            return Report(self._life, box.last, tuple(entry for _, entry in box.entries))

    def close(self) -> None:
        """End the pools' workers. What is being measured is lost."""
        with self._changed:
            self._closed = True
            self._works.clear()
            self._changed.notify_all()
        self._thread.join(5.0)
        for pool in self._pools.values():
            pool.close()
        for builder in self._builders.values():
            builder.close()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._works or self._closed)
                if self._closed:
                    return
                deadline, work = self._works.popleft()
            done = self._do(work, deadline)
            with self._changed:
                self._put(work, done)

    def _do(self, work: Work, deadline: float) -> Done:
        try:
            if work.generated is not None:
                remember_generated(work.task, work.target, work.generated)
            space: DesignSpace = _Named(work.task, work.template, work.default)  # type: ignore[assignment]  # see _Named
            return self._build(work, space, deadline) if work.build else self._measure(work, space, deadline)
        except TilewrightError as error:
            return Done((), error=str(error))
        except Exception as error:
            return Done((), error=f"{type(error).__name__}: {error}")

    def _build(self, work: Work, space: DesignSpace, deadline: float) -> Done:
        assert self._depot is not None
        libraries = self._builder(work.target).compile(space, work.configs, deadline)
        return Done((), built=self._depot.put(libraries) if libraries else None, compiled=len(libraries))

    def _measure(self, work: Work, space: DesignSpace, deadline: float) -> Done:
        pool = self._pool(work.target)
        pool.on_measurement = lambda measurement: self._note(work, measurement)
        before = replace(pool.statistics, causes=pool.statistics.causes.copy())
        if work.race:
            measured = pool.race(space, work.configs, deadline)
        elif self._depot is None or work.built is None:
            measured = pool.measure(space, work.configs, work.best, deadline)
        else:
            measured = pool.measure(space, work.configs, work.best, deadline, self._depot.get(work.built))
        return Done(tuple(measured), _difference(pool.statistics, before))

    def _builder(self, target: Target) -> NodeBuilder:
        """The builder for a target. Those of the targets that were built for last are kept."""
        if target.key not in self._builders:
            while len(self._builders) >= _MOST_BUILDERS:
                self._builders.popitem(last=False)[1].close()
            self._builders[target.key] = self._make_builder(target, self._cores)
        self._builders.move_to_end(target.key)
        return self._builders[target.key]

    def _pool(self, target: Target) -> NodePool:
        """The pool for a target; one for each state of the caches."""
        if target.caches not in self._pools:
            self._pools[target.caches] = self._make_pool(target)
        return self._pools[target.caches]

    def _note(self, work: Work, measurement: Measurement) -> None:
        with self._changed:
            self._put(work, measurement)

    def _put(self, work: Work, news: Measurement | Done) -> None:
        self._outboxes.setdefault(work.session, _Outbox()).put((work.number, news))
        self._changed.notify_all()


def _difference(after: PoolStatistics, before: PoolStatistics) -> PoolStatistics:
    """What was spent between two readings."""
    spent = {f.name: getattr(after, f.name) - getattr(before, f.name) for f in fields(after)}
    return PoolStatistics(**spent | {"longest_gap": after.longest_gap, "peak_rss": after.peak_rss})
