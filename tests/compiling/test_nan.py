"""A NaN in a network's input reaches the outputs in which ONNX Runtime, or PyTorch, has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from tests.agreement import one_thread
from tests.models import built, normal, runs

pytestmark = runs

_MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,16,6,6] x) => (
    float[1,16,6,6] a, float[1,16,6,6] b, float[1,16,6,6] c, float[1,16,6,6] d, float[1,16,6,6] e, float[1,16,6,6] f
) <float zero = {0}, float six = {6}> {
    p = Conv<pads = [1, 1, 1, 1]>(x, w)  a = Relu(p)
    q = Conv<pads = [1, 1, 1, 1]>(x, v)  b = Clip(q, zero, six)
    c = Max(x, zero)
    d = Elu(x)
    e = Clip(x, zero, six)
    f = HardSwish(x)
}"""


def test_activations_of_an_onnx_model_keep_it(tmp_path: Path) -> None:
    model = parser.parse_model(_MODEL)
    for name, seed in (("w", 1), ("v", 2)):
        model.graph.initializer.append(numpy_helper.from_array(normal(16, 16, 3, 3, seed=seed), name))
    onnx.save(model, tmp_path / "m.onnx")
    _, executable = built(tmp_path / "m.onnx", tmp_path / "out", lean=False)
    x = normal(1, 16, 6, 6)
    x[0, 3, 2, 1] = np.nan
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), one_thread(), providers=["CPUExecutionProvider"])
    for found, expected in zip(executable(x), session.run(None, {"x": x}), strict=True):
        assert np.isnan(expected).any()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_activations_of_a_pytorch_program_keep_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Several(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x):  # type: ignore[no-untyped-def]
            f = torch.nn.functional
            return f.relu(x), f.relu6(x), x.clamp(min=-1.0, max=1.0), f.elu(x), f.hardtanh(x)

    x = torch.from_numpy(normal(4, 64))
    x[1, 7] = np.nan
    program = torch.export.export(Several().eval(), (x,))
    _, executable = built(program, tmp_path / "out", lean=False)
    for found, expected in zip(executable(x), Several()(x), strict=True):
        assert np.isnan(expected.numpy()).sum() == 1
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
