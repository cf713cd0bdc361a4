"""Operators of ONNX Runtime's own domain are replaced by operators of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.frontend.onnx.rewriting.computed import check_same, int32, int64, make, rewritten, run

DOMAIN = "com.microsoft"


def floats(*shape: int) -> Any:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape).astype(np.float32)


def whole(*shape: int, below: int) -> Any:
    return np.random.default_rng(len(shape)).integers(0, below, shape).astype(np.int32)


X, Y = floats(2, 3, 8), floats(8)
QKV = [floats(2, 3, 16), floats(2, 5, 16), floats(2, 5, 16)]
LEFT_PADDED = np.asarray([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1]], dtype=np.int32)
CAUSAL = np.tril(np.ones((2, 3, 3), dtype=np.int32))

#: Operator, inputs (None: absent), number of outputs, attributes.
CASES: dict[str, tuple[str, list[Any], int, dict[str, Any]]] = {
    "conv": ("FusedConv", [floats(1, 3, 6, 6), floats(4, 3, 3, 3), floats(4)], 1, {"activation": "Relu"}),
    "conv, leaky": (
        "FusedConv",
        [floats(1, 3, 6, 6), floats(4, 3, 3, 3), None],
        1,
        {"activation": "LeakyRelu", "activation_params": [0.2], "pads": [1, 1, 1, 1]},
    ),
    "conv, sum": (
        "FusedConv",
        [floats(1, 3, 6, 6), floats(4, 3, 1, 1), floats(4), floats(1, 4, 6, 6)],
        1,
        {"activation": "Clip", "activation_params": [-0.5, 0.5]},
    ),
    "gemm": ("FusedGemm", [floats(3, 4), floats(5, 4), floats(5)], 1, {"transB": 1, "activation": "Relu"}),
    "gemm, leaky": (
        "FusedGemm",
        [floats(3, 4), floats(4, 5), floats(5)],
        1,
        {"activation": "LeakyRelu", "activation_alpha": 0.3},
    ),
    "matmul": ("FusedMatMul", [floats(2, 4, 3), floats(2, 5, 4)], 1, {"transA": 1, "transB": 1, "alpha": 0.5}),
    "matmul, batch": ("FusedMatMul", [floats(3, 2, 4), floats(2, 4, 5)], 1, {"transBatchA": 1}),
    "gelu": ("Gelu", [X], 1, {}),
    "bias gelu": ("BiasGelu", [X, Y], 1, {}),
    "fast gelu": ("FastGelu", [X, Y], 1, {}),
    "quick gelu": ("QuickGelu", [X], 1, {"alpha": 1.3}),
    "skip layer norm": ("SkipLayerNormalization", [X, X * 2, Y, Y + 1, Y - 1], 4, {"epsilon": 1e-3}),
    "skip layer norm, few": ("SkipLayerNormalization", [X, X * 2, Y], 1, {}),
    "skip simplified layer norm": ("SkipSimplifiedLayerNormalization", [X, X * 2, Y, Y - 1], 4, {"epsilon": 1e-3}),
    "embedding": (
        "EmbedLayerNormalization",
        [
            *(whole(2, 3, below=9), whole(2, 3, below=2)),
            *(floats(9, 8), floats(4, 8), floats(2, 8), floats(8), floats(8), whole(2, 3, below=2)),
        ],
        2,
        {},
    ),
    "attention": ("Attention", [X, floats(8, 24), floats(24)], 1, {"num_heads": 2}),
    "attention, mask": (
        "Attention",
        [X, floats(8, 24), floats(24), int32([[1, 1, 0], [1, 0, 0]])],
        1,
        {"num_heads": 2},
    ),
    "attention, lengths": ("Attention", [X, floats(8, 24), floats(24), int32([2, 3])], 1, {"num_heads": 2}),
    "attention, square mask": ("Attention", [X, floats(8, 24), floats(24), CAUSAL], 1, {"num_heads": 2, "scale": 0.4}),
    "attention, past": (
        "Attention",
        [X, floats(8, 24), floats(24), None, floats(2, 2, 2, 4, 4)],
        2,
        {"num_heads": 2, "unidirectional": 1},
    ),
    "attention, sizes": (
        "Attention",
        [X, floats(8, 32), floats(32)],
        1,
        {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 16]},
    ),
    "heads": ("MultiHeadAttention", QKV, 1, {"num_heads": 4}),
    "heads, bias": ("MultiHeadAttention", [*QKV, floats(48)], 1, {"num_heads": 4, "scale": 0.2}),
    "heads, mask": ("MultiHeadAttention", [*QKV, None, LEFT_PADDED], 1, {"num_heads": 4}),
    "heads, added": ("MultiHeadAttention", [*QKV, None, None, floats(1, 4, 3, 5)], 1, {"num_heads": 4}),
    "heads, past": (
        "MultiHeadAttention",
        [QKV[0], QKV[0] * 2, QKV[0] * 3, None, None, None, floats(2, 4, 2, 4), floats(2, 4, 2, 4)],
        3,
        {"num_heads": 4, "unidirectional": 1},
    ),
    "rotary": (
        "RotaryEmbedding",
        [floats(2, 3, 16), int64([[0, 1, 2], [4, 5, 6]]), floats(9, 4), floats(9, 4)],
        1,
        {"num_heads": 2},
    ),
    "rotary, interleaved": (
        "RotaryEmbedding",
        [floats(2, 2, 3, 8), int64([2]), floats(9, 4), floats(9, 4)],
        1,
        {"interleaved": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_is_computed(name: str) -> None:
    kind, inputs, outputs, attributes = CASES[name]
    names = ["" if value is None else f"x{place}" for place, value in enumerate(inputs)]
    results = [f"y{place}" for place in range(outputs)]
    if "skip" in name and outputs == 4:
        results[1:3] = ["", ""]  # ONNX Runtime computes them for training only
    node = helper.make_node(kind, names, results, domain=DOMAIN, **attributes)
    feeds = {f"x{place}": value for place, value in enumerate(inputs) if value is not None}
    model = make([node], feeds, [result for result in results if result], domains=(DOMAIN,))
    made = rewritten(model)
    assert {each.domain for each in made.graph.node} == {""}
    check_same(run(made, feeds), run(model, feeds), 3e-3 if "Gelu" in kind else 1e-4)


def test_what_is_not_known_stays() -> None:
    feeds = {"x": floats(1, 3, 6, 6), "w": floats(4, 3, 1, 1)}
    node = helper.make_node("FusedConv", ["x", "w"], ["y"], domain=DOMAIN, activation="Unheard")
    made = rewritten(make([node], feeds, ["y"], domains=(DOMAIN,)))
    assert [each.op_type for each in made.graph.node] == ["FusedConv"]


def test_a_simplified_layer_norm_has_no_domain() -> None:
    feeds = {"x": X, "s": Y}
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "s"], ["y"], epsilon=1e-3)
    model = make([node], feeds, ["y"])
    made = rewritten(model)
    assert "SimplifiedLayerNormalization" not in {each.op_type for each in made.graph.node}
    check_same(run(made, feeds), run(model, feeds))
