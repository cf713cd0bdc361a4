"""Every error that Tilewright raises on purpose.

    TilewrightError
    ├── ModelError                 the model file or module
    │   ├── ModelFormatError       missing, truncated, or of no known format
    │   ├── UnsupportedOperatorError   an operator that cannot be imported, named with its node
    │   └── ShapeError             a symbolic or contradictory input shape
    ├── TargetError                a target that does not exist or cannot be built for
    ├── BudgetError                a budget that is not a duration, or not positive
    ├── SpaceError                 a config that is not of the space, or a task no space serves
    ├── RecordsError               the store of measurements
    │   ├── RecordsFormatError     not a records file
    │   └── RecordsVersionError    a records file of a newer version
    ├── CostModelError             a cost model's file: missing, damaged, or of other features
    ├── OutputError                the output directory cannot be written or read
    ├── CompilerError              no compiler, or the compiler failed
    ├── CheckError                 an executable computes something else than its model: a bug of ours
    ├── MeasureError               workers cannot be started
    │   └── ProcessError           a call in a process of its own: the process died, or the call failed there
    ├── ResourceError              the machine lacks memory, space on a disk, or a directory that can be used
    └── MissingExtraError          an optional dependency is not installed

A message states the rule, what was found instead, and the remedy. Errors of other libraries are
translated where they enter and chained with ``from``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "BudgetError",
    "CheckError",
    "CompilerError",
    "CostModelError",
    "MeasureError",
    "MissingExtraError",
    "ModelError",
    "ModelFormatError",
    "OutputError",
    "ProcessError",
    "RecordsError",
    "RecordsFormatError",
    "RecordsVersionError",
    "ResourceError",
    "ShapeError",
    "SpaceError",
    "TargetError",
    "TilewrightError",
    "UnsupportedOperatorError",
]


class TilewrightError(Exception):
    """The base of every error that Tilewright raises on purpose."""


class ModelError(TilewrightError):
    """Something is wrong with the model."""


class ModelFormatError(ModelError):
    """The model file is missing, truncated, or of no known format."""


class UnsupportedOperatorError(ModelError):
    """The model has an operator that cannot be imported."""


class ShapeError(ModelError):
    """An input shape is symbolic, contradictory or not a shape."""


class TargetError(TilewrightError):
    """The target does not exist or cannot be built for."""


class BudgetError(TilewrightError):
    """The budget is not a duration or not positive."""


class SpaceError(TilewrightError):
    """A config is not of the design space, or no design space serves the task."""


class RecordsError(TilewrightError):
    """The store of measurements cannot be read or written.

    Attributes:
        absent: whether there are no records yet where they were to be read from.
    """

    def __init__(self, message: str = "", *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


class RecordsFormatError(RecordsError):
    """The file is not a records store."""


class RecordsVersionError(RecordsError):
    """The records store was written by a newer version."""


class CostModelError(TilewrightError):
    """A cost model's file is missing, damaged, or was fitted to other features."""


class OutputError(TilewrightError):
    """The output directory cannot be written, or does not hold an executable."""


class CompilerError(TilewrightError):
    """There is no compiler, or it failed."""


class CheckError(TilewrightError):
    """An executable computes something else than its model: a bug of ours.

    Attributes:
        report: JSON-able, what is known of it: the ``verdict``, and what the command had done until then.
    """

    def __init__(self, message: str = "", *, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report: dict[str, Any] = dict(report or {})


class MeasureError(TilewrightError):
    """The measuring workers cannot be started."""


class ProcessError(MeasureError):
    """A call in a process of its own gave no result.

    Attributes:
        died: whether the process died or was ended at a limit, rather than that the function raised something.
    """

    def __init__(self, message: str = "", *, died: bool = True) -> None:
        super().__init__(message)
        self.died = died


class ResourceError(TilewrightError):
    """The machine lacks what a command needs: memory, space on a disk, or a directory that can be used."""


class MissingExtraError(TilewrightError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package}, which is not installed; install it with: pip install 'tilewright[{extra}]'"
        )
