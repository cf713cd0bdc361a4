"""The nodes of a cluster of Ray: one actor a node, which has all of the node's cores for itself.

Ray places the actors, starts those anew that died, and carries the messages.
"""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tilewright.errors import FleetError
from tilewright.fleet.crew import Event, Joined, Lost, News, Refused
from tilewright.fleet.desk import Desk, Libraries
from tilewright.fleet.wire import Announcement, Report, Versions, Work

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

__all__ = ["RayCrew"]

#: Seconds between two looks at which nodes there are.
_LOOK = 2.0
#: Seconds in which a node has fetched the libraries of a work, 2 MB of another node's memory.
_FETCH = 10.0
#: Calls that an actor answers at once: works and cancellations besides questions for news of several sessions.
_CALLS = 64
#: A node whose process died so often in a row before it could announce itself is left out: fewer may be accidents.
_MOST_FAILURES = 4


@dataclass
class _Node:
    """A node of the cluster.

    Attributes:
        name: its address, for people.
        cores: of the node.
        actor: its desk; None: its versions are not known yet.
        joined: whether it has announced itself.
        after: the number of the last entry that has arrived.
        life: of the desk that this entry came from.
        failures: how often in a row its process died before it had announced itself.
        again: reading of ``time.monotonic()`` at which it is asked anew after a failure; inf: it is being asked.
    """

    name: str
    cores: int
    actor: ActorHandle[Desk] | None = None
    joined: bool = False
    after: int = 0
    life: str = ""
    failures: int = 0
    again: float = math.inf


class RayDepot:
    """Libraries in Ray's object store. Nodes send them to each other, and the head carries references only.

    The builder that has put libraries owns them: they are lost with it.
    """

    def put(self, libraries: Libraries) -> object:
        """Keep libraries. Returns the reference."""
        return ray.put(libraries)

    def get(self, place: object) -> Libraries:
        """The libraries of a reference; none if they are lost."""
        if not isinstance(place, ray.ObjectRef):
            return {}
        try:
            found = ray.get(place, timeout=_FETCH)
        except RayError:
            return {}
        return found if isinstance(found, Mapping) else {}


