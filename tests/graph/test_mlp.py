"""Two dense layers of a transformer are found, and one function computes both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.agreement import network_error
from tests.models import TARGET, build_lean, defaults, normal, read, save
from tests.targets import require
from tilewright.graph.tasks import Extraction, extract
from tilewright.ops.registry import make_space


def block(path: Path, tokens: int, width: int, hidden: int, activation: str = "Gelu", second: bool = False) -> Path:
    """A layer norm, two dense layers with biases, and the sum with what went in.

    Args:
        path: where the model is written.
        tokens: rows.
        width: columns.
        hidden: columns between both layers.
        activation: between both layers: an operator, or GELU as exporters write it.
        second: whether the result also contains something else that reads the hidden rows.
    """
    erf = [
        helper.make_node("Div", ["c", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["f"]),
        helper.make_node("Mul", ["c", "f"], ["g"]),
        helper.make_node("Mul", ["g", "half"], ["h"]),
    ]
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["a"], axis=-1),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Add", ["b", "p"], ["c"]),
        *(erf if activation == "Gelu" else [helper.make_node(activation, ["c"], ["h"])]),
        helper.make_node("MatMul", ["h", "v"], ["i"]),
        helper.make_node("Add", ["i", "q"], ["j"]),
        helper.make_node("Add", ["j", "x"], ["k"]),
    ]
    if second:
        nodes.append(helper.make_node("ReduceMean", ["h"], ["m"], axes=[-1], keepdims=1))
    nodes.append(helper.make_node("Add", ["k", "m" if second else "one"], ["y"]))
    numbers = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    weights = {name: np.asarray(number, dtype=np.float32) for name, number in numbers.items()}
    weights |= {"scale": normal(width), "shift": normal(width, seed=1), "p": normal(hidden), "q": normal(width, seed=2)}
    weights |= {"w": normal(width, hidden, seed=3), "v": normal(hidden, width, seed=4)}
    return save(path, nodes, {"x": [1, tokens, width]}, [1, tokens, width], **weights)


def joined(extraction: Extraction) -> Extraction:
    return extraction.with_algorithms({}, {form for form, _ in extraction.joints})


@pytest.mark.parametrize(
    ("tokens", "width", "hidden", "activation"), [(37, 48, 96, "Gelu"), (8, 16, 32, "Relu"), (50, 64, 80, "Sigmoid")]
)
def test_one_function_takes_the_place_of_two(
    tokens: int, width: int, hidden: int, activation: str, tmp_path: Path
) -> None:
    extraction = extract(read(block(tmp_path / "m.onnx", tokens, width, hidden, activation)), TARGET)
    ((form, count),) = extraction.joints
    assert count == 1
    assert str(form).startswith("mlp")
    whole = joined(extraction)
    assert len(whole.uses) == len(extraction.uses) - 1
    (use,) = [use for use in whole.uses if use.task.kind == "mlp"]
    assert use.task == form.one
    assert make_space(use.task, TARGET).template == "mlp/1"
    assert set(form.several) <= {use.task for use in extraction.uses}
    require(TARGET)
    error = network_error(build_lean(whole, defaults(whole), tmp_path / "out"), whole.network)
    assert error is not None
    assert error <= 1e-4


@pytest.mark.parametrize(("tokens", "hidden", "second"), [(37, 96, True), (37, 97, False), (4, 96, False)])
def test_what_one_function_cannot_compute_stays_two(tokens: int, hidden: int, second: bool, tmp_path: Path) -> None:
    """Hidden rows that something else reads, columns that do not fill their last block, and few rows."""
    model = block(tmp_path / "m.onnx", tokens, 48, hidden, second=second)
    assert extract(read(model), TARGET).joints == ()
