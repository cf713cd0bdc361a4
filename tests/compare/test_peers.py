"""Each runtime that an executable is compared with gives the model's outputs, or says what to install."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.models import conv_model, normal
from tilewright.compare.peers import PEERS
from tilewright.errors import MeasureError
from tilewright.frontend.load import load
from tilewright.frontend.onnx.data import save_onnx
from tilewright.frontend.shapes import ShapeRequest

NEEDS = {"openvino": "openvino", "pytorch": "torch", "pytorch-compiled": "torch", "onnxruntime": "onnxruntime"}


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_missing_package_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MeasureError, match=f"{NEEDS[name]} is not installed; install it with: pip install"):
        PEERS[name](str(tmp_path / "model.onnx"), "native")


@pytest.mark.parametrize(
    ("name", "packages"), [("openvino", ["openvino"]), ("pytorch", ["torch", "onnx2torch"]), ("untuned", [])]
)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_a_peer_gives_what_onnx_runtime_gives(name: str, packages: list[str], tmp_path: Path) -> None:
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"needs {missing}")
    model, x = conv_model(tmp_path / "m.onnx"), normal(1, 8, 10, 10)
    (reference,) = PEERS["onnxruntime"](str(model), "native")(x)
    peer = PEERS[name](str(model), "native")
    (result,) = peer(x)
    np.testing.assert_allclose(np.float64(result), np.float64(reference), rtol=1e-3, atol=1e-4)
    assert len(peer.time([x], 3)) == 3


def test_onnx_runtime_takes_a_model_whose_condition_is_fixed(tmp_path: Path) -> None:
    """ONNX Runtime 1.32 ends its process where it folds a condition that leads to branches out of order."""
    text = """<ir_version: 8, opset_import: ["" : 16]>
        g (float[1,64] x, int64 rate) => (float[1,64] y) {
            usual = Constant<value_int = 16000>()
            high = Equal(rate, usual)
            y = If (high) <
                then_branch = a () => (float[1,64] p) { p = Relu(x) },
                else_branch = b () => (float[1,64] q) { q = Neg(x) }
            >
        }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    network = load(tmp_path / "m.onnx", ShapeRequest(values={"rate": (16000.0,)}))
    assert network.onnx is not None
    save_onnx(network.onnx, tmp_path / "fixed.onnx")
    peer, x = PEERS["onnxruntime"](str(tmp_path / "fixed.onnx"), "native"), normal(1, 64)
    assert [spec.name for spec in peer.inputs] == ["x"]
    np.testing.assert_array_equal(peer(x)[0], np.maximum(x, 0))
