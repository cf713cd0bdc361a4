"""Small ONNX models of one recurrent operator, in all its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["VARIANTS", "make_inputs", "make_model"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
#: What differs from a forward operator with a bias, by the name of the variant. ``lengths`` are those of its sequences,
#: ``state`` says whether it has an initial state, ``given`` whether its weights are inputs of the model.
VARIANTS: dict[str, dict[str, Any]] = {
    "lstm": {"kind": "LSTM"},
    "lstm, one step": {"kind": "LSTM", "steps": 1, "batch": 1, "hidden": 32, "state": True},
    "lstm, reverse": {"kind": "LSTM", "direction": "reverse", "outputs": ("", "Y_h", "Y_c")},
    "lstm, both": {"kind": "LSTM", "direction": "bidirectional", "hidden": 12, "state": True},
    "lstm, lengths": {"kind": "LSTM", "direction": "bidirectional", "lengths": [5, 0, 3], "batch": 3, "state": True},
    "lstm, peepholes": {"kind": "LSTM", "peepholes": True, "state": True, "outputs": ("Y",)},
    "lstm, clipped": {"kind": "LSTM", "clip": 0.3, "input_forget": 1},
    "lstm, weights given": {"kind": "LSTM", "given": True, "hidden": 19, "outputs": ("", "Y_h")},
    "lstm, activations": {
        "kind": "LSTM",
        "direction": "bidirectional",
        "activations": ["HardSigmoid", "Softsign", "Affine", "Sigmoid", "LeakyRelu", "Tanh"],
        "activation_alpha": [0.3, 0.5, 0.02],
        "activation_beta": [0.4, 0.1],
    },
    "gru": {"kind": "GRU"},
    "gru, both": {"kind": "GRU", "direction": "bidirectional", "state": True, "clip": 0.7},
    "gru, reset after": {"kind": "GRU", "linear_before_reset": 1, "state": True},
    "gru, reset after, lengths": {
        "kind": "GRU",
        "linear_before_reset": 1,
        "direction": "reverse",
        "lengths": [2, 5, 4],
        "batch": 3,
    },
    "gru, without bias": {"kind": "GRU", "linear_before_reset": 1, "bias": False, "outputs": ("", "Y_h")},
    "rnn": {"kind": "RNN", "direction": "bidirectional", "state": True},
    "rnn, relu": {"kind": "RNN", "activations": ["Relu"], "batch": 1, "hidden": 3},
    "rnn, one unit": {"kind": "RNN", "hidden": 1, "steps": 2, "activations": ["Softplus"]},
}


def make_model(
    kind: str,
    steps: int = 5,
    batch: int = 2,
    depth: int = 6,
    hidden: int = 20,
    outputs: Sequence[str] = ("Y", "Y_h", "Y_c"),
    **options: Any,
) -> onnx.ModelProto:
    """A model of one operator, as ``VARIANTS`` describe it. ``options`` has the rest, and the node's attributes."""
    parts = ("bias", "lengths", "state", "peepholes", "given")
    attributes = {name: value for name, value in options.items() if name not in parts}
    swapped = attributes.get("layout", 0)
    count = 2 if attributes.get("direction") == "bidirectional" else 1
    wide = _GATES[kind] * hidden
    rng = np.random.default_rng(3)

    def weight(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * 0.4).astype(np.float32)

    state_shape = (batch, count, hidden) if swapped else (count, batch, hidden)
    constants: dict[str, NDArray[Any]] = {"W": weight(count, wide, depth), "R": weight(count, wide, hidden)}
    if options.get("bias", True):
        constants["B"] = weight(count, 2 * wide)
    if options.get("lengths") is not None:
        constants["lengths"] = np.asarray(options["lengths"], dtype=np.int32)
    inputs = {"X": (batch, steps, depth) if swapped else (steps, batch, depth)}
    if options.get("state"):
        inputs |= {"h0": state_shape} | ({"c0": state_shape} if kind == "LSTM" else {})
    if options.get("peepholes"):
        constants["P"] = weight(count, 3 * hidden)
    names = [name if name in inputs or name in constants else "" for name in ("X", "W", "R", "B", "lengths", "h0")]
    if kind == "LSTM":
        names += [name if name in inputs or name in constants else "" for name in ("c0", "P")]
    if options.get("given"):
        inputs |= {name: array.shape for name, array in constants.items() if name != "lengths"}
    made = [name for name in outputs if kind == "LSTM" or name != "Y_c"]
    node = helper.make_node(kind, names, made, name="cell", hidden_size=hidden, **attributes)
    y_shape = (batch, steps, count, hidden) if swapped else (steps, count, batch, hidden)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, y_shape if name == "Y" else state_shape)
            for name in made
            if name
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name not in inputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_inputs(model: onnx.ModelProto) -> Mapping[str, NDArray[np.float32]]:
    """Random inputs of a model, by name."""
    rng = np.random.default_rng(4)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return {name: (rng.standard_normal(shape) * 0.5).astype(np.float32) for name, shape in shapes.items()}
