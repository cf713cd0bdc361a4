"""The contract of a design space: a finite set of configs, each of which is a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.space.knob import Knob
from tilewright.space.loop_nest import LoopNest
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["Canonical", "Configs", "DesignSpace"]

#: An ``(n, knobs)`` array of knob indices, one config per row.
Configs: TypeAlias = NDArray[np.int32]


class DesignSpace(Protocol):
    """The programs that one task may become.

    Each program should have one config. A space in which some choice makes other knobs idle has the
    method of :class:`Canonical` as well.

    Attributes:
        task: what is scheduled.
        template: name and version of the template, such as ``contraction/1``; a change of what a
            config means changes the version, so that old records are not misread.
        knobs: the choices, in the order of a config's columns.
        has_loop_nest: whether ``loop_nest`` gives the programs in closed form. Where it does not,
            candidates are scored on their knobs.
    """

    @property
    def task(self) -> Task: ...
    @property
    def template(self) -> str: ...
    @property
    def knobs(self) -> tuple[Knob, ...]: ...
    @property
    def has_loop_nest(self) -> bool: ...

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs keep the constraints (such as the register budget), without lowering any. ``(n,)``."""
        ...

    def loop_nest(self, configs: Configs) -> LoopNest:
        """The programs of ``configs`` in closed form. Raises ``SpaceError`` if ``has_loop_nest`` is false."""
        ...

    def default(self) -> NDArray[np.int32]:
        """A config that is always valid and sensible without any measurement. ``(knobs,)``."""
        ...

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one ``config``. Only this and ``default`` may call TVM. Raises ``SpaceError``."""
        ...


class Canonical(Protocol):
    """What a design space with idle knobs can do besides; for all others it is the identity and left out.

    Idle knobs must be 0 in a valid config, so random rows of such a space are hardly ever valid. Whatever makes
    configs (``tilewright.space.configs``) therefore passes them through :func:`tilewright.space.configs.canonical`.
    """

    def canonical(self, configs: Configs) -> Configs:
        """The programs of ``configs``, each by its one valid config: idle knobs at 0. ``(n, knobs)``."""
        ...
