"""The nodes of a fleet, as the head knows them: who is there, of which kind, and who cannot be trusted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from tilewright.errors import FleetError
from tilewright.fleet.canary import find_fault
from tilewright.fleet.crew import Crew, Event, Joined, Lost, News, Refused
from tilewright.fleet.wire import Announcement, kind_of
from tilewright.measure.limits import Limits
from tilewright.target import Target
from tilewright.tuning.report import NodeReport
from tilewright.wording import counted

__all__ = ["Fleet", "Member"]

#: Seconds in which the first node has joined: a busy machine starts Ray's process and imports the compiler in 20.
_FIRST = 180.0
#: Seconds that nodes may take to join after the first one before tuning begins without them.
_OTHERS = 45.0


@dataclass
class Member:
    """A node.

    Attributes:
        name: for people.
        announcement: what it said of itself; None: it was refused before it said anything.
        state: ``measuring``, ``building``, ``lost`` or ``excluded``.
        reason: why it is lost or excluded; otherwise empty.
        trials: how many candidates it has measured for this command.
        built: how many it has compiled for other nodes.
    """

    name: str
    announcement: Announcement | None
    state: str = "measuring"
    reason: str = ""
    trials: int = 0
    built: int = 0

    @property
    def kind(self) -> str:
        """Its kind of machine; empty: not known."""
        return "" if self.announcement is None else self.announcement.kind

    @property
    def cores(self) -> int:
        """The cores that kernels run on; 0: not known."""
        return 0 if self.announcement is None else self.announcement.target.cores


class Fleet:
    """The nodes that take part in a command.

    Args:
        crew: carries works and news.
        tell: is called with what people should know of nodes that join, leave, or are excluded.

    Attributes:
        crew: carries works and news.
        members: all nodes that ever took part, by their ids.
    """

    def __init__(self, crew: Crew, tell: Callable[[str], None] = lambda _: None) -> None:
        self.crew = crew
        self.tell = tell
        self.members: dict[str, Member] = {}
        self._gathered = False

    def gather(self, first: float = _FIRST, others: float = _OTHERS) -> None:
        """Wait for the nodes that are there.

        Args:
            first: seconds to wait for the first node.
            others: seconds to wait for the others after it.

        Raises:
            FleetError: no node can measure, or a node has another version.
        """
        until = time.monotonic() + first
        while (self.crew.expected or not self.members) and time.monotonic() < until:
            for event in self.events(0.5):
                if isinstance(event, Joined):
                    until = min(until, time.monotonic() + others)
        excluded = [member for member in self.members.values() if member.state == "excluded"]
        # A wrong version is a mistake that somebody can correct before time is spent; one bad machine of many is not.
        for member in excluded:
            if member.announcement is None or not self.measuring():
                raise FleetError(f"node {member.name} cannot take part: {member.reason}")
        if not self.measuring():
            if builders := [member.name for member in self.members.values() if member.state == "building"]:
                raise FleetError(
                    "a fleet needs a node that measures, but the cluster has builders only: "
                    f"{', '.join(builders[:8])}; start a node without TILEWRIGHT_NODE_BUILDER"
                )
            raise FleetError(
                f"a fleet needs a node that measures, but the cluster has none after {first:g} s; start one with "
                "'ray start --address=HEAD:6379', or free the cores of those that other jobs have"
            )
        self._gathered = True

    @property
    def kinds(self) -> dict[str, Target]:
        """The target of each kind of machine that measures."""
        found = (member.announcement for member in self.members.values() if member.state == "measuring")
        return {each.kind: each.target for each in found if each is not None}

    def measuring(self, kind: str | None = None) -> list[str]:
        """The ids of the nodes that measure, those of one kind or all."""
        return [
            node
            for node, member in self.members.items()
            if member.state == "measuring" and (kind is None or member.kind == kind)
        ]

    def building(self, target: Target) -> list[str]:
        """The ids of the builders whose compiler is the target's."""
        return [
            node
            for node, member in self.members.items()
            if member.state == "building"
            and member.announcement is not None
            and member.announcement.target.tvm_version == target.tvm_version
        ]

    def builds(self, node: str) -> bool:
        """Whether a node is a builder: then it measures nothing."""
        announcement = self.members[node].announcement
        return announcement is not None and announcement.builder

    def target_for(self, builder: str, target: Target) -> Target:
        """What a builder compiles for a target: with the name of the platform, if the builder's is another one."""
        there = self.members[builder].announcement
        node = next((m.announcement for m in self.members.values() if m.kind == kind_of(target)), None)
        if target.triple or there is None or node is None or there.architecture == node.architecture:
            return target
        return replace(target, triple=f"{node.architecture}-linux-gnu")

    def limits(self, kind: str) -> Limits:
        """What a machine of a kind reaches: each figure is the median of the nodes that measured it."""
        found = [m.announcement.limits for m in self.members.values() if m.announcement is not None and m.kind == kind]
        limits = Limits()
        for name in (field.name for field in fields(Limits)):
            values = [value for each in found if (value := getattr(each, name)) is not None]
            if values:
                limits = replace(limits, **{name: statistics.median_high(values)})
        return limits

    def events(self, seconds: float) -> list[Event]:
        """What happened to nodes that take part; waits at most so many seconds for something.

        Raises:
            FleetError: the cluster is gone.
        """
        return [event for event in self.crew.wait(seconds) if self._note(event)]

    def report(self) -> tuple[NodeReport, ...]:
        """All nodes that ever took part."""
        members = self.members.values()
        return tuple(NodeReport(m.name, m.kind, m.cores, m.state, m.reason, m.trials, m.built) for m in members)

    def exclude(self, node: str, reason: str) -> None:
        """Have nothing more to do with a node."""
        member = self.members[node]
        member.state, member.reason = "excluded", reason
        self.crew.dismiss(node)
        self.tell(f"node {member.name} is excluded: {reason}")

    def exclude_named(self, name: str, reason: str) -> None:
        """Exclude the node that has a name, unless it is excluded."""
        for node, member in self.members.items():
            if member.name == name and member.state != "excluded":
                self.exclude(node, reason)

    def _note(self, event: Event) -> bool:
        """Take an event into account. Returns whether it concerns a node that takes part."""
        known = self.members.get(event.node)
        if isinstance(event, Joined):
            return self._admit(event.node, event.announcement, known)
        if isinstance(event, Refused):
            self.members[event.node] = Member(event.node, None, "excluded", event.reason)
            if self._gathered:
                self.tell(f"node {event.node} cannot take part: {event.reason}")
            return False
        if known is None or known.state == "excluded":
            return False
        if isinstance(event, Lost) and known.state in ("measuring", "building"):
            left = f"{counted(len(self.measuring(known.kind)) - 1, 'node')} of its kind left"
            if known.state == "building":
                left = "what it was to build, others build"
            known.state, known.reason = "lost", event.reason
            self.tell(f"node {known.name} is lost ({event.reason}); {left}")
            return True
        return isinstance(event, News)

    def _admit(self, node: str, announcement: Announcement, known: Member | None) -> bool:
        if known is None:
            known = self.members[node] = Member(announcement.name, announcement)
        known.announcement = announcement
        others = [m for m in self.members.values() if m.kind == announcement.kind and m.state == "measuring"]
        known.state, known.reason = "building" if announcement.builder else "measuring", ""
        fault = find_fault(announcement.canary, self.limits(announcement.kind) if others else announcement.limits)
        if fault:
            self.exclude(node, fault)
            return False
        if self._gathered:
            what = "as a builder" if announcement.builder else f"of kind {announcement.kind}"
            self.tell(f"node {known.name} has joined, {what}")
        return True
