"""The options of the backend: ``torch.compile(model, backend="tilewright", options={...})``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from tilewright.errors import TilewrightError
from tilewright.records.address import is_url
from tilewright.tuning.budget import Budget
from tilewright.tvm_compat import usable_cores

__all__ = ["Mode", "Options"]

#: When a model is tuned: while it trains; before its first step; or never, with what the records hold.
Mode: TypeAlias = Literal["background", "now", "cached"]
#: The dtypes of kernels.
_PRECISIONS = ("float32",)
#: The least share of time that may be given away: kernels that take 20 s to prepare come after half an hour then.
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Options:
    """The options of the backend.

    Attributes:
        budget: the time that tuning may take, such as ``"5m"`` (see :meth:`tilewright.tuning.budget.Budget.parse`).
        records: the file or URL of the store of measurements; None: they are kept in memory, and lost at the end.
            Finished kernels are kept beside a file.
        mode: when the model is tuned: ``"background"``, while it trains; ``"now"``, before its first step;
            ``"cached"``, never: it gets what the records hold.
        method: the name of a method of tuning, as ``tilewright tune --method`` takes it.
        threads: the number of threads that kernels run on; None: as many as PyTorch uses.
        precision: the dtype that kernels compute in: ``"float32"``.
        share: what preparing kernels and tuning them may cost, from 0.01 to 1, with ``mode="background"``: the most
            that a step takes longer than in PyTorch's kernels, as a share of both together. None: two thirds until all
            parts have kernels, then 5 %.

    Raises:
        TilewrightError: an option has a value that it cannot have.
    """

    budget: str = "5m"
    records: str | None = None
    mode: Mode = "background"
    method: str = "default"
    threads: int | None = None
    precision: str = "float32"
    share: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.budget, str):
            raise _refusal("budget", "a duration such as '5m'", self.budget)
        Budget.parse(self.budget)
        if self.records is not None:
            if not isinstance(self.records, str) or not self.records:
                raise _refusal("records", "the path of a file, or a URL", self.records)
            is_url(self.records)
        for name, choices in (
            ("mode", get_args(Mode)),
            ("method", _find_methods(self.method)),
            ("precision", _PRECISIONS),
        ):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                raise _refusal(name, f"one of {', '.join(choices)}", value)
        whole = isinstance(self.threads, int) and not isinstance(self.threads, bool)
        if self.threads is not None and not (whole and 1 <= self.threads <= usable_cores()):
            raise _refusal("threads", f"a number from 1 to the {usable_cores()} cores of this process", self.threads)
        number = isinstance(self.share, int | float) and not isinstance(self.share, bool)
        if self.share is not None and not (number and _LEAST_SHARE <= self.share <= 1):
            raise _refusal("share", f"a number from {_LEAST_SHARE} to 1, such as 0.05", self.share)

    @classmethod
    def parse(cls, given: Mapping[str, object] | None) -> Options:
        """Check the options that a user gave by name. ``None`` stands for the defaults.

        Raises:
            TilewrightError: there is no such option, or it has a value that it cannot have.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping | None):
            raise TilewrightError(
                f"the options of tilewright are a dict with some of {', '.join(known)}, but got {given!r}"
            )
        values = dict(given or {})
        unknown = [name for name in values if name not in known]
        if unknown:
            raise TilewrightError(f"the options of tilewright are {', '.join(known)}, but one is {unknown[0]!r}")
        if isinstance(values.get("records"), Path):
            values["records"] = str(values["records"])
        return cls(**values)  # type: ignore[arg-type]  # the constructor checks each value

    @property
    def seconds(self) -> float:
        """The budget in seconds."""
        return Budget.parse(self.budget).seconds or 0.0

    def limit(self, share: float) -> float:
        """The share of time that a training gives away, if ``share`` is wanted: no more than the options allow."""
        if self.mode == "now":
            return 0.0
        return share if self.share is None else min(share, self.share)


def _find_methods(name: object) -> Collection[str]:
    """The names of methods that this one may be. Most users name none, and need not wait for the imports of all."""
    if name == "default":
        return ("default",)
    from tilewright.methods.registry import METHODS

    return METHODS


def _refusal(name: str, rule: str, value: object) -> TilewrightError:
    return TilewrightError(f"the option {name!r} of tilewright is {rule}, but this is {value!r}")
