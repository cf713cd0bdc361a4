"""Quantised networks: real numbers that are scaled integers stay integers as long as possible.

A tensor of real numbers may be a sum of scaled integer tensors, which is computed only where an operator needs it:

    DequantizeLinear(x)  -->  scale * x - scale * zero
    Conv(that, weights)  -->  scale * weight scales * (sums of bytes + offsets)
    Add, Mul, Relu       -->  other scales, another shift, more terms, other limits
    QuantizeLinear(that) -->  one element-wise function, which is fused into the convolution

So an integer convolution or matrix product runs where all operands are known as bytes. Any other operator gets the
numbers as float32. The result is that of the model in exact arithmetic, rounded where the model rounds.

Bytes of data are unsigned, as the instructions of x86-64 want them. Signed ones are kept as unsigned ones plus -128.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.graph.channels import padded_order
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import View
from tilewright.ops.contraction.dot_products import QUAD
from tilewright.ops.contraction.quantised import byte_conv2d, byte_dense
from tilewright.ops.elementwise.affine import QUANTISATION, AffineForm, TermForm, affine
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["Scaled", "Term", "serve", "serve_call", "settle"]

Doubles: TypeAlias = NDArray[np.float64]

#: The most terms of a sum. More operands would not fit the registers beside the sums of a convolution.
_MOST_TERMS = 3


@dataclass(frozen=True)
class Term:
    """A scaled tensor: ``scale * (value + offset)``.

    Attributes:
        value: a tensor of integers, or of float32.
        scale: what multiplies it, in a shape that broadcasts to the tensor's.
        offset: int32 numbers that are added before, in such a shape; None: nothing is added.
    """

    value: Value
    scale: Doubles
    offset: NDArray[np.int32] | None = None


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

    def scaled(self, factor: Doubles) -> Scaled | None:
        """The sum times a factor; None if the limits would have to be scaled by channels, or swapped."""
        if self.limited and (factor.size > 1 or float(factor.reshape(-1)[0]) <= 0):
            return None
        once = float(factor.reshape(-1)[0]) if factor.size else 1.0
        terms = tuple(dataclasses.replace(term, scale=term.scale * factor) for term in self.terms)
        low, high = (bound * once if math.isfinite(bound) else bound for bound in (self.low, self.high))
        return Scaled(terms, self.shift * factor, low, high)

    def limited_to(self, low: float, high: float) -> Scaled:
        """The sum with further limits."""
        low, high = max(self.low, low), min(self.high, high)
        return dataclasses.replace(self, low=min(low, high), high=high)

    def read(self, walk: Rewriter) -> Doubles:
        """The numbers of a weight."""
        (term,) = self.terms
        assert term.value.recipe is not None
        levels = term.value.recipe.apply(walk.arrays).astype(np.float64)
        return np.asarray(np.clip(levels * term.scale + self.shift, self.low, self.high))


# Quantising and dequantising


def serve_call(walk: Rewriter, call: relax.Call) -> Value | None:
    """The value of a call of an importer's function that quantises or dequantises; None for any other call."""
    from tvm import relax

    function = walk.builder.get()[call.args[0]]
    role = function.attrs[QUANTISATION] if function.attrs is not None and QUANTISATION in function.attrs else None
    if role is None:
        return None
    kind, axis = str(role).split()
    operands = [walk.values.get(a) if isinstance(a, relax.Var) else a for a in call.args[1].fields]
    x = operands[0]
    numbers = [_read_constant(walk, operand) for operand in operands[1:]]
    if not isinstance(x, Value) or any(number is None for number in numbers):
        return None
    shape = shape_of(call)
    scale, zero = (_along(number, shape, int(axis)) for number in (*numbers, np.zeros(()))[:2])  # type: ignore[arg-type]
    if scale is None or zero is None or not np.isfinite(scale).all() or not (scale > 0).all():
        return None
    if kind == "dequantise":
        return _dequantise(walk, x, shape, scale, zero, str(call.ty.dtype))
    return _quantise(walk, x, scale, zero, str(call.ty.dtype))


