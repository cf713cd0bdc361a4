"""Sums of scaled integers, which are real numbers, or integers of another scale: dequantising and requantising.

    result = limit(scale0 * (term0 + offset0) + scale1 * (term1 + offset1) + ... + shift)
    bytes  = round(result) + zero

The scale and the zero point of a term may be numbers that the network computes: then ``scale * step`` multiplies, and
``zero * column`` is taken away before. One term of integers that is an int32 result has no scale, and its shift is
an int32 number.

Rounding is to the nearest integer, and halves are rounded to the even one. The limits are such that all bytes are in
range; or integers saturate, and there are no other limits. A term, or the whole, may be fused into the function that
computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import BROADCAST, ELEMENTWISE, KEPT, make_function
from tilewright.saturating import ROUNDING, ROUNDING_BITS

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["QUANTISATION", "AffineForm", "TermForm", "affine", "product"]

#: The attribute of a function that quantises or dequantises, on its way from an importer to the graph: which of both,
#: and the axis of the scales. The function's parameters are the data, the scales and the zero points.
QUANTISATION = "tilewright.quantisation"


@dataclass(frozen=True)
class TermForm:
    """One term of a sum.

    Attributes:
        dtype: of its elements.
        scale: what multiplies it: ``one`` number, a ``channel``'s own; ``none``: nothing; ``divisor``: one number, by
            which it is divided.
        offset: whether an int32 number is added to each channel before it is scaled.
        moved: whether the product of a computed zero point and an int32 number is taken away before it is scaled: of
            ``one`` number, a ``channel``'s own, or ``none``.
        stepped: whether a computed number multiplies the scale.
    """

    dtype: str
    scale: str
    offset: bool = False
    moved: str = "none"
    stepped: bool = False


@dataclass(frozen=True)
class AffineForm:
    """A sum of terms.

    Attributes:
        shape: of each term and of the result.
        channels: the axes along which the numbers of a channel differ.
        terms: at least one.
        shift: a number that is added: ``one``, a ``channel``'s own, or ``none``.
        limited: whether the result has a lower and an upper limit.
        dtype: of the result: ``float32``, or integers.
        zero: whether integers have a zero point, which is added after rounding.
        saturates: whether the limits are those of unsigned bytes, and are applied to integers. Sums are below 2^22.
    """

    shape: tuple[int, ...]
    channels: tuple[int, ...]
    terms: tuple[TermForm, ...]
    shift: str = "none"
    limited: bool = False
    dtype: str = "float32"
    zero: bool = False
    saturates: bool = False

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """The shape of the numbers of all channels."""
        return tuple(extent if axis in self.channels else 1 for axis, extent in enumerate(self.shape))


@dataclass(frozen=True, eq=False)
class _OwnNumbers:
    """The numbers of a term, as ``TermForm`` says; None: it has none."""

    scale: Tensor | None
    offset: Tensor | None
    zero: Tensor | None
    column: Tensor | None
    step: Tensor | None

    def level(self, element: Expr, form: TermForm, at: Callable[[Tensor], Expr]) -> Expr:
        """The element before it is scaled. ``at`` gives a number at the element's place."""
        if form.dtype in ("uint8", "int8"):
            element = element.astype("int32")
        if self.offset is not None:
            element = element + at(self.offset)
        if self.zero is not None and self.column is not None:
            element = element - self.zero().astype("int32") * at(self.column)
        return element

    def scaled(self, level: Expr, form: TermForm, at: Callable[[Tensor], Expr]) -> Expr:
        """The level times the scale."""
        factor = None if self.scale is None else at(self.scale)
        if self.step is not None:
            factor = self.step() if factor is None else self.step() * factor
        if factor is None:
            return level
        return level / factor if form.scale == "divisor" else level * factor


def _own_numbers(
    place: int, term: TermForm, number: Callable[..., Tensor], computed: Callable[[str, str], Tensor]
) -> _OwnNumbers:
    """Placeholders for the numbers of a term, in the order of parameters."""
    moved = term.moved != "none"
    return _OwnNumbers(
        None if term.scale == "none" else number(term.scale, f"scale{place}"),
        number("channel", f"offset{place}", "int32") if term.offset else None,
        computed(f"zero{place}", "uint8") if moved else None,
        number(term.moved, f"column{place}", "int32") if moved else None,
        computed(f"step{place}", "float32") if term.stepped else None,
    )


