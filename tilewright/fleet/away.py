"""A whole tuning on a node of another kind of machine than the head's.

The head cannot run code of that kind. So a node of the kind reads the model, decides what is tried, builds and judges
the executable, and sends it back. Candidates are measured on all nodes of the kind, and the head keeps the records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast
from zlib import crc32

from tilewright.errors import FleetError, MeasureError, OutputError
from tilewright.executable.manifest import NAME, find_listed, read_manifest
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.outpost import Ended
from tilewright.interrupts import holding

__all__ = ["Away", "Errand", "Hire", "Post", "PostLostError"]

#: Bytes of a file that are sent at once. A cluster that a command starts has 80 MB of shared memory.
_CHUNK = 8 << 20
#: Seconds that a look at the job's messages waits for one, so that nodes which come are greeted in between.
_LOOK = 0.25
#: How many nodes may be lost with the job.
_MOST_LOSSES = 3
#: Seconds in which the fleet hears that a node is lost.
_NEWS = 15.0
#: Seconds without a node of the kind after which the command gives up.
_DESERTED = 300.0


class PostLostError(FleetError):
    """The node that has the job is gone, or the process of the job.

    Args:
        message: as of all errors.
        node: whether the node is gone.
    """

    def __init__(self, message: str, node: bool = True) -> None:
        super().__init__(message)
        self.node = node


class Post(Protocol):
    """The head's side of an :class:`~tilewright.fleet.outpost.Outpost`.

    All methods but ``close`` raise :class:`PostLostError`, or ``MeasureError`` where the outpost refuses.
    """

    def address(self) -> str:
        """Of the cluster, as its nodes reach it."""
        ...

    def write(self, name: str, content: bytes) -> None: ...  # noqa: D102 - these are as the outpost has them
    def begin(self, module: str, message: object) -> None: ...  # noqa: D102
    def say(self, message: object) -> None: ...  # noqa: D102
    def interrupt(self) -> None: ...  # noqa: D102
    def collect(self, after: int, wait: float) -> list[tuple[int, object]]: ...  # noqa: D102
    def files(self, name: str) -> list[tuple[str, int]]: ...  # noqa: D102
    def read(self, name: str, offset: int, count: int) -> bytes: ...  # noqa: D102

    def close(self) -> None:
        """End the job. Raises nothing."""
        ...


#: Makes the post on a node: its id, and its cores.
Hire = Callable[[str, int], Post]


@dataclass(frozen=True)
class Errand:
    """What a node is to do.

    Attributes:
        module: its function ``main`` does it, on the node.
        files: what it needs, by their names in its folder.
        message: makes the first message from the address of the cluster.
        hear: is called with each message of the job, a word and a value. Returns the answer that the job waits for, or
            None.
        done, failed: the words after which nothing comes.
        out: the folder of what it makes, in its folder.
    """

    module: str
    files: Mapping[str, Path]
    message: Callable[[str], object]
    hear: Callable[[str, object], object | None]
    done: str
    failed: str
    out: str


class Away:
    """The nodes of one kind, as the place of a whole tuning.

    Args:
        fleet: all nodes.
        kind: of the nodes.
        hire: makes the post on a node.
    """

    def __init__(self, fleet: Fleet, kind: str, hire: Hire) -> None:
        self.fleet, self.kind, self._hire = fleet, kind, hire
        self._interrupts = 0

    def run(self, errand: Errand, out: Path) -> bool:
        """Have a node do an errand; if it is lost, another one does it again.

        An interrupt reaches the job, which ends early. A second one is raised.

        Args:
            errand: what is to be done.
            out: an empty directory for the files that the job made.

        Returns:
            whether it was done.

        Raises:
            FleetError: there is no node of the kind any more, or several were lost with the job.
            OutputError: the files are not those of an executable.
            KeyboardInterrupt: the job was lost, or not over yet.
        """
        about = crc32(" ".join(map(str, errand.files.values())).encode())
        for attempt in range(_MOST_LOSSES):
            node = self._choose(about + attempt)
            member = self.fleet.members[node]
            post = self._hire(node, member.cores)
            try:
                for name, path in errand.files.items():
                    _send(post, name, path)
                post.begin(errand.module, errand.message(post.address()))
                done = self._follow(post, errand) == errand.done
                if done:
                    _fetch(post, errand.out, out)
                return done
            except PostLostError as error:
                if self._interrupts:
                    raise KeyboardInterrupt from error
                if attempt + 1 == _MOST_LOSSES:
                    raise
                self.fleet.tell(f"what tuned for {self.kind} on node {member.name} is lost ({error}); it begins again")
                self._wait_for_loss(node if error.node else "")
            finally:
                post.close()
        raise AssertionError

    def _choose(self, number: int) -> str:
        """A node that measures: another one for each number, if there are several."""
        until = time.monotonic() + _DESERTED
        while not (nodes := sorted(self.fleet.measuring(self.kind))):
            if time.monotonic() > until:
                raise FleetError(
                    f"tuning needs a node of kind {self.kind}, but there has been none for {_DESERTED:g} s; start one, "
                    "and run the same command again, which goes on from the records"
                )
            self.fleet.events(1.0)
        return nodes[number % len(nodes)]

    def _wait_for_loss(self, node: str) -> None:
        """Wait until the fleet knows that a node is lost; it may only have lost the job."""
        until = time.monotonic() + _NEWS
        while node in self.fleet.measuring(self.kind) and time.monotonic() < until:
            self.fleet.events(0.5)

    def _follow(self, post: Post, errand: Errand) -> str:
        """Hear what the job says until it has said the last. Returns its last word."""
        after = 0
        while True:
            try:
                messages = post.collect(after, _LOOK)
                # A message is heard as a whole, and once: an interrupt in between neither loses nor doubles one.
                with holding() as held:
                    for number, message in messages:
                        after = number
                        if isinstance(message, Ended):
                            raise PostLostError(f"its process ended: {message.reason}", node=False)
                        word, value = cast("tuple[str, object]", message)
                        answer = errand.hear(word, value)
                        if answer is not None:
                            post.say(answer)
                        if word in (errand.done, errand.failed):
                            return word
                for _ in held.received:
                    self._interrupt(post)
                self.fleet.events(0.0)
            except KeyboardInterrupt:
                self._interrupt(post)

    def _interrupt(self, post: Post) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        post.interrupt()


def _send(post: Post, name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            post.write(name, b"")
            while content := file.read(_CHUNK):
                post.write(name, content)
    except OSError as error:
        raise MeasureError(f"a node needs {path}, but it cannot be read: {error.strerror}; check the path") from error


def _fetch(post: Post, folder: str, out: Path) -> None:
    """Fetch the files of an executable, and check them against its manifest.

    Raises:
        OutputError: they are not the files of one.
    """
    for name, size in post.files(folder):
        if name != Path(name).name:
            raise OutputError(f"the files of an executable lie in its directory, but a node sent {name!r}; tune again")
        with (out / name).open("wb") as file:
            for offset in range(0, size, _CHUNK):
                file.write(post.read(f"{folder}/{name}", offset, _CHUNK))
    manifest = read_manifest(out)
    for name in manifest["sha256"]:
        if name != NAME:
            find_listed(out, manifest, name)
