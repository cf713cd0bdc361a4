"""A runner whose candidates are measured on the nodes of a fleet.

A batch is cut into *works* of up to 16 candidates. A node has one work that it measures and one that waits for it, so
that it is never idle. The works of a lost node go to other nodes, without the candidates that it had reported.

If the fleet has *builders*, a work goes to one of them first. The builder compiles the candidates, and a node of the
kind measures them. A node that has nothing to measure does not wait for builders: it builds a work itself. So a lost
builder, and a candidate that it could not compile, cost nothing but time.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import count

import numpy as np

from tilewright.errors import MeasureError
from tilewright.fleet.chunks import Batch, Chunk
from tilewright.fleet.crew import Joined, Lost, News
from tilewright.fleet.doubts import Doubts
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.wire import Done, Report, Work, kind_of
from tilewright.measure.batch import GRACE, PoolStatistics
from tilewright.measure.limits import Limits
from tilewright.measure.outcome import Measurement
from tilewright.measure.runner import Job
from tilewright.ops.generic.generation import known_generated
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tuning.report import NodeReport
from tilewright.tuning.roofline import Roofline

__all__ = ["FleetRunner"]

#: Candidates of a work: at most, and at least where idle nodes share a batch. Turning to a task costs a node as much
#: as two to four candidates.
_MOST, _LEAST = 16, 4
#: Works that a node has at once: the one that it measures, and the next.
_AHEAD = 2
#: A work that was lost with so many nodes is not tried again.
_MOST_LOSSES = 3
#: Seconds beyond the deadline in which a node reports what it had begun: news waits for half a second, besides.
_PATIENCE = GRACE + 4.0
#: Seconds without any node after which a runner without a deadline gives up.
_DESERTED = 300.0


class FleetRunner:
    """Measures candidates on the nodes of one kind.

    A :class:`~tilewright.measure.runner.ParallelRunner`, a :class:`~tilewright.measure.runner.Pool` and a
    :class:`~tilewright.measure.runner.Racer`. Not to be shared between threads.

    Args:
        target: what is measured for. Its kind is that of the nodes.
        fleet: the nodes.
        on_measurement: called with each measurement as it arrives, so that an interrupt loses none.

    Attributes:
        on_measurement: see above.
        fleet: the nodes.
    """

    def __init__(
        self, target: Target, fleet: Fleet, on_measurement: Callable[[Measurement], None] | None = None
    ) -> None:
        self.on_measurement = on_measurement
        self.fleet = fleet
        self._target, self._kind = target, kind_of(target)
        self._statistics = PoolStatistics()
        self._batches: dict[int, Batch] = {}
        self._finished: list[tuple[int, list[Measurement]]] = []
        self._backlog: deque[Chunk] = deque()
        self._built: deque[Chunk] = deque()  # by builders
        self._sent: dict[int, tuple[str, Chunk]] = {}
        self._numbers, self._own = count(1), count(-1, -1)
        self._lives: dict[str, str] = {}
        self._doubts = Doubts()
        self._deserted = math.inf

    @property
    def target(self) -> Target:
        """What is measured for."""
        return self._target

    @property
    def statistics(self) -> PoolStatistics:
        """Where the nodes' time and memory went so far, summed up."""
        return self._statistics

    @property
    def limits(self) -> Limits:
        """What a node reaches."""
        return self.fleet.limits(self._kind)

    @property
    def nodes(self) -> tuple[NodeReport, ...]:
        """All nodes that took part so far, for the display and the report."""
        return self.fleet.report()

    @property
    def machines(self) -> int:
        """How many nodes measure at this moment, at least 1."""
        return max(1, len(self.fleet.measuring(self._kind)))

    @property
    def slots(self) -> int:
        """How many batches keep the nodes busy at this moment: a builder has works ahead of those that are measured."""
        return self.machines + math.ceil(self.machines / 2) + _AHEAD * len(self._builders())

    def weigh(self, nbytes: int) -> None:
        """Measure for a network with ``nbytes`` bytes of weights from now on: see ``Target.with_weights``."""
        self._target = self._target.with_weights(nbytes)

    def close(self) -> None:
        """Forget all batches. The nodes stay."""
        for ticket in list(self._batches):
            self.cancel(ticket)

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        """Build and time ``configs`` of ``space``; see :meth:`tilewright.measure.runner.Runner.measure`."""
        return self._wait_for(Job(space, configs, best, deadline))

    def race(self, space: DesignSpace, configs: Configs, deadline: float) -> list[Measurement]:
        """Time ``configs`` of ``space`` by turns, on one node; see :meth:`tilewright.measure.runner.Racer.race`."""
        return self._wait_for(Job(space, configs, math.inf, deadline, race=True))

    def submit(self, ticket: int, job: Job) -> None:
        """Take on a batch; see :meth:`tilewright.measure.runner.ParallelRunner.submit`."""
        rows = [tuple(int(index) for index in row) for row in np.asarray(job.configs)]
        batch = self._batches[ticket] = Batch(job, rows, self._bound(job.space), best=job.best)
        places = list(range(len(rows)))
        idle = sum(not self._works_of(node) for node in self.fleet.measuring(self._kind)) if not self._backlog else 0
        parts = max(math.ceil(len(rows) / _MOST), min(idle, len(rows) // _LEAST), 1)
        size = max(1, math.ceil(len(rows) / (1 if job.race else parts)))
        for start in range(0, len(rows), size):
            self._backlog.append(Chunk(ticket, places[start : start + size]))
            batch.open += 1
        self._settle(ticket)
        self._dispatch()

    def finished(self) -> list[tuple[int, list[Measurement]]]:
        """Wait until a batch is finished; see :meth:`tilewright.measure.runner.ParallelRunner.finished`.

        Raises:
            MeasureError: there has been no node for minutes.
            FleetError: the cluster is gone.
        """
        while not self._finished and self._batches:
            self._dispatch()
            self.listen(1.0)
            self._expire()
        done, self._finished = self._finished, []
        return done

    def listen(self, seconds: float) -> None:
        """Take in what nodes report; wait at most so many seconds for something."""
        for event in self.fleet.events(seconds):
            if isinstance(event, News):
                self._read(event.node, event.report)
            elif isinstance(event, Lost | Joined):  # one that joins anew has forgotten its works
                self._lose(event.node)

    def cancel(self, ticket: int) -> None:
        """Forget a batch."""
        self._batches.pop(ticket, None)
        for queue in (self._backlog, self._built):
            for chunk in [chunk for chunk in queue if chunk.ticket == ticket]:
                queue.remove(chunk)
        for number, (node, chunk) in list(self._sent.items()):
            if chunk.ticket == ticket:
                del self._sent[number]
                self.fleet.crew.cancel(node, number)

    # Works and news ---------------------------------------------------------------------------------------------------

    def _wait_for(self, job: Job) -> list[Measurement]:
        ticket, others = next(self._own), list[tuple[int, list[Measurement]]]()
        try:
            self.submit(ticket, job)
            while True:
                for number, measured in self.finished():
                    if number == ticket:
                        return measured
                    others.append((number, measured))
        finally:
            self.cancel(ticket)
            self._finished += others

    def _works_of(self, node: str) -> int:
        return sum(where == node for where, _ in self._sent.values())

    def _builders(self) -> list[str]:
        """The nodes that can build for the target."""
        return self.fleet.building(self._target)

    def _dispatch(self) -> None:
        """Send the next works to the nodes that have fewest."""
        nodes, builders = self.fleet.measuring(self._kind), self._builders()
        self._deserted = min(self._deserted, time.monotonic()) if not nodes else math.inf
        self._fill(self._built, nodes, _AHEAD)
        # Where there are builders, a node builds only what it would be idle without.
        self._fill(self._backlog, nodes, 1 if builders else _AHEAD)
        for builder in builders:
            for chunk in [c for c in self._backlog if not (c.offered or c.avoid or self._batches[c.ticket].job.race)]:
                if self._works_of(builder) >= _AHEAD:
                    break
                self._send(self._backlog, builder, chunk, build=True)

    def _fill(self, queue: deque[Chunk], nodes: list[str], most: int) -> None:
        """Send works of a queue to nodes that measure, until each has so many."""
        load = {node: self._works_of(node) for node in nodes}
        for chunk in list(queue):
            others = [node for node in load if node != chunk.avoid] or nodes
            node = min(others, key=lambda each: load[each], default="")
            if not node or (load[node] >= most and not chunk.avoid):
                return
            if load[node] < most:
                self._send(queue, node, chunk)
                load[node] += 1

    def _send(self, queue: deque[Chunk], node: str, chunk: Chunk, build: bool = False) -> None:
        """Hand a work of a queue to a node."""
        queue.remove(chunk)
        number = next(self._numbers)
        self._sent[number] = (node, chunk)
        work = self._work(number, chunk)
        if build:
            work = replace(work, target=self.fleet.target_for(node, self._target), build=True)
        self.fleet.crew.send(node, work)

    def _work(self, number: int, chunk: Chunk) -> Work:
        batch = self._batches[chunk.ticket]
        space, job = batch.job.space, batch.job
        return Work(
            number=number,
            session=self.fleet.crew.session,
            task=space.task,
            template=space.template,
            default=batch.default,
            configs=np.asarray([batch.rows[place] for place in chunk.places], dtype=np.int32),
            target=self._target,
            best=batch.best,
            seconds=job.deadline - time.monotonic(),
            race=job.race,
            generated=known_generated(space.task, self._target),
            built=chunk.built,
        )

    def _read(self, node: str, report: Report) -> None:
        if self._lives.setdefault(node, report.life) != report.life:
            self._lose(node)
            self._lives[node] = report.life
        for number, news in report.entries:
            where, chunk = self._sent.get(number, ("", None))
            if where != node or chunk is None:
                continue  # it was given to another node, or is not wanted any more
            if isinstance(news, Done):
                self._finish(node, number, chunk, news)
            else:
                self._note(node, chunk, news)

    def _note(self, node: str, chunk: Chunk, measurement: Measurement) -> None:
        """Take a measurement on, unless it cannot be true."""
        batch = self._batches[chunk.ticket]
        place = next((p for p in chunk.places if batch.rows[p] == measurement.config), None)
        whose = (batch.job.space.task.key, self._target.key, batch.job.space.template)
        if place is None or (measurement.task, measurement.target, measurement.template) != whose:
            self._exclude(node, "it answers what it was not asked")
            return
        alone = self.machines == 1
        ruling = self._doubts.hear(node, measurement, batch.default, batch.possible, alone)
        if not ruling.believed:
            chunk.places.remove(place)
            self._backlog.appendleft(Chunk(chunk.ticket, [place], avoid=node))
            batch.open += 1
            return
        batch.measured[place] = measurement
        if measurement.ok:
            batch.best = min(batch.best, measurement.seconds)
        self.fleet.members[node].trials += 1
        self._statistics.measured += 1
        if self.on_measurement is not None:
            self.on_measurement(measurement)
        if ruling.liar:
            self._exclude(ruling.liar, ruling.reason)

    def _finish(self, node: str, number: int, chunk: Chunk, done: Done) -> None:
        if done.error:
            self._exclude(node, f"it cannot {'build' if self.fleet.builds(node) else 'measure'}: {done.error}")
            return
        del self._sent[number]
        if self.fleet.builds(node):
            self.fleet.members[node].built += done.compiled
            self._built.append(replace(chunk, offered=True, built=done.built))
            return
        batch = self._batches[chunk.ticket]
        places = {batch.rows[place]: place for place in chunk.places}
        # As the pool returned them: with the anchors, and in a race with as many repeats each.
        returned = {places[m.config]: m for m in done.measurements if m.config in places}
        batch.measured |= {place: m for place, m in returned.items() if place in batch.measured}
        for name in (each.name for each in fields(PoolStatistics) if each.name != "measured"):
            ours, theirs = getattr(self._statistics, name), getattr(done.statistics, name)
            highest = name in ("peak_rss", "longest_gap")
            setattr(self._statistics, name, max(ours, theirs) if highest else ours + theirs)
        batch.open -= 1
        self._settle(chunk.ticket)

    def _settle(self, ticket: int) -> None:
        """Hand a batch back if it is finished."""
        batch = self._batches[ticket]
        if batch.open == 0:
            del self._batches[ticket]
            self._finished.append((ticket, [batch.measured[place] for place in sorted(batch.measured)]))

    def _exclude(self, node: str, reason: str) -> None:
        if self.fleet.members[node].state == "excluded":
            return
        self.fleet.exclude(node, reason)
        self._lose(node)

    def _lose(self, node: str) -> None:
        """Give the works of a node to others, without what it had reported."""
        lost = [number for number, (where, _) in self._sent.items() if where == node]
        for number in reversed(lost):
            _, chunk = self._sent.pop(number)
            batch = self._batches[chunk.ticket]
            left = chunk.places if batch.job.race else [p for p in chunk.places if p not in batch.measured]
            if self.fleet.builds(node):  # nothing was run
                self._backlog.appendleft(replace(chunk, offered=True))
            elif left and chunk.losses + 1 < _MOST_LOSSES:
                self._backlog.appendleft(replace(chunk, places=left, losses=chunk.losses + 1))
            else:
                batch.open -= 1
                self._settle(chunk.ticket)

    def _expire(self) -> None:
        """End the batches whose time is over."""
        now = time.monotonic()
        if now - self._deserted > _DESERTED:
            raise MeasureError(
                f"measuring needs a node of kind {self._kind}, but there has been none for {_DESERTED:g} s; start one, "
                "and run the same command again, which goes on from the records"
            )
        for queue in (self._backlog, self._built):
            for chunk in [c for c in queue if self._batches[c.ticket].job.deadline < now]:
                queue.remove(chunk)
                self._batches[chunk.ticket].open -= 1
                self._settle(chunk.ticket)
        for number, (node, chunk) in list(self._sent.items()):
            if number in self._sent and self._batches[chunk.ticket].job.deadline + _PATIENCE < now:
                del self._sent[number]
                self.fleet.crew.cancel(node, number)
                self._batches[chunk.ticket].open -= 1
                self._settle(chunk.ticket)

    def _bound(self, space: DesignSpace) -> float:
        """Seconds that no kernel of the task goes below."""
        return Roofline.of(self.limits).possible(space)
