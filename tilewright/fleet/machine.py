"""What the machine of this process counts as in a fleet."""

from __future__ import annotations

import os

from tilewright.errors import FleetError, TargetError
from tilewright.target import Target

__all__ = ["NODE_BUILDER", "NODE_TARGET", "is_builder", "own_target"]

#: The environment variable that names the CPU which a node counts as, such as ``x86-64-v3``. It may be older than the
#: node's own: then the node tunes for all machines that have it.
NODE_TARGET = "TILEWRIGHT_NODE_TARGET"
#: The environment variable that makes a node a builder, if it is 1: it compiles for other nodes, and measures nothing.
NODE_BUILDER = "TILEWRIGHT_NODE_BUILDER"


def is_builder() -> bool:
    """Whether this machine is a builder in a fleet.

    Raises:
        FleetError: the variable is neither 0 nor 1.
    """
    text = os.environ.get(NODE_BUILDER) or "0"
    if text not in ("0", "1"):
        raise FleetError(f"{NODE_BUILDER} is 1 on a node that only builds, but it is {text!r:.40}; correct or unset it")
    return text == "1"


def own_target() -> Target:
    """The target of this machine in a fleet: its own CPU, or the one that ``TILEWRIGHT_NODE_TARGET`` names.

    Raises:
        TargetError: there is no such CPU, or code for it does not run here.
    """
    text = os.environ.get(NODE_TARGET) or "native"
    from tilewright.tuning.building import find_obstacle  # imports the compiler, which a desk never does

    try:
        target = Target.parse(text)
        obstacle = find_obstacle(target) if text != "native" else ""
    except TargetError as error:
        reason = str(error).partition("; leave --target")[0]  # a node has no such option
        raise TargetError(
            f"{NODE_TARGET} names the CPU that this node counts as, but {reason}; correct or unset it"
        ) from error
    if obstacle or target.caches != "warm":
        reason = obstacle or f"{text} says how candidates are timed, too"
        raise TargetError(
            f"{NODE_TARGET} names a CPU whose code runs on this node, but {reason}; name another one, such as x86-64-v2"
        )
    return target
