"""The contract of a cost model: how fast would these programs be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.space.loop_nest import LoopNest

__all__ = ["CostModel", "KnobTable", "Programs", "rows_of"]


@dataclass(frozen=True)
class KnobTable:
    """Programs known only by their knobs: ``values`` is ``(n, features)`` float32."""

    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)


#: What a cost model sees of ``n`` programs of one design space.
Programs: TypeAlias = LoopNest | KnobTable


class CostModel(Protocol):
    """Predicts how programs rank. Never imports TVM.

    Attributes:
        ready: whether it was fitted, so that ``predict`` means something.
    """

    @property
    def ready(self) -> bool: ...

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Learn from measurements, replacing what was learnt before.

        Args:
            programs: one entry per task, of one kind and width.
            seconds: per task ``(n,)`` latencies in seconds; nan: the candidate failed.
        """
        ...

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """``(n,)`` scores, higher is faster, comparable within one task."""
        ...


def rows_of(programs: Programs, rows: slice | NDArray[np.intp]) -> Programs:
    """Some of the programs."""
    if isinstance(programs, KnobTable):
        return KnobTable(programs.values[rows])
    values: dict[str, Any] = {f.name: getattr(programs, f.name) for f in fields(LoopNest)}
    chosen: dict[str, Any] = {name: v[rows] if isinstance(v, np.ndarray) else v for name, v in values.items()}
    return LoopNest(**chosen)