@lru_cache(KEPT)
def affine(form: AffineForm) -> PrimFunc:
    """The sum. Gives a PrimFunc (terms..., numbers..., output).

    The numbers are, for each term, its scale, its offset, the computed zero point with its factors, and the computed
    step; then the shift, the lower and the upper limit, and the zero point; each if the form has it. Offsets, factors
    and the zero point are int32, a computed zero point uint8, all others float32. A zero point of integers that
    saturate is uint8. One number has the shape ``(1,)``, but a computed one ``()``; numbers of channels have
    ``form.channel_shape``, if the form has axes of channels.
    """
    from tvm import te, tirx

    terms = [te.placeholder(form.shape, term.dtype, name=f"term{i}") for i, term in enumerate(form.terms)]
    numbers: list[Tensor] = []

    def number(kind: str, name: str, dtype: str = "float32") -> Tensor:
        shape = form.channel_shape if kind == "channel" and form.channels else (1,)
        numbers.append(te.placeholder(shape, dtype, name=name))
        return numbers[-1]

    def computed(name: str, dtype: str) -> Tensor:
        numbers.append(te.placeholder((), dtype, name=name))
        return numbers[-1]

    owned = [_own_numbers(i, term, number, computed) for i, term in enumerate(form.terms)]
    exact = form.dtype == "int32"
    shift = None if form.shift == "none" else number(form.shift, "shift", "int32" if exact else "float32")
    limits = (number("one", "low"), number("one", "high")) if form.limited else None
    zero = number("one", "zero", "uint8" if form.saturates else "int32") if form.zero else None

    def at(tensor: Tensor, place: tuple[Expr, ...]) -> Expr:
        if len(tensor.shape) != len(form.shape) or (len(form.shape) == 1 and not form.channels):
            return tensor[0]
        return tensor(*(i if axis in form.channels else 0 for axis, i in enumerate(place)))

    def element(*place: Expr) -> Expr:
        total = None
        for term, own, form_of in zip(terms, owned, form.terms, strict=True):
            level = own.level(term(*place), form_of, lambda tensor: at(tensor, place))
            if exact:
                return level if shift is None else level + at(shift, place)
            level = own.scaled(level.astype("float32"), form_of, lambda tensor: at(tensor, place))
            total = level if total is None else total + level
        if shift is not None:
            total = total + at(shift, place)
        if limits is not None:
            total = tirx.max(tirx.min(total, limits[1][0]), limits[0][0])
        if form.dtype == "float32":
            return total
        bits = tirx.reinterpret("int32", total + tirx.const(ROUNDING, "float32"))
        rounded = bits - tirx.const(ROUNDING_BITS, "int32")
        whole = rounded if zero is None else rounded + zero[0].astype("int32")
        if form.saturates:  # on x86-64, instructions that pack integers do that by themselves
            whole = tirx.max(tirx.min(whole, tirx.const(255, "int32")), tirx.const(0, "int32"))
        return whole.astype(form.dtype)

    y = te.compute(form.shape, element, name="affine" if form.dtype == "float32" else "requantise")
    return make_function([*terms, *numbers, y], ELEMENTWISE)


@lru_cache(KEPT)
def product(left: tuple[int, ...], right: tuple[int, ...]) -> PrimFunc:
    """The product of bytes minus their zero points.

    Gives a PrimFunc (uint8 left, uint8 right, float32 zero point of each of both ``(1,)``, float32 output).

    Args:
        left: the shape of the left operand and of the output.
        right: the shape of the right operand, with 1 for the axes along which it is repeated.
    """
    from tvm import te

    a, b = te.placeholder(left, "uint8", name="left"), te.placeholder(right, "uint8", name="right")
    zeros = [te.placeholder((1,), name=f"zero{i}") for i in range(2)]

    def level(tensor: Tensor, zero: Tensor, place: tuple[Expr, ...]) -> Expr:
        return tensor(*place).astype("int32").astype("float32") - zero[0]

    def element(*place: Expr) -> Expr:
        other = tuple(0 if extent == 1 else i for i, extent in zip(place, right, strict=True))
        return level(a, zeros[0], place) * level(b, zeros[1], other)

    return make_function([a, b, *zeros, te.compute(left, element, name="product")], BROADCAST)
