"""The contract of a design space: a finite set of configs, each of which is one program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tilewright.space.knob import Knob
from tilewright.space.loop_nest import LoopNest
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["PLAIN_CODE", "Canonical", "Configs", "DesignSpace", "Instructed", "name_instruction"]

#: An ``(n, knobs)`` array of knob indices, one config per row.
Configs: TypeAlias = NDArray[np.int32]
#: What stands in place of an instruction for dot products if the target has none, so that programs are plain code.
PLAIN_CODE = "plain code"


class DesignSpace(Protocol):
    """The programs that one task may become.

    Each program should have one config. A space in which a choice makes other knobs idle also has the method of
    :class:`Canonical`.

    Attributes:
        task: the task that is scheduled.
        template: name and version of the template, such as ``rows/1``. The version changes when a config comes to mean
            another program, so that old records are not misread.
        knobs: the choices, in the order of a config's columns.
        has_loop_nest: whether ``loop_nest`` gives the programs in closed form. Where it does not, cost models score
            the knobs.
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
        """Which configs keep the constraints, such as the number of registers; lowers none of them. ``(n,)``."""
        ...

    def loop_nest(self, configs: Configs) -> LoopNest:
        """The programs of ``configs`` in closed form. Raises ``SpaceError`` if ``has_loop_nest`` is false."""
        ...

    def default(self) -> NDArray[np.int32]:
        """A valid config that is sensible without any measurement. ``(knobs,)``."""
        ...

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one ``config``. Only this and ``default`` may call TVM. Raises ``SpaceError``."""
        ...


class Canonical(Protocol):
    """What a design space with idle knobs offers besides. Other spaces leave it out.

    Idle knobs are 0 in a valid config, so random rows of such a space are hardly ever valid. So the functions of
    ``tilewright.space.configs`` pass the configs that they make through :func:`tilewright.space.configs.canonical`.
    """

    def canonical(self, configs: Configs) -> Configs:
        """The programs of ``configs``, each by its one valid config: idle knobs at 0. ``(n, knobs)``."""
        ...


@runtime_checkable
class Instructed(Protocol):
    """What a design space whose programs use an instruction for dot products offers besides.

    Attributes:
        instruction: its name, such as ``vpdpbusd``; :data:`PLAIN_CODE`: the target has none; empty: there are no
            products of bytes or bfloat16 numbers.
    """

    @property
    def instruction(self) -> str: ...


def name_instruction(space: DesignSpace) -> str:
    """The instruction for dot products that the programs of a space use, as :class:`Instructed` has it; empty: none."""
    return space.instruction if isinstance(space, Instructed) else ""
