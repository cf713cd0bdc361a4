"""Sums of scaled tensors, as which a quantised network's real numbers are kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.value import Value

__all__ = ["Bytes", "Computed", "Doubles", "Scaled", "Term", "find_bytes"]

Doubles: TypeAlias = NDArray[np.float64]
#: Unsigned bytes, their scale, and their zero point.
Bytes: TypeAlias = "tuple[Value, float, int]"


@dataclass(frozen=True)
class Computed:
    """Numbers of a term that the network computes, as dynamically quantised networks do.

    Attributes:
        zero: a zero point, a uint8 tensor of the shape ``()``; None: there is none.
        columns: int32 factors of the zero point, in a shape that broadcasts to the tensor's. The products are taken
            away before anything is scaled.
        step: what multiplies the scale, a float32 tensor of the shape ``()``; None: nothing does.
    """

    zero: relax.Expr | None
    columns: NDArray[np.int32]
    step: relax.Expr | None = None


@dataclass(frozen=True)
class Term:
    """A scaled tensor: ``scale * (value + offset)``, or ``scale * step * (value + offset - zero * columns)``.

    Attributes:
        value: a tensor of integers, or of float32.
        scale: what multiplies it, in a shape that broadcasts to the tensor's.
        offset: int32 numbers that are added before, in such a shape; None: nothing is added.
        computed: the zero point and the step, if the network computes them; None: all numbers are known.
        most: the largest size of an integer of the tensor; infinity: it is not known.
    """

    value: Value
    scale: Doubles
    offset: NDArray[np.int32] | None = None
    computed: Computed | None = None
    most: float = math.inf

    @property
    def largest(self) -> float:
        """A bound of the size of the scaled tensor's numbers; infinity: none is known."""
        most = 255.0 if self.value.dtype in ("uint8", "int8") else self.most
        if self.computed is not None or not math.isfinite(most):
            return math.inf
        most += 0.0 if self.offset is None else float(np.abs(self.offset.astype(np.float64)).max(initial=0.0))
        return most * float(np.abs(self.scale).max(initial=0.0))


@dataclass(frozen=True)
class Scaled:
    """A sum of scaled tensors of one shape: ``limit(terms + shift)``.

    Attributes:
        terms: of the sum; a weight is a single one.
        shift: is added, in a shape that broadcasts to the tensor's.
        low, high: the limits.
    """

    terms: tuple[Term, ...]
    shift: Doubles = field(default_factory=lambda: np.zeros(()))
    low: float = -math.inf
    high: float = math.inf

    @property
    def limited(self) -> bool:
        """Whether there are limits."""
        return self.low > -math.inf or self.high < math.inf

    @property
    def is_weight(self) -> bool:
        """Whether it is a weight of the network, so that its numbers are known."""
        return len(self.terms) == 1 and self.terms[0].value.recipe is not None

    @property
    def is_bytes(self) -> bool:
        """Whether it is unsigned bytes with one scale and one shift for the whole tensor."""
        if len(self.terms) != 1 or self.limited or self.is_weight:
            return False
        (term,) = self.terms
        known = term.offset is None and term.computed is None
        return term.value.dtype == "uint8" and known and term.scale.size == self.shift.size == 1

    def scaled(self, factor: Doubles) -> Scaled | None:
        """The sum times a factor; None if the limits would have to be scaled by channels, or swapped."""
        if self.limited and (factor.size > 1 or float(factor.reshape(-1)[0]) <= 0):
            return None
        once = float(factor.reshape(-1)[0]) if factor.size else 1.0
        terms = tuple(dataclasses.replace(term, scale=term.scale * factor) for term in self.terms)
        low, high = (bound * once if math.isfinite(bound) else bound for bound in (self.low, self.high))
        return Scaled(terms, self.shift * factor, low, high)

    def limited_to(self, low: float, high: float) -> Scaled:
        """The sum, limited again. Limits beyond the new ones become the nearest new one."""
        return dataclasses.replace(self, low=min(max(self.low, low), high), high=min(max(self.high, low), high))

    @property
    def numbers(self) -> list[Array]:
        """The shift, the scales and the offsets."""
        columns = (t.computed.columns for t in self.terms if t.computed is not None)
        offsets = (t.offset for t in self.terms if t.offset is not None)
        return [self.shift, *(t.scale for t in self.terms), *offsets, *columns]

    def read(self, arrays: Mapping[str, Array]) -> Doubles:
        """The numbers of a weight, of which the network's ``arrays`` hold the integers."""
        (term,) = self.terms
        assert term.value.recipe is not None
        levels = term.value.recipe.apply(arrays).astype(np.float64)
        return np.asarray(np.clip(levels * term.scale + self.shift, self.low, self.high))


def find_bytes(form: Scaled | None) -> Bytes | None:
    """Unsigned bytes, their scale, and their zero point, if a sum is nothing else; None otherwise."""
    if form is None or not form.is_bytes:
        return None
    (term,) = form.terms
    scale, shift = float(term.scale.reshape(-1)[0]), float(form.shift.reshape(-1)[0])
    zero = -shift / scale
    if abs(zero - round(zero)) > 1e-6 or not 0 <= round(zero) <= 255:
        return None
    return term.value, scale, round(zero)