class RayCrew:
    """The nodes of the cluster that this process is connected to. A :class:`~tilewright.fleet.crew.Crew`.

    Args:
        owner: whether this process starts the actors. Otherwise another one does, with the same namespace.

    Attributes:
        session: names the works of this process.
    """

    def __init__(self, owner: bool = True) -> None:
        self._owner = owner
        self.session = uuid.uuid4().hex
        self._nodes: dict[str, _Node] = {}
        self._refs: dict[ObjectRef[object], tuple[str, str]] = {}
        self._refused: set[str] = set()
        self._next_look = 0.0
        self._events: list[Event] = []

    @property
    def expected(self) -> int:
        """How many nodes there are that have neither joined nor been refused yet."""
        waiting = [node for node in self._nodes.values() if not node.joined]
        # Those that the owner has not hired by now it may have refused.
        return len(waiting) if self._owner else sum(node.actor is not None for node in waiting)

    def send(self, node: str, work: Work) -> None:
        """Hand a work to a node."""
        actor = self._actor(node)
        if actor is not None:
            actor.work.remote(work)

    def cancel(self, node: str, number: int) -> None:
        """Tell a node not to begin a work."""
        actor = self._actor(node)
        if actor is not None:
            actor.cancel.remote(self.session, number)

    def dismiss(self, node: str) -> None:
        """Have nothing more to do with a node."""
        self._refused.add(node)
        self._forget(node)

    def wait(self, seconds: float) -> list[Event]:
        """What happened since the last call; waits at most so many seconds for something.

        Raises:
            FleetError: the cluster is gone.
        """
        self._look()
        if not self._events:
            self._listen(seconds)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """End the actors, and with them all that they have started. Those of another owner stay."""
        for node in list(self._nodes):
            self._forget(node, kill=self._owner)

    # Who is there -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK
        try:
            found = {
                each["NodeID"]: _Node(
                    f"{each['NodeManagerHostname']}/{each['NodeID'][:6]}", int(each["Resources"]["CPU"])
                )
                for each in ray.nodes()
                if each["Alive"] and each["Resources"].get("CPU", 0) >= 1
            }
        except (RayError, ConnectionError, RuntimeError) as error:
            raise FleetError(
                f"the cluster is gone: {' '.join(str(error).split())[:200]}; run the same command again when it is "
                "back: it goes on from the records"
            ) from error
        for name in self._nodes.keys() - found.keys():
            self._forget(name)
            self._events.append(Lost(name, "it has left the cluster"))
        for name in found.keys() - self._nodes.keys() - self._refused:
            self._nodes[name] = found[name]
            self._ask(name)
        for name, node in list(self._nodes.items()):
            if node.again < time.monotonic():
                node.again = math.inf
                self._ask(name)

    def _ask(self, name: str) -> None:
        """Ask a node for what comes next: its versions, then its announcement."""
        node = self._nodes[name]
        if node.actor is not None:
            self._refs[node.actor.hello.remote()] = ("hello", name)
        elif self._owner:
            self._ask_versions(name)
        else:
            self._hire(name)

    def _ask_versions(self, name: str) -> None:
        probe = ray.remote(_probe()).options(num_cpus=0, scheduling_strategy=_at(name), max_retries=2)
        self._refs[probe.remote()] = ("versions", name)

    def _hire(self, name: str) -> None:
        """Start the actor of a node, or find the one that the owner has started."""
        node = self._nodes[name]
        if self._owner:
            actor = ray.remote(Desk).options(
                name=f"desk-{name}",
                num_cpus=node.cores,
                max_concurrency=_CALLS,
                max_restarts=-1,
                scheduling_strategy=_at(name),
            )
            try:
                node.actor = actor.remote(node.cores, node.name, depot=RayDepot())
            except (ImportError, AttributeError) as error:  # of the client server, which runs on the cluster's head
                raise FleetError(
                    f"the head of the cluster needs Tilewright {Versions.here().tilewright} with its extra fleet, but "
                    f"it says: {_first_line(error)}; install it there"
                ) from error
        else:
            try:
                node.actor = ray.get_actor(f"desk-{name}")
            except ValueError:  # not yet
                node.again = time.monotonic() + _LOOK
                return
        self._ask(name)

    def _forget(self, name: str, kill: bool = True) -> None:
        node = self._nodes.pop(name, None)
        self._refs = {ref: asked for ref, asked in self._refs.items() if asked[1] != name}
        if node is not None and node.actor is not None and kill:
            with contextlib.suppress(RayError, ConnectionError):  # it may be gone, and its cluster, too
                ray.kill(node.actor)

    def _actor(self, name: str) -> ActorHandle[Desk] | None:
        node = self._nodes.get(name)
        return None if node is None else node.actor

    # What they say ----------------------------------------------------------------------------------------------------

    def _listen(self, seconds: float) -> None:
        if not self._refs:
            time.sleep(min(seconds, _LOOK))
            return
        refs = list(self._refs)
        if ray.wait(refs, num_returns=1, timeout=seconds)[0]:
            for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0]:
                asked, name = self._refs.pop(ref)
                self._answer(asked, name, ref)

    def _answer(self, asked: str, name: str, ref: ObjectRef[object]) -> None:
        try:
            answer = ray.get(ref, timeout=10.0)
        except RayTaskError as error:  # the call itself failed
            self._refuse(name, f"it cannot be examined: {_first_line(error)}")
        except (RayActorError, RayError, GetTimeoutError) as error:
            self._lose(asked, name, error)
        else:
            self._take(name, answer)

    def _take(self, name: str, answer: object) -> None:
        node = self._nodes[name]
        if isinstance(answer, Report):
            if node.life == answer.life or node.after == 0:
                node.after, node.life = answer.last, answer.life
                if answer.entries:
                    self._events.append(News(name, answer))
            else:  # of another desk, which counts from 1
                node.after, node.life = 0, answer.life
            self._collect(name)
        elif isinstance(answer, Announcement):
            node.joined, node.failures = True, 0
            self._events.append(Joined(name, answer))
            self._collect(name)
        elif isinstance(answer, Mapping):
            self._check_versions(name, answer)

    def _check_versions(self, name: str, found: Mapping[str, str]) -> None:
        ours = Versions.here()
        if found["tilewright"] == ours.tilewright and found["python"] == ours.python:
            self._hire(name)
        else:
            theirs = f"Tilewright {found['tilewright'] or 'none'} on Python {found['python']}"
            self._refuse(
                name,
                f"the head has Tilewright {ours.tilewright} on Python {ours.python}, but the node has {theirs}; "
                f"install 'tilewright[fleet]=={ours.tilewright}' there, and start its node anew",
            )

    def _collect(self, name: str) -> None:
        node = self._nodes[name]
        assert node.actor is not None
        self._refs[node.actor.collect.remote(self.session, node.after)] = ("collect", name)

    def _refuse(self, name: str, reason: str) -> None:
        where = self._nodes[name].name
        self.dismiss(name)
        self._events.append(Refused(where, reason))

    def _lose(self, asked: str, name: str, error: Exception) -> None:
        """The actor or its node has died. Ray starts the actor anew where the node lives: then it announces itself."""
        node = self._nodes[name]
        if node.joined:
            self._events.append(Lost(name, "its process died"))
        node.joined, node.after, node.life = False, 0, ""
        self._refs = {ref: asked for ref, asked in self._refs.items() if asked[1] != name}
        node.failures += 1
        node.again = time.monotonic() + _LOOK
        if getattr(error, "actor_init_failed", False) or node.failures > _MOST_FAILURES:
            self._refuse(name, f"its process dies: {_first_line(error)}")
        elif node.failures > 1:  # Ray has given this actor up
            node.actor = None


def _probe() -> object:
    """A function that tells what is installed on a node. Ray sends its code, which imports nothing of Tilewright."""

    def versions() -> dict[str, str]:
        import platform
        from importlib import metadata

        try:
            found = metadata.version("tilewright")
        except metadata.PackageNotFoundError:
            found = ""
        return {"tilewright": found, "python": ".".join(platform.python_version_tuple()[:2])}

    return versions


def _at(name: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id=name, soft=False)


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__
