"""How much a command may spend: wall-clock seconds, trials, or both; whichever runs out first ends it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tilewright.errors import BudgetError
from tilewright.tuning.progress import Progress, SilentProgress, TuneState

__all__ = ["Budget", "RunningBudget"]

_REMEDY = "write it like 90s, 5m, 1h30m, or 300 for seconds"
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile(rf"(?:(?P<h>{_NUMBER})h)?(?:(?P<m>{_NUMBER})m)?(?:(?P<s>{_NUMBER})s?)?")


@dataclass(frozen=True)
class Budget:
    """What a command may spend, from its start to its written output.

    Attributes:
        seconds: wall-clock seconds, or None where only trials are limited.
        trials: number of measured candidates, or None where only time is limited.

    Raises:
        BudgetError: neither is given, or one is not positive and finite.
    """

    seconds: float | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is None and self.trials is None:
            raise BudgetError(
                "a budget limits the seconds, the trials, or both, but this one limits neither; "
                "give it a duration such as 5m, or a number of trials"
            )
        if self.seconds is not None and not (_is_number(self.seconds) and 0 < self.seconds < math.inf):
            raise BudgetError(f"a budget is a positive, finite duration, but this is {self.seconds!r}; {_REMEDY}")
        if self.trials is not None and not (_is_number(self.trials) and self.trials == self.trials // 1 > 0):
            raise BudgetError(
                f"a budget's trials are a positive whole number, but this is {self.trials!r}; "
                "give at least 1, or leave trials out to limit only the time"
            )

    @classmethod
    def parse(cls, text: str, trials: int | None = None) -> Budget:
        """The budget of a duration as people write it, and perhaps of a number of trials.

        ``90s``, ``5m``, ``1h30m``, ``1.5h`` and ``300`` (seconds) are durations: hours, minutes and seconds in
        this order, each at most once.

        Raises:
            BudgetError: ``text`` is not a duration, or not a positive one.
        """
        match = _DURATION.fullmatch(text.strip().lower())
        if match is None or not any(match.groups()):
            raise BudgetError(f"a budget is a duration, but this is {text!r}; {_REMEDY}")
        seconds = sum(float(match[unit] or 0) * scale for unit, scale in (("h", 3600), ("m", 60), ("s", 1)))
        if not 0 < seconds < math.inf:
            raise BudgetError(f"a budget is a positive, finite duration, but this is {text!r}; {_REMEDY}")
        return cls(seconds, trials)

    def start(
        self,
        *,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        progress: Progress | None = None,
    ) -> RunningBudget:
        """Start spending.

        Args:
            began: the clock's reading at which the command began, where that was before this call.
            clock: gives the time in seconds; tests put their own here.
            progress: is shown what the budget is spent on; by default nobody.
        """
        return RunningBudget(self, clock, clock() if began is None else began, progress)

    def __str__(self) -> str:
        parts = []
        if self.seconds is not None:
            minutes, seconds = divmod(self.seconds, 60)
            hours, minutes = divmod(int(minutes), 60)
            units = ((hours, "h"), (minutes, "m"), (round(seconds, 3), "s"))
            parts.append("".join(f"{value:g}{unit}" for value, unit in units if value) or f"{self.seconds:g}s")
        if self.trials is not None:
            parts.append(f"{self.trials} trial{'s' * (self.trials != 1)}")
        return ", ".join(parts)


class RunningBudget:
    """A budget that is being spent.

    Attributes:
        budget: what there was to spend.
        progress: is shown what it is spent on.
        trials: how many trials were spent.
    """

    def __init__(
        self, budget: Budget, clock: Callable[[], float], began: float, progress: Progress | None = None
    ) -> None:
        self.budget = budget
        self.progress: Progress = SilentProgress() if progress is None else progress
        self.trials = 0
        self._state = TuneState()
        self._clock = clock
        self._began = began

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._began

    @property
    def deadline(self) -> float:
        """The clock's reading at which the time is over (a ``time.monotonic()`` value); inf without a time limit."""
        return math.inf if self.budget.seconds is None else self._began + self.budget.seconds

    @property
    def remaining_seconds(self) -> float:
        """Seconds left, never negative; inf without a time limit."""
        return max(0.0, self.deadline - self._clock())

    @property
    def remaining_trials(self) -> float:
        """Trials left, never negative: a whole number, or inf without a limit of trials."""
        return math.inf if self.budget.trials is None else max(0, self.budget.trials - self.trials)

    def spend(self, trials: int) -> None:
        """Count ``trials`` measured candidates. More than remain is no error: a batch is not torn apart."""
        if trials < 0:
            raise BudgetError(f"trials are spent and never given back, but this is {trials!r}; spend 0 or more")
        self.trials += trials

    def enter(self, phase: str) -> None:
        """Show that a phase of the command begins, such as ``reading`` or ``final race``."""
        self._state = replace(self._state, phase=phase, task="")
        self.show(self._state)

    def show(self, state: TuneState) -> None:
        """Show a state, in the phase that has begun, with the time that is left."""
        self._state = replace(state, phase=self._state.phase, remaining=self.remaining_seconds)
        self.progress.update(self._state)

    def exhausted(self, reserve: float = 0.0) -> bool:
        """Whether to stop.

        Args:
            reserve: seconds to keep for what must still happen, such as building and checking the executable.
        """
        return self.remaining_trials <= 0 or self.remaining_seconds <= reserve


def _is_number(value: object) -> bool:
    """Whether ``value`` is a number that is not nan. A bool is a number only by accident."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
