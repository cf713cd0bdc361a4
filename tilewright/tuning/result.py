"""What tuning a network gives to a caller in Python."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.executable.executable import Executable
from tilewright.tuning.report import TuneReport
from tilewright.tuning.session_report import describe_result

__all__ = ["TuneResult"]


@dataclass(frozen=True)
class TuneResult:
    """The result of tuning a network.

    Attributes:
        executable: the one in the output directory.
        report: what was done; ``tilewright tune --json`` writes it.
    """

    executable: Executable
    report: TuneReport

    def _repr_html_(self) -> str:
        """A table for notebooks: what was gained, and the tasks that take the most time."""
        return describe_result(self.report)
