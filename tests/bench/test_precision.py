"""The rows of ``bench.precision``: every time beside Tilewright's float32."""

from __future__ import annotations

import numpy as np

from bench.precision import make_rows
from tilewright.measure.peers import Peer


def peer(name: str, seconds: float, output: float) -> Peer:
    blocks = {turn: [seconds * (1 + 0.01 * turn)] * 5 for turn in range(4)}
    return Peer(name, blocks=blocks, outputs=[np.full(4, output)])


def test_rows_have_ratios_and_errors_to_the_own_float32() -> None:
    failed = Peer("openvino-int8", error="not installed")
    own = peer("tilewright-float32", 2e-3, 1.0)
    rows = make_rows("net", [own, peer("tilewright-int8", 5e-4, 1.1), failed])
    assert [(row["runtime"], row["precision"]) for row in rows] == [
        ("tilewright", "float32"),
        ("tilewright", "int8"),
        ("openvino", "int8"),
    ]
    assert rows[0]["ratio"] == 1.0
    assert rows[0]["error"] == 0.0
    assert np.isclose(rows[1]["ratio"], 0.25, rtol=0.02)
    assert np.isclose(rows[1]["error"], 0.1)
    assert rows[2] == {"model": "net", "runtime": "openvino", "precision": "int8", "failure": "not installed"}
