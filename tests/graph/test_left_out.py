"""Operators that fail only together: one of them moves to a segment, and the others stay compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frontend.onnx.small import by_runtime, read
from tests.models import TARGET, build_lean, normal, runs
from tilewright.errors import UnsupportedOperatorError
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.graph import left_out
from tilewright.graph.tasks import Extraction, extract
from tilewright.target import Target

pytestmark = runs

TEXT = """
g (float[64,512] x) => (float[64,512] y) {
    a = Relu(x) b = Sin(a) c = Softmax(b) d = Cos(c) e = Tanh(d) f = Neg(e) y = Exp(f)
}
"""


@pytest.mark.parametrize("pair", [{"Cos", "Tanh"}, {"Relu", "Sin"}, {"Neg", "Exp"}])
def test_one_of_two_operators_that_fail_together_moves(
    pair: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_pair(network: Network, target: Target) -> Extraction:
        assert network.partition is not None
        if pair <= {node.op_type for node in network.partition.compiled.graph.node}:
            raise UnsupportedOperatorError("these two cannot be fused")
        return extract(network, target)

    model = read(TEXT)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    monkeypatch.setattr(left_out, "extract", refuse_pair)
    extraction = left_out.extract_all(load(tmp_path / "m.onnx"), TARGET)
    [segment] = extraction.network.segments
    assert len(segment.operators) == 1
    assert set(segment.operators) < pair
    assert "together with its neighbours" in segment.reasons[0]
    assert "these two cannot be fused" in segment.reasons[0]
    x = normal(64, 512)
    [y] = build_lean(extraction, {}, tmp_path / "out")(x)
    assert abs(y - by_runtime(model, [x])[0]).max() < 1e-5
