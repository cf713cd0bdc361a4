"""Converters of LSTM, GRU and RNN, with all attributes, directions and optional inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.onnx.importer import Operands, converter
from tilewright.frontend.recurrent import CellOperands, emit_recurrent
from tilewright.ops.recurrent import Activation, Cell
from tilewright.ops.recurrent.activations import FORMULAS
from tilewright.ops.recurrent.cell import OUTPUTS
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax

__all__ = ["gru", "lstm", "rnn"]

#: The gates in ONNX's order, and the default activations of a direction, by the kind of the cell.
_GATES = {"lstm": "iofc", "gru": "zrh", "rnn": "h"}
_DEFAULTS = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
#: The default parameters of activations that have parameters; None: the node must give this parameter.
_NUMBERS: dict[str, tuple[float | None, ...]] = {
    "affine": (None, None),
    "elu": (1.0,),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01,),
    "scaledtanh": (None, None),
    "thresholdedrelu": (None,),
}
_BACKWARD = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
#: The oldest opset that is supported. Before it, attributes had other meanings.
_OLDEST = 7


@converter("LSTM")
def lstm(node: Operands) -> list[relax.Expr]:
    """``LSTM(X, W, R, B, sequence_lens, initial_h, initial_c, P)`` with all of its attributes."""
    return _Conversion(node, "lstm").convert()


@converter("GRU")
def gru(node: Operands) -> list[relax.Expr]:
    """``GRU(X, W, R, B, sequence_lens, initial_h)`` with all of its attributes."""
    return _Conversion(node, "gru").convert()


@converter("RNN")
def rnn(node: Operands) -> list[relax.Expr]:
    """``RNN(X, W, R, B, sequence_lens, initial_h)`` with all of its attributes."""
    return _Conversion(node, "rnn").convert()


class _Conversion:
    """One node and its cell.

    Raises:
        NotImplementedError: no kernel serves the node. The message says why.
    """

    def __init__(self, node: Operands, kind: str) -> None:
        self._node, self._kind = node, kind
        x, w, r = node.inputs[:3]
        if x is None or str(x.ty.dtype) != "float32":
            raise NotImplementedError(
                "kernels of recurrent operators compute in float32, but its data are of another type"
            )
        if node.opset < _OLDEST:
            raise NotImplementedError(
                f"kernels compute its version of opset {_OLDEST} and later, but this has {node.opset}"
            )
        self._swapped = node.attributes.get("layout", 0) == 1
        self._steps, self._batch, _ = _shape(x) if not self._swapped else (_shape(x)[1], _shape(x)[0], 0)
        self._directions, self._wide, _ = _shape(w)
        self._hidden = _shape(r)[-1]
        if 0 in (*_shape(x), *_shape(w), *_shape(r)):
            raise NotImplementedError("it has a tensor without elements")

    def convert(self) -> list[relax.Expr]:
        """The expression of each result. An unused result has an arbitrary expression."""
        node = self._node
        first, second = self._biases()
        w, r = node.inputs[1], node.inputs[2]
        operands = CellOperands(node.inputs[0], w, r, first, second, dict(self._others()))
        made = emit_recurrent(node.builder, self._describe(), operands)
        other = next(iter(made.values()))
        return [made.get(name, other) for name, _ in zip(OUTPUTS, node.outputs, strict=False)]

    def _describe(self) -> Cell:
        attributes, swapped = self._node.attributes, self._swapped
        direction = _text(attributes.get("direction", b"forward"))
        backward = _BACKWARD.get(direction, ())
        if len(backward) != self._directions:
            raise NotImplementedError(f"its weights have {self._directions} directions, but it goes {direction}")
        used = [name for name, kind in zip(OUTPUTS, self._node.outputs, strict=False) if kind is not None]
        if not used:
            raise NotImplementedError("nothing uses its results")
        return Cell(
            self._kind,
            self._steps,
            self._batch,
            self._hidden,
            backward,
            tuple(self._read_activations()),
            _GATES[self._kind],
            outputs=tuple(used),
            clip=max(0.0, float(attributes.get("clip", 0.0))),
            coupled=bool(attributes.get("input_forget", 0)),
            reset_after=self._kind == "gru" and bool(attributes.get("linear_before_reset", 0)),
            x_order="bt" if swapped else "tb",
            y_order="btd" if swapped else "tdb",
            state_order="bd" if swapped else "db",
        )

    def _read_activations(self) -> Iterator[tuple[Activation, ...]]:
        """The activations of each direction. Activations with parameters take them from the attributes in order."""
        attributes, defaults = self._node.attributes, _DEFAULTS[self._kind]
        needed = len(defaults) * self._directions
        names = [_text(name).lower() for name in attributes.get("activations", [])] or [*defaults] * self._directions
        if len(names) < needed:
            raise NotImplementedError(f"it has {len(names)} activations instead of {needed}")
        alphas, betas = (iter(attributes.get(f"activation_{which}", [])) for which in ("alpha", "beta"))
        found = []
        for name in names[:needed]:  # an RNN has two by default, whatever its directions
            if name not in FORMULAS:
                raise NotImplementedError(f"no formula computes its activation {name}")
            numbers = [next(source, d) for source, d in zip((alphas, betas), _NUMBERS.get(name, ()), strict=False)]
            if None in numbers:
                raise NotImplementedError(f"it does not give the numbers of its activation {name}")
            found.append(Activation(name, *(float(number) for number in numbers if number is not None)))
        for begin in range(0, len(found), len(defaults)):
            yield tuple(found[begin : begin + len(defaults)])

    def _biases(self) -> tuple[relax.Expr | None, relax.Expr | None]:
        """The biases of the inputs and of the states; None for biases that are 0."""
        from tvm import relax

        node = self._node
        bias, values = self._input(3), self._value(3)
        if bias is None:
            return None, None
        halves = node.emit(relax.op.reshape(bias, (self._directions, 2, self._wide)))
        halves = node.emit(relax.op.split(halves, 2, axis=1))
        zero = [values is not None and not part.any() for part in np.split(_or_zeros(values, 2 * self._wide), 2, -1)]
        first, second = (None if zero[i] else node.emit(relax.TupleGetItem(halves, i)) for i in range(2))
        return first, second

    def _others(self) -> Iterator[tuple[str, relax.Expr]]:
        """The remaining operands, with their names in ``Cell.shapes``."""
        neutral = {4: ("lengths", self._steps), 5: ("initial_h", 0), 6: ("initial_c", 0), 7: ("peepholes", 0)}
        for place, (name, number) in neutral.items():
            operand, values = self._input(place), self._value(place)
            if operand is not None and (values is None or (values != number).any()):
                yield name, operand

    def _input(self, place: int) -> relax.Expr | None:
        return self._node.inputs[place] if place < len(self._node.inputs) else None

    def _value(self, place: int) -> Array | None:
        return self._node.constants[place] if place < len(self._node.constants) else None


def _or_zeros(values: Array | None, columns: int) -> Array:
    return np.zeros((1, columns)) if values is None else values


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in expr.ty.shape.values)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
