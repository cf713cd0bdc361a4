"""Converters of LSTM, GRU and RNN, with all layers and directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.frontend.recurrent import CellOperands, emit_recurrent
from tilewright.frontend.torch.converters.operands import Operands, Results, converter
from tilewright.frontend.torch.recurrent import RECURRENT
from tilewright.ops.recurrent import Activation, Cell

if TYPE_CHECKING:
    from tvm import relax

__all__: list[str] = []

#: The gates in PyTorch's order, and the activations, by the name of the operator.
_CELLS = {
    "lstm": ("lstm", "ifco", ("sigmoid", "tanh", "tanh")),
    "gru": ("gru", "rzh", ("sigmoid", "tanh")),
    "rnn_tanh": ("rnn", "h", ("tanh",)),
    "rnn_relu": ("rnn", "h", ("relu",)),
}


@converter(*RECURRENT)
def _recurrent(o: Operands) -> Results:
    """All layers, one after the other. The final states are those of each layer and direction."""
    from tvm import relax

    lstm = o.node.target.__name__.startswith("lstm")
    states = o.nodes("hx") if lstm else [o.given("hx")]
    x, finals = o.expr("input"), [[] for _ in states]  # type: ignore[var-annotated]
    for layer in range(o.integer("num_layers")):
        made = _emit_layer(o, x, layer, states)
        x = made[0]
        for found, final in zip(finals, made[1:], strict=True):
            found.append(final)
    whole = [parts[0] if len(parts) == 1 else o.emit(relax.op.concat(parts, 0)) for parts in finals]
    return [x, *whole]


def _emit_layer(o: Operands, x: relax.Expr, layer: int, states: list[object]) -> list[relax.Expr]:
    """The outputs of a layer, with its directions side by side, then its final states, ``(D, B, H)`` each."""
    kind, gates, activations = _CELLS[o.node.target.__name__.partition(".")[0]]
    first = bool(o.given("batch_first"))
    directions, kinds = 2 if o.given("bidirectional") else 1, 4 if o.given("has_biases") else 2
    weights = o.exprs("params")[layer * kinds : (layer + 1) * kinds]
    outer = [int(extent) for extent in x.ty.shape.values][:2]
    batch, steps = outer if first else outer[::-1]
    hidden = int(weights[1].ty.shape.values[-1])  # type: ignore[union-attr]
    names = ("y_h", "y_c")[: len(states)]
    cell = Cell(
        kind,
        steps,
        batch,
        hidden,
        (False, True)[:directions],
        (tuple(Activation(name) for name in activations),) * directions,
        gates,
        outputs=("y", *names),
        reset_after=kind == "gru",
        x_order="bt" if first else "tb",
        y_order="btd" if first else "tbd",
    )
    given = ("initial_h", "initial_c")
    initial = {
        name: _part(o, state, layer, directions)
        for name, state in zip(given, states, strict=False)
        if not _is_zero(o, state)
    }
    of_inputs, of_states = (weights[2], weights[3]) if kinds == 4 else (None, None)
    operands = CellOperands(x, weights[0], weights[1], of_inputs, of_states, initial)
    made = emit_recurrent(o.builder, cell, operands)
    return [o.reshape(made["y"], [*outer, directions * hidden]), *(made[name] for name in names)]


def _is_zero(o: Operands, state: object) -> bool:
    return state in o.weights and not bool(o.weights[state].any())


def _part(o: Operands, state: object, layer: int, directions: int) -> relax.Expr:
    """The initial state of one layer."""
    from tvm import relax

    whole = o.values[state]
    begin, end = layer * directions, (layer + 1) * directions
    return o.emit(relax.op.strided_slice(whole, [0], [begin], [end], assume_inbound=True))
