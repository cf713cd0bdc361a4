"""LSTM, GRU and RNN for ONNX's reference evaluator, with all attributes and inputs.

ONNX's evaluator ignores the lengths of sequences, ``clip``, ``input_forget``, and nearly all activations. What ONNX
leaves open is done as ONNX Runtime does it: ``clip`` bounds what the activations of gates get, the state of a sequence
without steps is 0, and numbers of activations are taken in order by those that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from tilewright.tensor import Array, Floats
from tilewright.verify import freedom, special
from tilewright.verify.attributes import Attributes

__all__ = ["RECURRENT"]

_Function: TypeAlias = Callable[[Floats], Floats]
#: The activations by name in small letters, each of the value and its two numbers.
_ACTIVATIONS: dict[str, Callable[[Floats, float, float], Floats]] = {
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a, _: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    "hardsigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "leakyrelu": lambda x, a, _: np.where(x < 0, a * x, x),
    "relu": lambda x, *_: np.maximum(x, 0),
    "scaledtanh": lambda x, a, b: a * np.tanh(b * x),
    "sigmoid": lambda x, *_: special.expit(x),
    "softplus": lambda x, *_: np.logaddexp(0, x),
    "softsign": lambda x, *_: x / (1 + np.abs(x)),
    "tanh": lambda x, *_: np.tanh(x),
    "thresholdedrelu": lambda x, a, _: np.where(x > a, x, 0),
}
#: The activations that have numbers, and these where the node does not give them; None: it must.
_NUMBERS: dict[str, tuple[float | None, ...]] = {
    "affine": (None, None),
    "elu": (1.0,),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01,),
    "scaledtanh": (None, None),
    "thresholdedrelu": (None,),
}


class _Recurrent(OpRun):
    """The loop over directions and steps. A subclass has the cell.

    Attributes:
        defaults: the activations of a direction where the node names none.
    """

    op_domain = ""
    defaults: ClassVar[tuple[str, ...]]

    def _run(
        self,
        x: Floats,
        w: Floats,
        r: Floats,
        b: Floats | None = None,
        lengths: Array | None = None,
        *more: Floats | None,
        **given: object,
    ) -> tuple[Floats, ...]:
        attributes = Attributes(given)
        swapped = attributes.integer("layout", 0) == 1
        x = x.swapaxes(0, 1) if swapped else x
        steps, batch, _ = x.shape
        count, _, hidden = r.shape
        states = [state.swapaxes(0, 1) if swapped and state is not None else state for state in more[:2]]
        states += [None] * (2 - len(states))
        peepholes = more[2] if len(more) > 2 else None
        sizes = np.full(batch, steps) if lengths is None else lengths.astype(np.int64)
        if sizes.min() < 0 or sizes.max() > steps:
            raise ValueError(f"a sequence has 0 to {steps} steps, but the lengths are {sizes.tolist()!r:.80}")
        functions = list(self._read_activations(given, count))
        b = np.zeros((count, 2 * w.shape[1]), x.dtype) if b is None else b
        y, last = np.zeros((steps, count, batch, hidden), x.dtype), []
        for d in range(count):
            begin = [np.zeros((batch, hidden), x.dtype) if s is None else s[d] * (sizes > 0)[:, None] for s in states]
            backward = d == 1 or attributes.text("direction", "forward") == "reverse"
            weights = (w[d], r[d], *np.split(b[d], 2), None if peepholes is None else np.split(peepholes[d], 3))
            cell = self._cell(weights, functions[d], attributes)
            last.append(_go(x, begin, sizes, backward, cell, y[:, d]))
        ends = [np.stack([state[i] for state in last]).astype(x.dtype) for i in range(2)]
        results = (y, *ends)
        if swapped:
            results = (y.transpose(2, 0, 1, 3), *(end.swapaxes(0, 1) for end in ends))
        return results[: len(self.onnx_node.output)]

    def _read_activations(self, given: Mapping[str, object], count: int) -> Iterator[list[_Function]]:
        """The activations of each direction."""
        named = given.get("activations")
        names = [str(n).lower() for n in named] if isinstance(named, Sequence) and named else [*self.defaults] * count
        attributes = Attributes(given)
        alphas, betas = iter(attributes.numbers("activation_alpha")), iter(attributes.numbers("activation_beta"))

        def bound(name: str) -> _Function:
            numbers = [next(source, d) for source, d in zip((alphas, betas), _NUMBERS.get(name, ()), strict=False)]
            if None in numbers:
                raise NotImplementedError(f"the activation {name} without its numbers")
            alpha, beta = (*(number or 0.0 for number in numbers), 0.0, 0.0)[:2]
            return lambda x: self._freedom.vary(_ACTIVATIONS[name](x, alpha, beta), freedom.FUNCTION)

        functions = [bound(name) for name in names]
        width = len(self.defaults)
        return (functions[d * width : (d + 1) * width] for d in range(count))

    def _cell(self, weights: _Weights, functions: list[_Function], attributes: Attributes) -> _Step:
        raise NotImplementedError

    @property
    def _freedom(self) -> freedom.Freedom:
        found: freedom.Freedom = self.run_params["evaluator_cls"].freedom
        return found

    def _multiply(self, values: Floats, weights: Floats) -> Floats:
        """A product, disturbed as far as the order of its sums is free."""
        return self._freedom.disturb(values @ weights.T, freedom.SUM)


#: Weights of the inputs and of the states, their biases, and the three peepholes if there are any; of one direction.
_Weights: TypeAlias = tuple[Floats, Floats, Floats, Floats, "list[Floats] | None"]
#: The state after a step, h and c, from the step's input and the state before.
_Step: TypeAlias = Callable[[Floats, list[Floats]], list[Floats]]


def _go(
    x: Floats, state: list[Floats], sizes: NDArray[np.int64], backward: bool, cell: _Step, y: Floats
) -> list[Floats]:
    """Go through time in one direction. Writes the outputs to ``y``, and returns the last state."""
    steps, rows = len(x), np.arange(x.shape[1])
    for step in range(steps):
        alive = (step < sizes)[:, None]
        places = np.where(step < sizes, sizes - 1 - step, step) if backward else np.full(len(rows), step)
        new = cell(x[places, rows], state)
        state = [np.where(alive, n, s) for n, s in zip(new, state, strict=True)]
        y[places, rows] = np.where(alive, state[0], 0)
    return state


def _clipped(attributes: Attributes, function: _Function) -> _Function:
    bound = attributes.number("clip", 0.0)
    return (lambda x: function(np.clip(x, -bound, bound))) if bound else function


class LSTM(_Recurrent):
    """Long short-term memory; the gates are i, o, f, c."""

    defaults = ("sigmoid", "tanh", "tanh")

    def _cell(self, weights: _Weights, functions: list[_Function], attributes: Attributes) -> _Step:
        w, r, wb, rb, peepholes = weights
        f, g = (_clipped(attributes, function) for function in functions[:2])
        pi, po, pf = peepholes or [np.zeros(r.shape[1], r.dtype)] * 3
        coupled = bool(attributes.integer("input_forget", 0))

        def step(x: Floats, state: list[Floats]) -> list[Floats]:
            h, old = state
            i, o, forget, new = np.split(self._multiply(x, w) + self._multiply(h, r) + (wb + rb), 4, axis=-1)
            taken = f(i + pi * old)
            c = (1 - taken if coupled else f(forget + pf * old)) * old + taken * g(new)
            return [f(o + po * c) * functions[2](c), c]

        return step


class GRU(_Recurrent):
    """Gated recurrent units; the gates are z, r, h."""

    defaults = ("sigmoid", "tanh")

    def _cell(self, weights: _Weights, functions: list[_Function], attributes: Attributes) -> _Step:
        w, r, wb, rb, _ = weights
        f, g = (_clipped(attributes, function) for function in functions)
        after = bool(attributes.integer("linear_before_reset", 0))
        size = r.shape[1]

        def step(x: Floats, state: list[Floats]) -> list[Floats]:
            h = state[0]
            inputs = self._multiply(x, w) + wb
            z, reset = np.split(
                f(inputs[:, : 2 * size] + self._multiply(h, r[: 2 * size]) + rb[: 2 * size]), 2, axis=-1
            )
            part = self._multiply(h if after else reset * h, r[2 * size :]) + rb[2 * size :]
            new = reset * part if after else part
            return [(1 - z) * g(inputs[:, 2 * size :] + new) + z * h, state[1]]

        return step


class RNN(_Recurrent):
    """A simple recurrent network."""

    defaults = ("tanh",)

    def _cell(self, weights: _Weights, functions: list[_Function], attributes: Attributes) -> _Step:
        w, r, wb, rb, _ = weights
        f = _clipped(attributes, functions[0])
        return lambda x, state: [f(self._multiply(x, w) + self._multiply(state[0], r) + (wb + rb)), state[1]]


RECURRENT: tuple[type[OpRun], ...] = (LSTM, GRU, RNN)
