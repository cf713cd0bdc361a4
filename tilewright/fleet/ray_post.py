"""An outpost as an actor of Ray, on a node that was chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tilewright.errors import MeasureError
from tilewright.fleet.away import Post, PostLostError
from tilewright.fleet.outpost import Outpost

__all__ = ["hire_ray"]

#: Seconds that an actor may take to start and to answer: a busy machine imports Tilewright and Ray in 20.
_ANSWER = 180.0
#: Calls that an actor answers at once: an interrupt must not wait for the question for messages.
_CALLS = 4


class _RayOutpost(Outpost):
    """An outpost that knows its cluster."""

    def address(self) -> str:
        """Of the cluster, as its nodes reach it."""
        return str(ray.get_runtime_context().gcs_address)


def hire_ray(node: str, cores: int) -> Post:
    """Start an outpost on a node. It takes no core: its job waits while candidates are measured there."""
    return _RayPost(node, cores)


class _RayPost:
    """A :class:`~tilewright.fleet.away.Post`."""

    def __init__(self, node: str, cores: int) -> None:
        place = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        options = {"num_cpus": 0, "max_concurrency": _CALLS, "scheduling_strategy": place}
        self._actor: Any = ray.remote(_RayOutpost).options(**options).remote(cores)

    def address(self) -> str:
        return str(self._ask(self._actor.address))

    def write(self, name: str, content: bytes) -> None:
        self._ask(self._actor.write, name, content)

    def begin(self, module: str, message: object) -> None:
        self._ask(self._actor.begin, module, message)

    def say(self, message: object) -> None:
        self._ask(self._actor.say, message)

    def interrupt(self) -> None:
        self._ask(self._actor.interrupt)

    def files(self, name: str) -> list[tuple[str, int]]:
        return list(self._ask(self._actor.files, name))

    def read(self, name: str, offset: int, count: int) -> bytes:
        return bytes(self._ask(self._actor.read, name, offset, count))

    def collect(self, after: int, wait: float) -> list[tuple[int, object]]:
        return list(self._ask(self._actor.collect, after, wait))

    def close(self) -> None:
        with contextlib.suppress(RayError, ConnectionError):  # it may be gone, and its cluster, too
            ray.get(self._actor.close.remote(), timeout=10.0)
        with contextlib.suppress(RayError, ConnectionError):
            ray.kill(self._actor)

    def _ask(self, method: Callable[..., Any], *arguments: object) -> Any:
        try:
            return ray.get(method.remote(*arguments), timeout=_ANSWER)  # type: ignore[attr-defined]
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise MeasureError(f"a node cannot do the job: {cause}") from error
        except (RayError, ConnectionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PostLostError(f"its process died: {reason}") from error
