"""The reference is in float64 if possible, otherwise ONNX Runtime. Its death ends no other process."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.verify.onnx_models import by_onnxruntime, model, network, normal
from tilewright.errors import MeasureError
from tilewright.verify import reference as module
from tilewright.verify.inputs import find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import open_reference
from tilewright.verify.reference_process import RuntimeSide
from tilewright.verify.verdict import Outcome

_SMALL = model(
    [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Sigmoid", ["m"], ["y"])],
    {"x": ([3, 8], "float32")},
    {"y": "float32"},
    w=normal(8, 5),
)


class Dying(RuntimeSide):
    """An ONNX Runtime that crashes its process."""

    def __init__(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Wrong(RuntimeSide):
    """An ONNX Runtime with other outputs."""

    def outputs(self, inputs: Any) -> list[Any]:
        return [array + 1 for array in super().outputs(inputs)]


def test_it_is_float64() -> None:
    x = normal(3, 8)
    with open_reference(network(_SMALL)) as reference:
        (found,) = reference.outputs([x])
        assert reference.precision == "float64"
        assert reference.problem == ""
        assert reference.dtypes == ("float32",)
        (rounded,) = reference.rounded([x], 0, 1.0)
    assert found.dtype == np.float64
    assert rounded.dtype == np.float32
    assert 0 < np.abs(found - rounded).max() < 1e-5
    np.testing.assert_allclose(by_onnxruntime(_SMALL, [x])[0], found, atol=1e-6)


def test_an_onnxruntime_that_dies_costs_only_a_cross_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RuntimeSide", Dying)
    with open_reference(network(_SMALL)) as reference:
        found = find_trials(network(_SMALL), reference)
        assert found.precision == "float64"
        # ONNX Runtime would be judged wrong: its sigmoid is 0 below -18, where large inputs lead.
        assert judge(lambda xs: [array.astype(np.float32) for array in reference.outputs(xs)], found).right


@pytest.mark.parametrize("shared", [False, True])
def test_products_of_bytes_do_not_saturate(shared: bool) -> None:
    """Without VNNI, ONNX Runtime's own choice limits the sum of two products to int16, and would be the reference.

    Its exact kernels do not take a weight that two operators read: that costs the cross-check.
    """
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    for n in range(1 + shared):
        nodes += [
            helper.make_node("MatMulInteger", ["q", "w", "z"], [f"p{n}"]),
            helper.make_node("Cast", [f"p{n}"], [f"f{n}"], to=1),
            helper.make_node("Mul", [f"f{n}", "s"], [f"y{n}"]),
        ]
    ends = {f"y{n}": "float32" for n in range(1 + shared)}
    made = model(nodes, {"x": ([4, 64], "float32")}, ends, w=np.full((64, 16), 127, np.int8))
    x = 1.0 + np.abs(normal(4, 64))
    with open_reference(network(made)) as reference:
        found = reference.outputs([x])
        assert reference.precision == "float64"
    for y in found:
        np.testing.assert_allclose(y, x.astype(np.float64) @ np.full((64, 16), 127.0), rtol=0.01)


def test_both_die(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RuntimeSide", Dying)
    monkeypatch.setattr(module, "EvaluatorSide", Dying)
    with open_reference(network(_SMALL)) as reference:
        found = find_trials(network(_SMALL), reference)
    verdict = judge(lambda xs: by_onnxruntime(_SMALL, xs), found)
    assert verdict.outcome is Outcome.UNDECIDABLE
    assert verdict.precision == ""
    assert "SIGSEGV" in verdict.evidence


def test_onnxruntime_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the evaluator and ONNX Runtime cannot both be right, ONNX Runtime is the reference, as the verdict says."""
    monkeypatch.setattr(module, "RuntimeSide", Wrong)
    with open_reference(network(_SMALL)) as reference:
        found = find_trials(network(_SMALL), reference)
    assert found.precision == "float32"
    verdict = judge(lambda xs: [by_onnxruntime(_SMALL, xs)[0] + 1], found)
    assert verdict.right
    assert "disagree with ONNX Runtime" in verdict.evidence


def test_an_operator_that_the_evaluator_lacks() -> None:
    made = model([helper.make_node("GlobalLpPool", ["x"], ["y"])], {"x": ([1, 2, 5, 5], "float32")}, {"y": "float32"})
    with open_reference(network(made)) as reference:
        found = find_trials(network(made), reference)
    assert found.precision == "float32"
    assert found.problem == ""
    assert "GlobalLpPool" in found.note
    assert judge(lambda xs: by_onnxruntime(made, xs), found).right
    assert judge(lambda xs: [-by_onnxruntime(made, xs)[0]], found).wrong


def test_what_it_refuses_is_an_error_of_the_inputs() -> None:
    made = model(
        [helper.make_node("Gather", ["w", "i"], ["y"])], {"i": ([2], "int64")}, {"y": "float32"}, w=normal(4, 3)
    )
    with open_reference(network(made)) as reference:
        with pytest.raises(MeasureError):
            reference.outputs([np.array([0, 4])])
        np.testing.assert_array_equal(reference.outputs([np.array([0, -4])])[0], normal(4, 3)[[0, 0]])


def test_a_quantised_network() -> None:
    """The network rounds to few integers. Rounding decides whole steps, for which neither reference is given up."""
    scale, zero = np.array(0.05, np.float32), np.array(128, np.uint8)
    nodes = []
    name = "x"
    for i in range(3):
        nodes += [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"q{i}"]),
            helper.make_node("DequantizeLinear", [f"q{i}", "scale", "zero"], [f"d{i}"]),
            helper.make_node("Conv", [f"d{i}", "w"], [f"c{i}"], pads=[1, 1, 1, 1]),
        ]
        name = f"c{i}"
    nodes += [
        helper.make_node("QuantizeLinear", [name, "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    w = (0.1 * normal(16, 16, 3, 3)).astype(np.float32)
    made = model(nodes, {"x": ([1, 16, 20, 20], "float32")}, {"y": "float32"}, scale=scale, zero=zero, w=w)
    with open_reference(network(made)) as reference:
        found = find_trials(network(made), reference)
    assert found.precision == "float64"
    assert judge(lambda xs: by_onnxruntime(made, xs), found).right
    assert judge(lambda xs: [np.roll(by_onnxruntime(made, xs)[0], 1, axis=1)], found).wrong


def test_float16() -> None:
    w = (0.2 * normal(8, 8, 3, 3)).astype(np.float16)
    made = model(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Sigmoid", ["c"], ["y"])],
        {"x": ([1, 8, 12, 12], "float16")},
        {"y": "float16"},
        w=w,
    )
    with open_reference(network(made)) as reference:
        found = find_trials(network(made), reference)
    assert found.precision == "float64"
    assert found.dtypes == ("float16",)
    assert judge(lambda xs: by_onnxruntime(made, xs), found).right
    assert judge(lambda xs: by_onnxruntime(made, [-x for x in xs]), found).wrong
