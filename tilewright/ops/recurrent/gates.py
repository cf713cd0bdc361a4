"""The end of a step of a recurrent operator: computes the new state of a unit from its products, in registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.ops.elementwise.float32 import number
from tilewright.ops.recurrent.elements import Elements, Place
from tilewright.ops.statements import load, make_index, store

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["Registers", "finish_phase"]


class Registers:
    """The registers of one unit, one for each gate of a phase.

    Args:
        buffer: the registers of a tile, ``(rows, blocks, gates, lanes)``.
        at: the place of the unit.
        gates: the letters of the gates.
    """

    def __init__(self, buffer: Var, at: Place, gates: str) -> None:
        self._buffer, self._at, self.gates = buffer, at, gates

    def get(self, gate: str) -> Expr:
        """The value in the register of a gate."""
        return load(self._buffer, self._place(gate))

    def put(self, gate: str, value: Expr) -> Stmt:
        """The statement that stores a value to the register of a gate."""
        return store(self._buffer, value, self._place(gate))

    def _place(self, gate: str) -> list[Expr]:
        return [*self._at.slot, make_index(self.gates.index(gate)), self._at.lane]


def finish_phase(elements: Elements, at: Place, registers: Registers) -> list[Stmt]:
    """The statements that end a phase for one unit. Its registers hold the products plus the inputs.

    f, g and h are the activations of ONNX, C and H the previous state, and C' and H' the new one:

    - LSTM: i = f(i + Pi C); f = f(f + Pf C); C' = f C + i g(c); o = f(o + Po C'); H' = o h(C')
    - GRU, two phases: z = f(z); r = f(r) H, which the product of the second phase reads; then H' = (1 - z) g(h) + z H
    - GRU, one phase: h holds the recurrent product alone; H' = (1 - f(z)) g(x + f(r) h) + f(z) H
    - RNN: H' = f(h)
    """
    kind = elements.cell.kind
    if kind == "lstm":
        return _finish_lstm(elements, at, registers)
    if kind == "gru":
        finish = {"zr": _begin_gru, "h": _end_gru}.get(registers.gates, _finish_gru)
        return finish(elements, at, registers)
    stored = registers.put("h", elements.activate(0, at, registers.get("h")))
    return [stored, *elements.store_state({"h": registers.get("h")}, at)]


def _finish_lstm(elements: Elements, at: Place, registers: Registers) -> list[Stmt]:
    get, put, before = registers.get, registers.put, elements.load_state("c", at)

    def gate(letter: str, which: int, state: Expr) -> Stmt:
        weight = elements.load_peephole(which, at)
        value = get(letter) if weight is None else get(letter) + weight * state
        return put(letter, elements.activate(0, at, value))

    return [
        gate("i", 0, before),
        put("f", number(1.0) - get("i")) if elements.cell.coupled else gate("f", 2, before),
        put("c", elements.activate(1, at, get("c"))),
        put("c", get("f") * before + get("i") * get("c")),  # from here on the new state
        gate("o", 1, get("c")),
        put("o", get("o") * elements.activate(2, at, get("c"), clipped=False)),
        *elements.store_state({"h": get("o"), "c": get("c")}, at),
    ]


def _begin_gru(elements: Elements, at: Place, registers: Registers) -> list[Stmt]:
    get, put = registers.get, registers.put
    return [
        put("z", elements.activate(0, at, get("z"))),
        put("r", elements.activate(0, at, get("r")) * elements.load_state("h", at)),
        *elements.store_gates(get("z"), get("r"), at),
    ]


def _end_gru(elements: Elements, at: Place, registers: Registers) -> list[Stmt]:
    candidate = registers.put("h", elements.activate(1, at, registers.get("h")))
    return [candidate, *_mix(elements, at, registers, elements.load_update(at))]


def _finish_gru(elements: Elements, at: Place, registers: Registers) -> list[Stmt]:
    get, put = registers.get, registers.put
    return [
        put("z", elements.activate(0, at, get("z"))),
        put("r", elements.activate(0, at, get("r"))),
        put("h", elements.activate(1, at, elements.load_input("h", at) + get("r") * get("h"))),
        *_mix(elements, at, registers, get("z")),
    ]


def _mix(elements: Elements, at: Place, registers: Registers, update: Expr) -> list[Stmt]:
    """The new state of a GRU: a mixture of its candidate and the previous state."""
    mixed = (number(1.0) - update) * registers.get("h") + update * elements.load_state("h", at)
    return [registers.put("h", mixed), *elements.store_state({"h": registers.get("h")}, at)]
