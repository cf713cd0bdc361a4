"""The description of a recurrent operator: its cell, its sizes, and the layouts of its operands and results."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from tilewright.errors import FormError
from tilewright.ops.recurrent.activations import FORMULAS
from tilewright.ops.vectors import fit_vector

__all__ = ["GATES", "KIND", "OPTIONAL", "OUTPUTS", "Activation", "Cell", "find_block"]

#: The kind of the tasks.
KIND = "recurrent"
#: The letters of a cell's gates, sorted. ONNX's order is ``iofc``, ``zrh`` and ``h``.
GATES = {"lstm": "cfio", "gru": "hrz", "rnn": "h"}
#: The number of activations of a cell.
_ACTIVATIONS = {"lstm": 3, "gru": 2, "rnn": 1}
#: Operands that may be absent, and results, each of which may be absent, in the order of parameters.
OPTIONAL = ("bias", "lengths", "initial_h", "initial_c", "peepholes")
OUTPUTS = ("y", "y_h", "y_c")


@dataclass(frozen=True)
class Activation:
    """An activation function and its two parameters.

    Attributes:
        name: a key of ``FORMULAS``.
        alpha, beta: its parameters. A function without parameters ignores them.
    """

    name: str
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class Cell:
    """A recurrent operator, in all its directions.

    The operand ``x`` has the products of the inputs with their weights for all steps, plus the bias of the inputs. The
    operand ``r`` has the recurrent weights. In shapes, T is ``steps``, B is ``batch``, D is the number of directions, G
    is the number of gates, H is ``hidden``, and L is ``block``. An order such as ``tdb`` gives the leading dimensions.

    Attributes:
        kind: ``lstm``, ``gru`` or ``rnn``.
        steps, batch, hidden: sizes.
        backward: for each direction, whether it goes through time backwards.
        activations: for each direction, the activations f, g, h of an LSTM, f, g of a GRU, or f of an RNN.
        gates: the order of the gates in ``x``, ``r`` and ``bias``: the letters ``i``, ``o``, ``f``, ``c`` of an LSTM,
            ``z``, ``r``, ``h`` of a GRU, or ``h``.
        given: the optional operands that are present, a part of ``OPTIONAL`` in its order.
        outputs: the results, a part of ``OUTPUTS`` in its order.
        clip: the largest absolute value of an activation's input; 0: there is no limit.
        coupled: whether the forget gate of an LSTM is 1 minus its input gate.
        reset_after: whether a GRU's reset gate multiplies the recurrent product, instead of the previous state.
        x_order, y_order, state_order: the orders of dimensions of ``x``, ``y``, and the initial and final states.
        block: the units in a block of ``r``. If H is no multiple of L, the last block begins at H - L.
    """

    kind: str
    steps: int
    batch: int
    hidden: int
    backward: tuple[bool, ...]
    activations: tuple[tuple[Activation, ...], ...]
    gates: str
    given: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    clip: float = 0.0
    coupled: bool = False
    reset_after: bool = False
    x_order: str = "tb"
    y_order: str = "tdb"
    state_order: str = "db"
    block: int = 1

    @property
    def directions(self) -> int:
        """The number of directions."""
        return len(self.backward)

    @property
    def blocks(self) -> int:
        """The number of blocks of units."""
        return -(-self.hidden // self.block)

    @property
    def units(self) -> tuple[int, ...]:
        """The units of all blocks, one block after the other."""
        starts = (min(number * self.block, self.hidden - self.block) for number in range(self.blocks))
        return tuple(start + lane for start in starts for lane in range(self.block))

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases of a step: gates whose recurrent products are computed together. A phase needs those before it."""
        return ("zr", "h") if self.kind == "gru" and not self.reset_after else (self.gates,)

    @property
    def work(self) -> int:
        """The number of multiply-adds of all recurrent products."""
        return self.steps * self.batch * self.directions * len(self.gates) * self.hidden * self.hidden

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the operands, then of the results, by name."""
        d, g, h = self.directions, len(self.gates), self.hidden
        state = (*self._extents(self.state_order), h)
        known = {
            "x": (*self._extents(self.x_order), d, g, h),
            "r": (d, self.blocks, h, g, self.block),
            "bias": (d, g, h),
            "lengths": (self.batch,),
            "initial_h": state,
            "initial_c": state,
            "peepholes": (d, 3, h),
            "y": (*self._extents(self.y_order), h),
            "y_h": state,
            "y_c": state,
        }
        return {name: known[name] for name in ("x", "r", *self.given, *self.outputs)}

    def _extents(self, order: str) -> tuple[int, ...]:
        extents = {"t": self.steps, "d": self.directions, "b": self.batch}
        return tuple(extents[letter] for letter in order)

    @property
    def detail(self) -> str:
        """The cell as a text, for a mark."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, detail: str) -> Cell:
        """The cell of a text that :attr:`detail` gave.

        Raises:
            FormError: the text describes no cell.
        """
        try:
            fields = json.loads(detail)
            functions = [tuple(Activation(**function) for function in some) for some in fields["activations"]]
            lists = {name: tuple(fields[name]) for name in ("backward", "given", "outputs")}
            cell = cls(**(fields | lists | {"activations": tuple(functions)}))
            cell._check()
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise FormError(f"a recurrent operator has a description of its cell, but this is none: {exc}") from exc
        return cell

    def _check(self) -> None:
        counts = (self.steps, self.batch, self.hidden, self.block)
        ordered = [tuple(n for n in OPTIONAL if n in self.given), tuple(n for n in OUTPUTS if n in self.outputs)]
        wanted = [
            all(isinstance(count, int) and count > 0 for count in counts) and self.block <= self.hidden,
            sorted(self.gates) == list(GATES[self.kind]) and ordered == [self.given, self.outputs],
            len(self.activations) == self.directions in (1, 2) and bool(self.outputs),
            all(len(some) == _ACTIVATIONS[self.kind] for some in self.activations),
            all(function.name in FORMULAS for some in self.activations for function in some),
            sorted(self.x_order) == list("bt") and sorted(self.y_order) == list("bdt"),
            sorted(self.state_order) == list("bd"),
        ]
        if not all(wanted):
            raise ValueError(f"its rule number {wanted.index(False) + 1} is broken")


def find_block(hidden: int, lanes: int) -> int:
    """The units in a block: the lanes of a vector register, or the largest smaller power of two that a cell has.

    Args:
        hidden: the units of a cell.
        lanes: the float32 numbers in a vector register.
    """
    return fit_vector(hidden, lanes)