def _read_constant(walk: Rewriter, operand: object) -> Doubles | None:
    from tvm import ir

    if isinstance(operand, ir.GenericConst):
        return np.asarray(operand.value.numpy(), dtype=np.float64)
    if not isinstance(operand, Value) or operand.recipe is None or operand.recipe.source in walk.varying:
        return None
    return operand.recipe.apply(walk.arrays).astype(np.float64)


def _along(numbers: Array, shape: tuple[int, ...], axis: int) -> Doubles | None:
    """Scales or zero points in a shape that broadcasts; None if there is neither one nor one for each index."""
    values = np.asarray(numbers, dtype=np.float64)
    if values.size == 1:
        return values.reshape((1,) * len(shape))
    if values.ndim != 1 or not shape or values.size != shape[axis % len(shape)]:
        return None
    column = [1] * len(shape)
    column[axis % len(shape)] = values.size
    return values.reshape(column)


def _dequantise(
    walk: Rewriter, x: Value, shape: tuple[int, ...], scale: Doubles, zero: Doubles, dtype: str
) -> Value | None:
    if dtype != "float32" or x.dtype not in ("uint8", "int8", "int32"):
        return None
    if x.scaled_form is not None:
        known = dataclasses.replace(x.scaled_form, shift=x.scaled_form.shift - zero).scaled(scale)
        return None if known is None else Value(shape, scaled_form=known)
    if x.dtype == "int8" and x.recipe is None:
        x = _shift_signed(walk, x)
        zero = zero + 128.0
    return Value(shape, scaled_form=Scaled((Term(x, scale),), -zero * scale))


def _quantise(walk: Rewriter, x: Value, scale: Doubles, zero: Doubles, dtype: str) -> Value | None:
    """Integers of real numbers. None if there are scales of channels, or zero points that are no bytes."""
    if dtype not in ("uint8", "int8") or scale.size != 1 or x.dtype != "float32" or x.recipe is not None:
        return None
    step, origin = float(scale.reshape(-1)[0]), float(zero.reshape(-1)[0]) + (128.0 if dtype == "int8" else 0.0)
    whole = x.scaled_form
    if whole is None or whole.is_weight:
        whole = Scaled((Term(_settled(walk, x), np.ones(())),))
        divided: float | None = step  # as ONNX Runtime does it
    else:
        divided = None
        form = whole.scaled(np.asarray(1.0 / step))
        if form is None:
            return None
        whole = form
    whole = whole.limited_to(-origin, 255.0 - origin)
    made = _emit(walk, whole, "uint8", int(origin), divided)
    if made is None:
        return None
    if dtype == "uint8":
        return made
    return Value(made.shape, dtype="int8", scaled_form=Scaled((Term(made, np.ones(())),), np.asarray(-128.0)))


def _shift_signed(walk: Rewriter, x: Value) -> Value:
    """A tensor of signed bytes as one of unsigned bytes, each larger by 128."""
    form = Scaled((Term(x, np.ones(())),), np.zeros(()), -128.0, 127.0)
    made = _emit(walk, form, "uint8", 128, None)
    assert made is not None
    return made


# Where the numbers themselves are needed


def settle(walk: Rewriter, value: Value) -> None:
    """Compute a sum of scaled tensors, unless it is a tensor already."""
    form = value.scaled_form
    if form is None:
        return
    value.scaled_form = None
    if form.is_weight:
        array = form.read(walk).astype(value.dtype)
        value.recipe = walk.make_weight(array)
        return
    if value.dtype != "float32":  # signed bytes
        form = form.limited_to(-128.0, 127.0)
    made = _emit(walk, form, value.dtype, 0, None)
    assert made is not None
    for name in ("base", "view", "packed", "block", "order", "copies", "fused", "fresh"):
        setattr(value, name, getattr(made, name))


def _settled(walk: Rewriter, value: Value) -> Value:
    settle(walk, value)
    return value


