"""The contract of a cost model, which predicts how programs of one task rank by speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.space.loop_nest import LoopNest

__all__ = ["CostModel", "KnobTable", "Programs", "take_rows"]


@dataclass(frozen=True)
class KnobTable:
    """Programs known only by their knobs: ``values`` is ``(n, features)`` float32."""

    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)


#: ``n`` programs of one design space, as a cost model sees them.
Programs: TypeAlias = LoopNest | KnobTable


class CostModel(Protocol):
    """Predicts how programs rank by speed. Never imports TVM.

    Attributes:
        ready: whether the model has learnt something, so that its scores mean something.
    """

    @property
    def ready(self) -> bool: ...

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Learn from measurements, and forget what was learnt before.

        Args:
            programs: the measured programs of each task, all of one kind and width.
            seconds: the ``(n,)`` latencies of each task in seconds; nan if a program failed.
        """
        ...

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """The ``(n,)`` scores of programs. A higher score is a faster program of the same task."""
        ...


def take_rows(programs: Programs, rows: slice | NDArray[np.intp]) -> Programs:
    """The programs in ``rows``."""
    if isinstance(programs, KnobTable):
        return KnobTable(programs.values[rows])
    return LoopNest(
        axes=programs.axes,
        buffers=programs.buffers,
        axis=programs.axis[rows],
        extents=programs.extents[rows],
        annotations=programs.annotations[rows],
        touched=programs.touched[rows],
        strides=programs.strides[rows],
        reuse=programs.reuse[rows],
        arithmetic=programs.arithmetic[rows],
        extra=programs.extra[rows],
        extra_names=programs.extra_names,
        products=programs.products,
        halves=programs.halves,
    )
