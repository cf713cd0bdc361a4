"""The contract of what carries works to nodes and news back, such as a cluster of Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tilewright.fleet.wire import Announcement, Report, Work

__all__ = ["Crew", "Event", "Joined", "Lost", "News", "Refused"]


@dataclass(frozen=True)
class Joined:
    """A node has started, or started anew, and announces its machine."""

    node: str
    announcement: Announcement


@dataclass(frozen=True)
class News:
    """A node reports what it has measured."""

    node: str
    report: Report


@dataclass(frozen=True)
class Lost:
    """A node has gone, with all works that it had. It may join again under the same name."""

    node: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """A node cannot take part: it has another version, or cannot be examined."""

    node: str
    reason: str


Event: TypeAlias = Joined | News | Lost | Refused


class Crew(Protocol):
    """Nodes that come and go. Not to be shared between threads."""

    @property
    def session(self) -> str:
        """Whose works these are."""
        ...

    @property
    def expected(self) -> int:
        """How many nodes there are that have neither joined nor been refused yet."""
        ...

    def send(self, node: str, work: Work) -> None:
        """Hand a work to a node. If the node is lost, an event says so."""
        ...

    def cancel(self, node: str, number: int) -> None:
        """Tell a node not to begin a work."""
        ...

    def dismiss(self, node: str) -> None:
        """Have nothing more to do with a node."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """What happened since the last call; waits at most so many seconds for something.

        Raises:
            FleetError: the cluster is gone.
        """
        ...

    def close(self) -> None:
        """Let go of all nodes, and end what was started. May be called again."""
        ...