def _emit(walk: Rewriter, form: Scaled, dtype: str, zero: int, divisor: float | None) -> Value | None:
    """Compute a sum, in the layout of its first term.

    Args:
        walk: emits the new graph.
        form: the sum.
        dtype: of the result.
        zero: the zero point of integers.
        divisor: divides the only term; None: scales multiply the terms.
    """
    first = next((t.value for t in form.terms if t.value.fused), form.terms[0].value)
    first = next((t.value for t in form.terms if t.value.fused and t.value.dtype == "int32"), first)
    if first.packed is not None:
        tensors = [walk.pack(t.value, first.block, first.order) for t in form.terms]
        shape, channels = tuple(int(d) for d in first.packed.ty.shape.values), (1, 4)

        def spread(numbers: Array) -> Array:
            own = np.broadcast_to(numbers.reshape((1,) * (4 - numbers.ndim) + numbers.shape)[0, :, 0, 0], first.channels)
            placed = own[[max(c, 0) for c in first.places]] * (np.asarray(first.places) >= 0)
            return placed.reshape(1, shape[1], 1, 1, shape[4])

        varies = all(
            n.size == 1 or n.size == (n.shape[1] if n.ndim == 4 else -1) for n in _numbers(form)
        )
    else:
        views = [walk.make_whole_view(t.value) for t in form.terms]
        if not all(view.in_order for view in views):
            for t in form.terms:
                walk.materialise(t.value)
        columns = max((n.shape[-1] for n in _numbers(form) if n.size > 1), default=1)
        total = math.prod(first.shape)
        shape = (total // columns, columns) if columns > 1 else walk.make_view(first).base_shape or (1,)
        channels = (1,) if columns > 1 else ()
        tensors = [walk.reshape(t.value.base, shape) for t in form.terms]

        def spread(numbers: Array) -> Array:
            return np.broadcast_to(numbers.reshape(-1), (columns,)).reshape(1, columns)

        varies = all(n.size in (1, n.shape[-1] if n.ndim else 1) for n in _numbers(form)) and (
            columns == 1 or first.shape[-1] == columns
        )
    if not varies:
        return None
    arguments: list[relax.Expr] = []

    def give(numbers: Array, kind: str = "float32", always: bool = False) -> str:
        if numbers.size > 1 and not always and np.all(numbers == numbers.reshape(-1)[0]):
            numbers = numbers.reshape(-1)[:1]
        if numbers.size == 1 and not always:
            arguments.append(walk.add_weight(walk.make_weight(numbers.reshape(1).astype(kind))))
            return "one"
        arguments.append(walk.add_weight(walk.make_weight(spread(numbers).astype(kind))))
        return "channel"

    kinds = []
    for term in form.terms:
        scale = "none"
        if divisor is not None:
            give(np.asarray(divisor))
            scale = "divisor"
        elif np.any(term.scale != 1.0):
            scale = give(term.scale)
        if term.offset is not None:
            give(term.offset, "int32", always=True)
        kinds.append(TermForm(term.value.dtype, scale, term.offset is not None))
    shift = give(form.shift) if np.any(form.shift) else "none"
    if form.limited:
        give(np.asarray(form.low))
        give(np.asarray(form.high))
    if zero:
        give(np.asarray(zero), "int32")
    made = AffineForm(shape, channels, tuple(kinds), shift, form.limited, dtype, zero != 0)
    name = "dequantise" if dtype == "float32" else "requantise"
    result = walk.call(affine(made), [*tensors, *arguments], shape, name, dtype)
    if first.packed is not None:
        fused = any(t.value.fused for t in form.terms)
        return Value(first.shape, packed=result, block=first.block, order=first.order, dtype=dtype, fused=fused)
    view = View.of(shape).reshape(first.shape)
    assert view is not None
    return Value(first.shape, base=result, view=view, dtype=dtype, fresh=first.fresh)


def _numbers(form: Scaled) -> list[Array]:
    return [form.shift, *(t.scale for t in form.terms), *(t.offset for t in form.terms if t.offset is not None)]


# Operators


def serve(walk: Rewriter, name: str, call: relax.Call, args: Sequence[object]) -> Value | None:
    """The value of an operator of which an operand is a sum of scaled tensors; None if it needs the numbers."""
    if not any(isinstance(a, Value) and a.scaled_form is not None for a in args):
        return None
    handler = _TABLE.get(name)
    return None if handler is None else handler(walk, call, args)


def _constant(walk: Rewriter, operand: object, rank: int) -> Doubles | None:
    """The numbers of a constant operand, with as many axes as the result; None if it is not constant."""
    from tvm import ir

    if isinstance(operand, ir.GenericConst):
        found = np.asarray(operand.value.numpy(), dtype=np.float64)
    elif isinstance(operand, Value) and operand.scaled_form is not None and operand.scaled_form.is_weight:
        found = operand.scaled_form.read(walk)
    elif isinstance(operand, Value) and operand.recipe is not None and operand.recipe.source not in walk.varying:
        if operand.dtype != "float32":
            return None
        found = operand.recipe.apply(walk.arrays).astype(np.float64)
    else:
        return None
    return found.reshape((1,) * (rank - found.ndim) + found.shape)


def _binary(walk: Rewriter, call: relax.Call, args: Sequence[object]) -> Value | None:
    """A sum, a difference, or a product with a constant."""
    shape, name = shape_of(call), call.op.name.removeprefix("relax.")
    left, right = args
    numbers = _constant(walk, right, len(shape))
    other, turned = left, False
    if numbers is None:
        numbers, other, turned = _constant(walk, left, len(shape)), right, True
    if numbers is not None:
        form = other.scaled_form if isinstance(other, Value) else None
        if form is None or form.is_weight or other.shape != shape or not np.isfinite(numbers).all():  # type: ignore[union-attr]
            return None
        if name in ("multiply", "divide"):
            if name == "divide" and (turned or not numbers.all()):
                return None
            made = form.scaled(numbers if name == "multiply" else 1.0 / numbers)
        else:
            if form.limited or (turned and name == "subtract"):
                return None
            made = dataclasses.replace(form, shift=form.shift + (numbers if name == "add" else -numbers))
        if made is None or any(n.size > 1 and n.size != max(n.shape) for n in _numbers(made)):
            return None
        return Value(shape, scaled_form=made)
    if name != "add" or not all(isinstance(a, Value) and a.shape == shape and a.dtype == "float32" for a in args):
        return None
    forms = [a.scaled_form or Scaled((Term(a, np.ones(())),)) for a in args]  # type: ignore[union-attr]
    if any(f.limited for f in forms) or sum(len(f.terms) for f in forms) > _MOST_TERMS:
        return None
    return Value(shape, scaled_form=Scaled((*forms[0].terms, *forms[1].terms), forms[0].shift + forms[1].shift))


def _limit(walk: Rewriter, call: relax.Call, args: Sequence[object]) -> Value | None:
    """Relu and Clip."""
    value = args[0]
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or form.is_weight or str(call.ty.dtype) != "float32":
        return None
    low, high = 0.0, math.inf
    if call.op.name == "relax.clip":
        bounds = [getattr(getattr(a, "value", a), "value", getattr(a, "value", a)) for a in call.args[1:3]]
        if not all(isinstance(bound, int | float) for bound in bounds):
            return None
        low, high = (float(bound) for bound in bounds)
    return Value(shape_of(call), scaled_form=form.limited_to(low, high))


def _move(walk: Rewriter, call: relax.Call, args: Sequence[object]) -> Value | None:
    """An operator that only moves elements, on the integers."""
    from tilewright.graph import pixels, tokens

    value, name = args[0], call.op.name.removeprefix("relax.")
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or len(form.terms) != 1:
        return None
    (term,) = form.terms
    if form.is_weight:
        if name != "permute_dims":
            return None
        axes = call.attrs.axes
        order = [int(a) for a in axes] if axes is not None else [*reversed(range(len(term.value.shape)))]
        moved = walk.move_weight(name, call, [term.value])
        if moved is None or any(n.ndim not in (0, len(order)) for n in _numbers(form)):
            return None
        scale, shift = (n if n.ndim == 0 else n.transpose(order) for n in (term.scale, form.shift))
        return Value(moved.shape, scaled_form=dataclasses.replace(form, terms=(Term(moved, scale),), shift=shift))
    if any(n.size > 1 for n in _numbers(form)) or term.value.dtype != "uint8":
        return None
    moved = pixels.serve(walk, name, call, [term.value]) or tokens.serve(walk, name, call, [term.value])
    if moved is None:
        return None
    moved.dtype = term.value.dtype
    scale, shift = (n.reshape(()) for n in (term.scale, form.shift))
    return Value(
        moved.shape,
        dtype=value.dtype,
        scaled_form=dataclasses.replace(form, terms=(Term(moved, scale),), shift=shift),
    )


def _max_pool(walk: Rewriter, call: relax.Call, args: Sequence[object]) -> Value | None:
    """The maximum over windows, on the integers."""
    value = args[0]
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or len(form.terms) != 1 or form.terms[0].value.packed is None or not (form.terms[0].scale > 0).all():
        return None
    return _move(walk, call, args)


def _find_bytes(form: Scaled | None) -> tuple[Value, float, int] | None:
    """Unsigned bytes, their scale, and their zero point, if a sum is nothing else; None otherwise."""
    if form is None or len(form.terms) != 1 or form.limited or form.is_weight:
        return None
    (term,) = form.terms
    if term.value.dtype != "uint8" or term.offset is not None or term.scale.size != 1 or form.shift.size != 1:
        return None
    scale, shift = float(term.scale.reshape(-1)[0]), float(form.shift.reshape(-1)[0])
    zero = -shift / scale
    if abs(zero - round(zero)) > 1e-6 or not 0 <= round(zero) <= 255:
        return None
    return term.value, scale, round(zero)


def _find_weight(walk: Rewriter, value: object, axis: int) -> tuple[Value, Doubles, NDArray[np.int32]] | None:
    """A weight of signed bytes around 0, its scales along ``axis``, and the weight itself.

    None if it is no such weight, for example if bytes minus the zero point are no bytes.
    """
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or not form.is_weight or form.limited:
        return None
    (term,) = form.terms
    if term.value.dtype not in ("int8", "uint8") or term.value.recipe is None:
        return None
    rank = len(term.value.shape)
    count = term.value.shape[axis]
    scales = term.scale if term.scale.ndim == rank else term.scale.reshape((1,) * rank)
    if scales.size not in (1, scales.shape[axis]):
        return None
    levels = term.value.recipe.apply(walk.arrays).astype(np.float64) + form.shift / term.scale
    whole = np.rint(levels)
    if np.abs(levels - whole).max(initial=0.0) > 1e-6 or whole.min(initial=0) < -128 or whole.max(initial=0) > 127:
        return None
    numbers = whole.astype(np.int8)
    own = term.value
    if term.value.dtype != "int8" or np.any(form.shift):
        own = Value(term.value.shape, recipe=walk.make_weight(numbers), dtype="int8")
    return own, np.broadcast_to(scales.reshape(-1), (count,)).astype(np.float64), numbers.astype(np.int32)


def _conv2d(walk: Rewriter, call: relax.Call, args: Sequence[object]) -> Value | None:
    """A convolution of bytes, with int32 sums."""
    attrs = call.attrs
    data, weight = args
    layouts = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout))
    found = _find_bytes(data.scaled_form) if isinstance(data, Value) else None
    known = _find_weight(walk, weight, 0) if found is not None else None
    if found is None or known is None or layouts != ("NCHW", "OIHW", "NCHW") or int(attrs.groups) != 1:
        return None
    source, scale, zero = found
    own, scales, numbers = known
    kernel = own.recipe
    assert kernel is not None
    out, channels, kh, kw = kernel.shape
    x, order = walk.channel_block(out), None
    if x not in (walk.lanes, walk.lanes // 2) or x % QUAD:
        x, order = walk.lanes, padded_order(out, walk.lanes)
        kernel = kernel.take(0, order)
    block, places = source.block, source.order
    if source.packed is None or block % QUAD:
        block = max((d for d in range(QUAD, walk.lanes + 1, QUAD) if channels % d == 0), default=0)
        places = None
        if not block:
            block = QUAD if channels < walk.lanes else walk.lanes
            places = padded_order(channels, block)
    packed = walk.pack(source, block, places)
    if places is not None:
        kernel = kernel.take(1, places)
    out, channels = kernel.shape[:2]
    recipe = kernel.reshape((out // x, x, channels // block, block // QUAD, QUAD, kh, kw))
    recipe = recipe.transpose((0, 2, 5, 6, 3, 1, 4))
    stride, dilation = _ints(attrs.strides), _ints(attrs.dilation)
    padding = _ints(attrs.padding)
    if kh == kw == 1 and stride != (1, 1) and not any(padding):
        from tilewright.graph.pixel_convolutions import sample_pixels

        packed, stride = sample_pixels(walk, packed, stride), (1, 1)
    function = byte_conv2d(shape_of(packed), recipe.shape, stride, padding, dilation, zero if any(padding) else 0)
    shape = shape_of(call)
    n, _, h, w = shape
    result = walk.call(function, [packed, walk.add_weight(recipe)], (n, out // x, h, w, x), "byte_conv2d", "int32")
    sums = Value(shape, packed=result, block=x, order=order, dtype="int32", fused=True)
    offset = -zero * numbers.sum(axis=(1, 2, 3), dtype=np.int64).reshape(1, -1, 1, 1)
    factor = (scale * scales).reshape(1, -1, 1, 1)
    return Value(shape, scaled_form=Scaled((Term(sums, factor, offset.astype(np.int32) if zero else None),)))


def _matmul(walk: Rewriter, call: relax.Call, args: Sequence[object]) -> Value | None:
    """The product of rows of bytes with a matrix of weights, with int32 sums."""
    left, right = args
    found = _find_bytes(left.scaled_form) if isinstance(left, Value) else None
    known = _find_weight(walk, right, 1) if found is not None and len(right.shape) == 2 else None  # type: ignore[union-attr]
    if found is None or known is None:
        return None
    source, scale, zero = found
    own, scales, numbers = known
    kernel = own.recipe
    assert kernel is not None
    depth, n = kernel.shape
    if depth % QUAD or n < 2:
        return None
    x = walk.channel_block(n)
    x = x if x in (walk.lanes, walk.lanes // 2) and x % QUAD == 0 else walk.lanes
    view = walk.make_whole_view(source)
    if not view.in_order:
        walk.materialise(source)
    rows = math.prod(source.shape) // depth
    columns = kernel if n % x == 0 else kernel.take(1, padded_order(n, x))
    recipe = columns.reshape((depth // QUAD, QUAD, -(-n // x), x)).transpose((2, 0, 3, 1))
    function = byte_dense(rows, recipe.shape, n)
    result = walk.call(
        function, [walk.reshape(source.base, (rows, depth)), walk.add_weight(recipe)], (rows, n), "byte_dense", "int32"
    )
    shape = shape_of(call)
    sums = Value(shape, base=result, view=View.of((rows, n)).reshape(shape), dtype="int32", fresh=True)
    ones = (1,) * (len(shape) - 1)
    offset = -zero * numbers.sum(axis=0, dtype=np.int64).reshape(*ones, -1)
    factor = (scale * scales).reshape(*ones, -1)
    return Value(shape, scaled_form=Scaled((Term(sums, factor, offset.astype(np.int32) if zero else None),)))


def _ints(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


_Handler: TypeAlias = "Callable[[Rewriter, relax.Call, Sequence[object]], Value | None]"
#: What serves each operator, by its name in Relax.
_TABLE: dict[str, _Handler] = {
    "add": _binary,
    "subtract": _binary,
    "multiply": _binary,
    "divide": _binary,
    "nn.relu": _limit,
    "clip": _limit,
    "reshape": _move,
    "flatten": _move,
    "squeeze": _move,
    "expand_dims": _move,
    "permute_dims": _move,
    "nn.max_pool2d": _max_pool,
    "nn.conv2d": _conv2d,
    "matmul": _matmul,
}
