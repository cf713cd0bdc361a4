"""Every error that Tilewright raises on purpose.

    TilewrightError                also raised itself: an argument or option that is none of the choices
    ├── ModelError                 the model file or module
    │   ├── ModelFormatError       missing, truncated, or of no known format
    │   ├── UnsupportedOperatorError   an operator that cannot be imported
    │   └── ShapeError             an input whose number, shape or dtype is not fixed, or not the model's
    ├── TargetError                a target that does not exist, or whose code does not run here
    ├── BudgetError                a budget of no positive duration or number of trials
    ├── SpaceError                 a config that is not of the design space, or a task that no design space serves
    │   └── FormError              a function that is not of the form that a template schedules
    ├── RecordsError               the store of measurements
    │   ├── RecordsFormatError     damaged, or not a records file
    │   └── RecordsVersionError    a records file of a newer version
    ├── CostModelError             a cost model's file, or programs that the cost model cannot score
    ├── OutputError                an output that cannot be written, or an executable that cannot be loaded
    ├── CompilerError              no compiler, or the compiler failed
    ├── CheckError                 an executable computes something else than its model: a bug of ours
    ├── MeasureError               measuring or checking failed: in a process, a kernel, a runtime or a reference
    │   ├── ProcessError           a single call in a process of its own gave no result
    │   ├── IsolatedError          a process that keeps an object ended (``measure/isolated.py``)
    │   └── NoReferenceError       there is no reference to judge outputs by (``verify/reference.py``)
    ├── FleetError                 there is no cluster, or none of its nodes can measure
    ├── ResourceError              the machine lacks memory, disk space, or a directory that can be used
    └── MissingExtraError          an optional dependency is not installed

A message states the rule, what was found instead, and the remedy. Errors of other libraries are translated where they
enter, and chained with ``from``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "BudgetError",
    "CheckError",
    "CompilerError",
    "CostModelError",
    "FleetError",
    "FormError",
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
    """The base of every error that Tilewright raises on purpose; itself: an argument is none of the choices."""


class ModelError(TilewrightError):
    """Something is wrong with the model."""


class ModelFormatError(ModelError):
    """The model file is missing, truncated, or of no known format."""


class UnsupportedOperatorError(ModelError):
    """The model has an operator that cannot be imported."""


class ShapeError(ModelError):
    """An input's shape is symbolic or malformed; or inputs differ from the model's in number, shape or dtype."""


class TargetError(TilewrightError):
    """The target does not exist, or code for it does not run on this machine."""


class BudgetError(TilewrightError):
    """The budget is not a positive duration or a positive number of trials."""


class SpaceError(TilewrightError):
    """A config is not of the design space, or no design space serves the task."""


class FormError(SpaceError):
    """A task's function is not of the form that a template schedules. The message says what the form lacks."""


class RecordsError(TilewrightError):
    """The store of measurements cannot be read or written.

    Args:
        message: the rule, what was found instead, and the remedy.
        absent: as the attribute.

    Attributes:
        absent: whether the place that was to be read holds no records yet.
    """

    def __init__(self, message: str = "", *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


class RecordsFormatError(RecordsError):
    """The file, or a line of it, is damaged or holds no records."""


class RecordsVersionError(RecordsError):
    """The records store was written by a newer version."""


class CostModelError(TilewrightError):
    """A cost model's file is missing, damaged or of other features; or the model cannot score the programs."""


class OutputError(TilewrightError):
    """An output cannot be written, or a directory holds no executable that can be loaded."""


class CompilerError(TilewrightError):
    """There is no compiler, or it failed."""


class CheckError(TilewrightError):
    """An executable computes something else than its model: a bug of ours.

    Args:
        message: the rule, what was found instead, and the remedy.
        report: as the attribute; None is an empty report.

    Attributes:
        report: JSON-able: the ``verdict``, and what the command had done so far.
    """

    def __init__(self, message: str = "", *, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report: dict[str, Any] = dict(report or {})


class MeasureError(TilewrightError):
    """Measuring or checking failed: in a process, a kernel, a runtime or a reference."""


class ProcessError(MeasureError):
    """A call in a process of its own gave no result.

    Args:
        message: the rule, what was found instead, and the remedy.
        died: as the attribute.

    Attributes:
        died: whether the process died or was ended at a limit; False: the function failed, or its result
            could not be sent.
    """

    def __init__(self, message: str = "", *, died: bool = True) -> None:
        super().__init__(message)
        self.died = died


class FleetError(TilewrightError):
    """There is no cluster, it has another version, or none of its nodes can measure what is wanted."""


class ResourceError(TilewrightError):
    """The machine lacks what a command needs: memory, disk space, or a directory that can be used."""


class MissingExtraError(TilewrightError):
    """An optional dependency is needed and not installed.

    Args:
        package: the package that is missing.
        extra: the extra of Tilewright that installs it; empty: the package is none of its extras.

    Attributes:
        package, extra: the arguments.
    """

    def __init__(self, package: str, extra: str = "") -> None:
        what = f"'tilewright[{extra}]'" if extra else package
        super().__init__(f"this needs {package}, which is not installed; install it with: pip install {what}")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """What makes it again in another process: an exception is made from its message by default."""
        return type(self), (self.package, self.extra)
