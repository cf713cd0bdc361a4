"""Loads and stores elements of a recurrent operator's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.ops.elementwise.float32 import clamp, let, number, select
from tilewright.ops.recurrent.activations import FORMULAS
from tilewright.ops.recurrent.cell import Cell
from tilewright.ops.statements import bound_index, load, make_index, store
from tilewright.ops.written import declare

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Elements", "Place"]


@dataclass(frozen=True)
class Place:
    """The indices of a statement in the loops of the program.

    Attributes:
        direction: the number of the direction.
        first: the strand's first row in the batch.
        step: the number of the step.
        row: the row in the strand.
        block: the block of units.
        lane: the unit in the block.
        slot: the indices of the row and the block among the registers.
    """

    direction: Expr
    first: Expr
    step: Expr
    row: Expr = None
    block: Expr = None
    lane: Expr = None
    slot: tuple[Expr, ...] = ()

    @property
    def batch(self) -> Expr:
        """The row in the batch."""
        return self.first + self.row


class Elements:
    """The tensors of an operator.

    A step reads one half of the buffers of states, and writes the other.

    Attributes:
        buffers: the buffers besides the parameters.
        params: the parameters by name.
        h: the states of a strand, ``(2, rows, H)``.
        reset: the states times the reset gate, ``(rows, H)``; None if one phase computes all gates.

    Args:
        cell: the operator.
        params: one buffer for each of ``cell.shapes``.
        rows: the rows of the batch in a strand.
    """

    def __init__(self, cell: Cell, params: Sequence[Var], rows: int) -> None:
        self.cell = cell
        self.params = dict(zip(cell.shapes, params, strict=True))
        self.buffers: list[Var] = []
        self.h = self.allocate("h", (2, rows, cell.hidden))
        self._c = self.allocate("c", (2, rows, cell.hidden)) if cell.kind == "lstm" else None
        two = len(cell.phases) > 1
        self._update = self.allocate("update", (rows, cell.hidden)) if two else None
        self.reset = self.allocate("reset", (rows, cell.hidden)) if two else None

    def allocate(self, name: str, shape: tuple[int, ...], scope: str = "global") -> Var:
        """A new buffer of float32; ``scope`` ``local``: registers."""
        buffer = declare(name, shape, scope=scope)
        self.buffers.append(buffer)
        return buffer

    # Before and after the loop over steps

    def begin(self, at: Place) -> list[Stmt]:
        """Store the initial state. For a sequence without steps, it is 0, as in ONNX Runtime."""
        stores = []
        for buffer, name in ((self.h, "initial_h"), (self._c, "initial_c")):
            if buffer is None:
                continue
            value = number(0.0)
            if name in self.params:
                value = load(self.params[name], [*self._along(self.cell.state_order, at), self._unit(at)])
                if "lengths" in self.params:
                    value = select(make_index(0) < self._length(at), value, number(0.0))
            stores.append(store(buffer, value, [make_index(0), at.row, self._unit(at)]))
        return stores

    def end(self, at: Place) -> list[Stmt]:
        """Store the final state, as far as it is a result."""
        last = make_index(self.cell.steps % 2)
        return [
            store(
                self.params[name],
                load(buffer, [last, at.row, self._unit(at)]),
                [*self._along(self.cell.state_order, at), self._unit(at)],
            )
            for name, buffer in (("y_h", self.h), ("y_c", self._c))
            if name in self.params
        ]

    # Loads of a step

    def load_input(self, gate: str, at: Place) -> Expr:
        """The product of the step's input."""
        along = self._along(self.cell.x_order, at)
        return load(self.params["x"], [*along, at.direction, self._number(gate), self._unit(at)])

    def load_start(self, gate: str, at: Place) -> Expr:
        """The value to which the recurrent product of a gate is added."""
        alone = self.cell.reset_after and gate == "h"  # the reset gate multiplies the recurrent part
        value = number(0.0) if alone else self.load_input(gate, at)
        if "bias" in self.params:
            bias = load(self.params["bias"], [at.direction, self._number(gate), self._unit(at)])
            value = bias if alone else value + bias
        return value

    def load_weight(self, gate: str, at: Place, k: Expr) -> Expr:
        """The recurrent weight of unit ``k`` of the previous state."""
        return load(self.params["r"], [at.direction, at.block, k, self._number(gate), at.lane])

    def load_peephole(self, which: int, at: Place) -> Expr | None:
        """The peephole weight of the gate number ``which`` of i, o, f; None: there is none."""
        if "peepholes" not in self.params:
            return None
        return load(self.params["peepholes"], [at.direction, make_index(which), self._unit(at)])

    def load_state(self, name: str, at: Place) -> Expr:
        """The state ``h`` or ``c`` before the step."""
        return load(self._states(name), [at.step % 2, at.row, self._unit(at)])

    def load_update(self, at: Place) -> Expr:
        """The update gate of a GRU, which the first phase has stored."""
        return load(self._update, [at.row, self._unit(at)])

    # Stores of a step

    def store_gates(self, update: Expr, reset: Expr, at: Place) -> list[Stmt]:
        """Store the update gate of a GRU, and the state times its reset gate."""
        place = [at.row, self._unit(at)]
        return [store(self._update, update, place), store(self.reset, reset, place)]

    def store_state(self, values: Mapping[str, Expr], at: Place) -> list[Stmt]:
        """Store the state after the step, ``h`` and ``c``, and the step's output."""
        kept = at.step < self._length(at) if "lengths" in self.params else None
        stores = []
        for name, value in values.items():
            new = value if kept is None else select(kept, value, self.load_state(name, at))
            stores.append(store(self._states(name), new, [(at.step + 1) % 2, at.row, self._unit(at)]))
        if "y" in self.params:
            output = values["h"] if kept is None else select(kept, values["h"], number(0.0))
            stores.append(store(self.params["y"], output, [*self._along(self.cell.y_order, at), self._unit(at)]))
        return stores

    def activate(self, position: int, at: Place, value: Expr, clipped: bool = True) -> Expr:
        """Apply the activation at ``position`` among f, g, h. It may differ between directions."""
        if clipped and self.cell.clip:
            value = clamp(value, -self.cell.clip, self.cell.clip)
        functions = [some[position] for some in self.cell.activations]

        def apply(which: int, x: Expr) -> Expr:
            function = functions[which]
            return FORMULAS[function.name](x, function.alpha, function.beta)

        if len({*functions}) == 1:
            return apply(0, value)
        return let(value, lambda x: select(at.direction < make_index(1), apply(0, x), apply(1, x)))

    # Indices

    def _states(self, name: str) -> Var:
        return self.h if name == "h" else self._c

    def _number(self, gate: str) -> Expr:
        return make_index(self.cell.gates.index(gate))

    def _unit(self, at: Place) -> Expr:
        """The number of the unit."""
        cell = self.cell
        start = at.block * cell.block
        return (start if cell.hidden % cell.block == 0 else bound_index(start, cell.hidden - cell.block)) + at.lane

    def _along(self, order: str, at: Place) -> list[Expr]:
        """The indices of the leading dimensions in ``order``."""
        return [self._time(at) if letter == "t" else at.direction if letter == "d" else at.batch for letter in order]

    def _length(self, at: Place) -> Expr:
        """The number of steps of a row's sequence."""
        from tvm import tirx

        return tirx.Cast("int64", load(self.params["lengths"], [at.batch]))

    def _time(self, at: Place) -> Expr:
        """The time index of a step. A backward direction begins at the end of its row's sequence."""
        from tvm import tirx

        steps = make_index(self.cell.steps)
        if not any(self.cell.backward):
            return at.step
        back = steps - 1 - at.step
        if "lengths" in self.params:
            # Lengths are inputs of the network, and no index may be outside of the tensors.
            length = self._length(at)
            back = tirx.Select(at.step < length, tirx.min(length, steps) - 1 - at.step, at.step)
        return back if all(self.cell.backward) else tirx.Select(at.direction < make_index(1), at.step, back)
