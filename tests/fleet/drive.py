"""What a test does with a cluster in a process of its own: Ray reads the environment once, when it is imported."""

from __future__ import annotations

from unittest.mock import patch

from tilewright.errors import FleetError
from tilewright.fleet.cluster import connected
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.wire import Versions

__all__ = ["gather_as_another_version"]


def gather_as_another_version(address: str) -> str:
    """What a fleet says whose head has another version than its nodes."""
    with connected(address) as crew, patch.object(Versions, "here", lambda: Versions("99.0", "3.9")):
        try:
            Fleet(crew).gather()
        except FleetError as error:
            return str(error)
    return ""
