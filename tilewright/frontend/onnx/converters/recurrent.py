"""LSTM, GRU and RNN: one product of the inputs of all steps, and one function for the loop over steps.

LSTM(X, W, R, B) --> p = matmul(X, W^T) + Wb; Y, Y_h, Y_c = recurrent(p, R^T, Rb)

Both directions are in one product and in one function. ``graph/recurrent`` packs R for vectors later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.onnx.importer import Operands, converter
from tilewright.ops.recurrent import Activation, Cell, recurrent
from tilewright.ops.recurrent.activations import FORMULAS

if TYPE_CHECKING:
    from tvm import relax

__all__ = ["gru", "lstm", "rnn"]

#: The gates in ONNX's order, and the activations of a direction, by the kind of the cell.
_GATES = {"lstm": "iofc", "gru": "zrh", "rnn": "h"}
_DEFAULTS = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
#: The numbers of activations that have some, where the node does not give them; None: it must.
_NUMBERS: dict[str, tuple[float | None, ...]] = {
    "affine": (None, None),
    "elu": (1.0,),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01,),
    "scaledtanh": (None, None),
    "thresholdedrelu": (None,),
}
_BACKWARD = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
#: ONNX's version of the operators before which their attributes had other meanings.
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
        x, w, r = (node.inputs[place] for place in range(3))
        if str(x.ty.dtype) != "float32":
            raise NotImplementedError(f"kernels of recurrent operators compute in float32, but this has {x.ty.dtype}")
        if node.opset < _OLDEST:
            raise NotImplementedError(f"kernels compute its version of opset {_OLDEST}, but this has {node.opset}")
        self._x = _shape(x)
        self._directions, self._wide, self._depth = _shape(w)
        self._hidden = _shape(r)[-1]
        if 0 in (*self._x, *_shape(w), *_shape(r)):
            raise NotImplementedError("it has a tensor without elements")
        self._gates = _GATES[kind]

    def convert(self) -> list[relax.Expr]:
        """The expression of each result; those of results that nothing uses are any."""
        from tvm import relax

        operands = self._operands()
        cell = self._describe(tuple(name for name in operands if name not in ("x", "r")))
        shapes = cell.shapes
        function = self._node.builder.add_func(recurrent(cell), self._kind)
        kinds = [relax.TensorType(shapes[name], "float32") for name in cell.outputs]
        result = self._emit(relax.call_tir(function, list(operands.values()), kinds))
        parts = [result] if len(kinds) == 1 else [self._emit(relax.TupleGetItem(result, i)) for i in range(len(kinds))]
        made = dict(zip(cell.outputs, parts, strict=True))
        return [made.get(name, parts[0]) for name, _ in zip(("y", "y_h", "y_c"), self._node.outputs, strict=False)]

    def _emit(self, expr: relax.Expr) -> relax.Expr:
        return self._node.emit(expr)

    # The cell

    def _describe(self, given: tuple[str, ...]) -> Cell:
        attributes = self._node.attributes
        swapped = attributes.get("layout", 0) == 1
        steps, batch = (self._x[1], self._x[0]) if swapped else self._x[:2]
        direction = _text(attributes.get("direction", b"forward"))
        backward = _BACKWARD.get(direction, ())
        if len(backward) != self._directions:
            raise NotImplementedError(f"its weights have {self._directions} directions, but it goes {direction}")
        used = [name for name, kind in zip(("y", "y_h", "y_c"), self._node.outputs, strict=False) if kind is not None]
        if not used:
            raise NotImplementedError("nothing uses its results")
        return Cell(
            self._kind,
            steps,
            batch,
            self._hidden,
            backward,
            tuple(self._read_activations()),
            self._gates,
            given,
            tuple(used),
            clip=max(0.0, float(attributes.get("clip", 0.0))),
            coupled=bool(attributes.get("input_forget", 0)),
            reset_after=self._kind == "gru" and bool(attributes.get("linear_before_reset", 0)),
            x_order="bt" if swapped else "tb",
            y_order="btd" if swapped else "tdb",
            state_order="bd" if swapped else "db",
        )

    def _read_activations(self) -> Iterator[tuple[Activation, ...]]:
        """The activations of each direction. Those that have numbers take them in order."""
        attributes, defaults = self._node.attributes, _DEFAULTS[self._kind]
        names = [_text(name).lower() for name in attributes.get("activations", [])] or [*defaults] * self._directions
        if len(names) != len(defaults) * self._directions:
            raise NotImplementedError(f"it has {len(names)} activations instead of {len(defaults) * self._directions}")
        alphas, betas = (iter(attributes.get(f"activation_{which}", [])) for which in ("alpha", "beta"))
        found = []
        for name in names:
            if name not in FORMULAS:
                raise NotImplementedError(f"no formula computes its activation {name}")
            numbers = [next(source, d) for source, d in zip((alphas, betas), _NUMBERS.get(name, ()), strict=False)]
            if None in numbers:
                raise NotImplementedError(f"it does not give the numbers of its activation {name}")
            found.append(Activation(name, *(float(number) for number in numbers if number is not None)))
        for begin in range(0, len(found), len(defaults)):
            yield tuple(found[begin : begin + len(defaults)])

    # Its operands

    def _operands(self) -> dict[str, relax.Expr]:
        """The operands of the loop over steps, by their names in ``Cell.shapes``."""
        from tvm import relax

        d, g, h = self._directions, len(self._gates), self._hidden
        of_inputs, of_states = self._biases()
        w = self._emit(relax.op.reshape(self._node.inputs[1], (d * g * h, self._depth)))
        x = self._emit(relax.op.matmul(self._node.inputs[0], self._emit(relax.op.permute_dims(w))))
        if of_inputs is not None:
            x = self._emit(relax.op.add(x, self._emit(relax.op.reshape(of_inputs, (d * g * h,)))))
        r = self._emit(relax.op.reshape(self._node.inputs[2], (d, g, h, h)))
        r = self._emit(relax.op.permute_dims(r, [0, 2, 3, 1]))
        found = {
            "x": self._emit(relax.op.reshape(x, (*self._x[:2], d, g, h))),
            "r": self._emit(relax.op.reshape(r, (d, h, h, g, 1))),
        }
        if of_states is not None:
            found["bias"] = self._emit(relax.op.reshape(of_states, (d, g, h)))
        lengths, longest = self._input(4), self._x[0 if self._node.attributes.get("layout", 0) == 0 else 1]
        if lengths is not None and not self._holds(4, longest):
            found["lengths"] = lengths
        for place, name in ((5, "initial_h"), (6, "initial_c")):
            if self._input(place) is not None and not self._holds(place, 0):
                found[name] = self._input(place)
        if self._input(7) is not None and not self._holds(7, 0):
            found["peepholes"] = self._emit(relax.op.reshape(self._input(7), (d, 3, h)))
        return found

    def _biases(self) -> tuple[relax.Expr | None, relax.Expr | None]:
        """The biases of the inputs and of the states, each ``(D, 1, G * H)``; None: they are 0."""
        from tvm import relax

        bias, values = self._input(3), self._value(3)
        if bias is None:
            return None, None
        whole = self._emit(relax.op.reshape(bias, (self._directions, 2, self._wide)))
        halves = self._emit(relax.op.split(whole, 2, axis=1))
        zero = [values is not None and not values[:, i * self._wide :][:, : self._wide].any() for i in range(2)]
        first, second = (None if zero[i] else self._emit(relax.TupleGetItem(halves, i)) for i in range(2))
        return first, second

    def _input(self, place: int) -> relax.Expr | None:
        return self._node.inputs[place] if place < len(self._node.inputs) else None

    def _value(self, place: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
        return self._node.constants[place] if place < len(self._node.constants) else None

    def _holds(self, place: int, number: int) -> bool:
        """Whether an input is a constant that holds nothing but this number."""
        values = self._value(place)
        return values is not None and bool((values == number).all())


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in expr.ty.shape.values)


def _text(value: bytes | str | Sequence[int]) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
