"""The reference of LSTM, GRU and RNN agrees with ONNX Runtime, and with ONNX's own evaluator where that is complete."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from tests.agreement import one_thread
from tests.recurrent_models import VARIANTS, make_inputs, make_model
from tilewright.verify.evaluator import OnnxEvaluator


@pytest.mark.parametrize("name", VARIANTS)
def test_it_agrees_with_onnx_runtime(name: str) -> None:
    model = make_model(**VARIANTS[name])
    inputs = make_inputs(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), one_thread(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, dict(inputs))
    found = OnnxEvaluator(model, list(inputs), True).run(list(inputs.values()))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == np.float64
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_batches_first_agree_with_onnx(kind: str) -> None:
    """ONNX Runtime does not have this layout."""
    model = make_model(kind, layout=1, state=True, direction="bidirectional")
    inputs = make_inputs(model)
    wanted = ReferenceEvaluator(model).run(None, dict(inputs))
    found = OnnxEvaluator(model, list(inputs), True).run(list(inputs.values()))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_rounding_is_told(kind: str) -> None:
    """An evaluation that is disturbed as correct programs differ is off by a little, from the first step on."""
    model = make_model(kind, steps=40, hidden=32)
    inputs = list(make_inputs(model).values())
    narrow = OnnxEvaluator(model, ["X"], False)
    exact = OnnxEvaluator(model, ["X"], True).run(inputs)[0]
    plain = np.abs(narrow.run(inputs)[0] - exact)
    narrow.freedom.choose(1, 1.0)
    disturbed = np.abs(narrow.run(inputs)[0] - exact)
    assert 1e-7 < disturbed[0].max() < 1e-5
    assert plain.max() < disturbed.max() < 1e-4


def test_lengths_beyond_the_steps_are_refused() -> None:
    """As ONNX Runtime refuses them."""
    model = make_model("LSTM", lengths=[3, 6])
    with pytest.raises(ValueError, match="0 to 5 steps"):
        OnnxEvaluator(model, ["X"], True).run(list(make_inputs(model).values()))
