"""The descriptions of a layer norm in training, and of its gradient."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

from tilewright.errors import FormError

__all__ = ["GRADIENT", "NORM", "NormGradient", "TrainingNorm"]

#: The kinds of the tasks.
NORM, GRADIENT = "training_norm", "norm_gradient"

_Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class TrainingNorm:
    """A layer norm of rows that also gives their moments: the mean and the inverse standard deviation of each row.

    Attributes:
        rows, columns: of the data.
        epsilon: is added to the variance.
    """

    rows: int
    columns: int
    epsilon: float

    @property
    def results(self) -> _Shapes:
        """The shapes of the results, by name."""
        return {"out": (self.rows, self.columns), "moments": (self.rows, 2)}

    @property
    def shapes(self) -> _Shapes:
        """The shapes of the operands, then those of the results, by name."""
        vectors = {"scale": (self.columns,), "shift": (self.columns,)}
        return {"data": (self.rows, self.columns), **vectors, **self.results}

    @property
    def detail(self) -> str:
        """The norm as a text, for a mark."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, detail: str) -> TrainingNorm:
        """The norm of a text that :attr:`detail` gave.

        Raises:
            FormError: the text describes no norm.
        """
        try:
            fields = json.loads(detail)
            rows, columns, epsilon = (fields[name] for name in ("rows", "columns", "epsilon"))
            if len(fields) != 3 or not isinstance(epsilon, float) or not math.isfinite(epsilon):
                raise ValueError(f"its fields are {fields}")
            return cls(*_check_extents(rows, columns), epsilon)
        except (LookupError, TypeError, ValueError) as exc:
            raise FormError(f"a norm has a description of its rows, but this is none: {exc}") from exc


@dataclass(frozen=True)
class NormGradient:
    """The gradients of a layer norm's data, scale and shift.

    Attributes:
        rows, columns: of the data.
        residual: whether the gradient of the residual connection around the norm is added to that of the data.
    """

    rows: int
    columns: int
    residual: bool = False

    @property
    def results(self) -> _Shapes:
        """The shapes of the results, by name. ``sums`` has the gradient of the scale, and that of the shift."""
        return {"result": (self.rows, self.columns), "sums": (2, self.columns)}

    @property
    def shapes(self) -> _Shapes:
        """The shapes of the operands, then those of the results, by name."""
        whole, rows = (self.rows, self.columns), (self.rows,)
        operands: _Shapes = {"gradient": whole, "data": whole, "mean": rows, "inverse": rows, "scale": (self.columns,)}
        return operands | ({"residual": whole} if self.residual else {}) | self.results

    @property
    def detail(self) -> str:
        """The gradient as a text, for a mark."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, detail: str) -> NormGradient:
        """The gradient of a text that :attr:`detail` gave.

        Raises:
            FormError: the text describes no gradient of a norm.
        """
        try:
            fields = json.loads(detail)
            rows, columns, residual = (fields[name] for name in ("rows", "columns", "residual"))
            if len(fields) != 3 or not isinstance(residual, bool):
                raise ValueError(f"its fields are {fields}")
            return cls(*_check_extents(rows, columns), residual)
        except (LookupError, TypeError, ValueError) as exc:
            raise FormError(f"the gradient of a norm has a description of its rows, but this is none: {exc}") from exc


def _check_extents(rows: object, columns: object) -> tuple[int, int]:
    if type(rows) is not int or type(columns) is not int or min(rows, columns) < 1:
        raise ValueError(f"its extents are {rows!r} and {columns!r}")
    return rows, columns
