"""Inputs on which a wrong result shows, and integers that the network accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.verify.onnx_models import Array, by_onnxruntime, model, network, normal, single
from tilewright.frontend.network import Network
from tilewright.verify.inputs import Trials, find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import open_reference
from tilewright.verify.verdict import Outcome

node = helper.make_node


def trials(made: onnx.ModelProto) -> Trials:
    with open_reference(network(made)) as reference:
        return find_trials(network(made), reference)


def made(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[Sequence[int], str]],
    dtype: str = "float32",
    **weights: Any,
) -> onnx.ModelProto:
    return model(nodes, inputs, {"y": dtype}, **weights)


def test_a_sigmoid_that_is_nearly_zero() -> None:
    """ONNX Runtime's sigmoid is off by 2^-24 there, so ONNX Runtime is judged wrong."""
    for bias in (-16, -25):
        nodes = [node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), node("Sigmoid", ["c"], ["y"])]
        w, b = 0.3 * normal(1, 3, 3, 3), np.full(1, bias, np.float32)
        whole = made(nodes, {"x": ([1, 3, 32, 32], "float32")}, w=w, b=b)
        found = trials(whole)
        assert found.problem == ""
        assert found.precision == "float64"
        assert sum(trial.conclusive for trial in found.trials) >= 2
        verdict = judge(lambda xs: [(1 / (1 + np.exp(-_logits(xs[0], w, bias)))).astype(np.float32)], found)  # noqa: B023
        assert verdict.right
        assert verdict.error is not None
        assert verdict.error < 1e-5
        negated = judge(lambda xs: [(1 / (1 + np.exp(-_logits(xs[0], -w, bias)))).astype(np.float32)], found)  # noqa: B023
        assert negated.wrong
        assert judge(lambda xs: by_onnxruntime(whole, xs), found).wrong  # noqa: B023


def _logits(x: Array, w: Array, bias: float) -> Array:
    whole = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(whole, (3, 3), axis=(2, 3))
    return np.asarray(np.einsum("ncyxhw,mchw->nmyx", windows, w) + bias)


def test_one_element_of_1e_6() -> None:
    nodes = [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w", "b"], ["l"]), node("Sigmoid", ["l"], ["y"])]
    whole = made(nodes, {"x": ([1, 4, 4], "float32")}, w=0.1 * normal(16, 1), b=np.full(1, -13.8, np.float32))
    found = trials(whole)
    assert found.problem == ""
    assert np.abs(found.trials[0].expected[0]).max() < 1e-4
    verdict = judge(lambda xs: [_gemm(xs[0], whole)], found)
    assert verdict.right


def _gemm(x: Array, whole: onnx.ModelProto) -> Array:
    w, b = (onnx.numpy_helper.to_array(t).astype(np.float64) for t in whole.graph.initializer)
    return np.asarray(1 / (1 + np.exp(-(x.reshape(1, -1) @ w + b)))).astype(np.float32)


def test_outputs_that_are_always_zero_decide_nothing() -> None:
    """The ReLU of a negative number is 0. Zeros agree with it, but no program is judged right."""
    nodes = [node("Abs", ["x"], ["a"]), node("Neg", ["a"], ["n"]), node("Relu", ["n"], ["y"])]
    found = trials(made(nodes, {"x": ([2, 8], "float32")}))
    assert "it is 0 for all" in found.problem
    assert found.problem.endswith("give inputs of your own with --sample")
    assert judge(lambda xs: [np.zeros((2, 8), np.float32)], found).outcome is Outcome.UNDECIDABLE
    assert judge(lambda xs: [np.maximum(xs[0], 0)], found).wrong


def test_outputs_that_are_never_numbers_decide_nothing() -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    found = trials(made(nodes, {"x": ([2, 8], "float32")}, w=np.full((8, 4), np.nan, np.float32)))
    assert "it is not a number (NaN) for all" in found.problem
    assert judge(lambda xs: [np.full((2, 4), np.nan, np.float32)], found).outcome is Outcome.UNDECIDABLE


def test_a_softmax_that_is_sure_gets_smaller_inputs() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Softmax", ["m"], ["y"])]
    found = trials(made(nodes, {"x": ([1, 64], "float32")}, w=300 * normal(64, 200)))
    assert found.problem == ""
    assert any(trial.conclusive and "0.0" in trial.what for trial in found.trials)


def test_inputs_that_hardly_matter_are_made_larger() -> None:
    nodes = [node("Mul", ["x", "tiny"], ["m"]), node("Add", ["m", "c"], ["y"])]
    whole = made(nodes, {"x": ([4, 50], "float32")}, tiny=single([1e-6]), c=normal(50))
    found = trials(whole)
    assert found.problem == ""
    assert max(np.abs(trial.inputs[0]).max() for trial in found.trials) > 100


def test_outputs_of_very_different_size() -> None:
    """One of two outputs is constant. The other one is judged nevertheless."""
    nodes = [node("Relu", ["x"], ["y"]), node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["z"])]
    whole = model(nodes, {"x": ([3, 5], "float32")}, {"y": "float32", "z": "float32"})
    found = trials(whole)
    assert found.problem == ""
    assert judge(lambda xs: [np.maximum(xs[0], 0), np.zeros((3, 5), np.float32)], found).right
    assert judge(lambda xs: [np.maximum(xs[0], 0), np.ones((3, 5), np.float32)], found).wrong


def test_a_verdict_says_that_there_was_no_time_for_more_inputs() -> None:
    whole = made([node("Relu", ["x"], ["y"])], {"x": ([3], "float32")})
    with open_reference(network(whole)) as reference:
        hasty = find_trials(network(whole), reference, seconds=0.0)
        assert judge(lambda xs: [np.maximum(xs[0], 0)], hasty).evidence.endswith("there was no time for more inputs")
        thorough = find_trials(network(whole), reference)
        assert "no time" not in judge(lambda xs: [np.maximum(xs[0], 0)], thorough).evidence


def test_token_ids_are_those_of_the_table() -> None:
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Cast", ["attention_mask"], ["m"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["m", "last"], ["u"]),
        node("Mul", ["e", "u"], ["y"]),
    ]
    inputs = {"ids": ([1, 200], "int64"), "attention_mask": ([1, 200], "int64")}
    whole = made(nodes, inputs, table=normal(30, 8), last=np.array([2]))
    found = trials(whole)
    assert found.problem == ""
    ids = np.concatenate([trial.inputs[0].reshape(-1) for trial in found.trials])
    assert ids.min() >= -30
    assert ids.max() < 30
    assert len(np.unique(ids)) > 40  # negative ones, too
    assert set(np.unique(np.concatenate([t.inputs[1].reshape(-1) for t in found.trials]))) <= {0, 1}
    assert judge(lambda xs: by_onnxruntime(whole, xs), found).right


def test_ids_of_a_table_that_is_computed() -> None:
    """The graph does not say how many rows the table has, so ranges are tried until the model accepts one."""
    nodes = [node("Relu", ["x"], ["t"]), node("Gather", ["t", "ids"], ["g"]), node("MatMul", ["g", "w"], ["y"])]
    bare = made(nodes, {"x": ([1, 32], "float32"), "ids": ([1, 8], "int64")}, w=normal(32, 32))
    del bare.graph.value_info[:]
    found = trials(bare)
    assert found.problem == ""
    assert {int(i) for trial in found.trials for i in trial.inputs[1].reshape(-1)} <= {-1, 0}
    assert judge(lambda xs: by_onnxruntime(bare, xs), found).right


def test_scalars_that_are_not_finite() -> None:
    """The mask of an attention. The constants of the graph are read for the integers that it accepts."""
    nodes = [
        node("Greater", ["x", "zero"], ["c"]),
        node("Where", ["c", "x", "low"], ["m"]),
        node("Softmax", ["m"], ["y"]),
    ]
    for low in (-np.inf, np.nan):
        whole = made(nodes, {"x": ([4, 9], "float32")}, zero=single(0), low=single(low))
        assert trials(whole).precision == "float64"


def test_divisors_are_not_zero() -> None:
    inputs: dict[str, tuple[Sequence[int], str]] = {"a": ([40], "int64"), "b": ([40], "int64")}
    found = trials(made([node("Div", ["a", "b"], ["y"])], inputs, "int64"))
    assert found.problem == ""
    assert all(np.all(trial.inputs[1] != 0) for trial in found.trials)
    assert len(np.unique(found.trials[0].inputs[1])) > 2
    floor = judge(lambda xs: [xs[0] // xs[1]], found)
    assert floor.wrong or all(np.all(np.multiply(*t.inputs) >= 0) for t in found.trials)


def test_division_by_a_constant_sees_negative_numbers() -> None:
    found = trials(made([node("Div", ["a", "d"], ["y"])], {"a": ([64, 64], "int64")}, "int64", d=np.array(16)))
    assert judge(lambda xs: [np.trunc(xs[0] / 16).astype(np.int64)], found).right
    assert judge(lambda xs: [xs[0] // 16], found).wrong


def test_dtypes_are_the_models() -> None:
    nodes = [node("OneHot", ["o", "d", "v"], ["y"])]
    found = trials(made(nodes, {"o": ([7], "int64")}, d=np.array(4), v=single([0, 1])))
    assert found.dtypes == ("float32",)
    right = np.eye(4, dtype=np.float32)
    assert judge(lambda xs: [right[xs[0]]], found).right
    verdict = judge(lambda xs: [right[xs[0]].astype(np.float64)], found)
    assert verdict.wrong
    assert "float64 instead of float32" in verdict.evidence


def test_ties_of_an_argmax_are_nobodys_fault() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("ArgMax", ["c"], ["y"], axis=1)]
    w = normal(8, 4, 3, 3)
    w[5] = w[2] * np.float32(1 + 2**-22)
    whole = made(nodes, {"x": ([1, 4, 24, 24], "float32")}, "int64", w=w)
    found = trials(whole)
    assert found.problem == ""
    assert any(np.isinf(trial.noise[0]).any() for trial in found.trials)
    assert judge(lambda xs: by_onnxruntime(whole, xs), found).right
    assert judge(lambda xs: [np.roll(by_onnxruntime(whole, xs)[0], 1, axis=-1)], found).wrong


def test_images_are_smooth_and_seeds_reproduce() -> None:
    whole = made([node("Relu", ["x"], ["y"])], {"x": ([1, 3, 32, 32], "float32")})
    first, second = trials(whole), trials(whole)
    for left, right in zip(first.trials, second.trials, strict=True):
        np.testing.assert_array_equal(left.inputs[0], right.inputs[0])
    image = next(t.inputs[0] for t in first.trials if "image" in t.what)
    assert image.min() >= 0
    assert image.max() <= 1
    assert np.abs(np.diff(image, axis=-1)).mean() < 0.5 * image.std()


def test_a_relax_module_has_no_reference() -> None:
    bare = Network("r", None, (), (), {})
    with open_reference(bare) as reference:
        found = find_trials(bare, reference)
    assert found.precision == ""
    verdict = judge(lambda _: [], found)
    assert verdict.outcome is Outcome.UNDECIDABLE
    assert "no reference" in verdict.evidence


def test_no_inputs() -> None:
    """The output of a network that computes a constant is compared with this constant."""
    found = trials(made([node("Sqrt", ["w"], ["y"])], {}, w=single([4, 9])))
    assert judge(lambda _: [single([2, 3])], found).right
    assert judge(lambda _: [single([2, 3.1])], found).wrong


@pytest.mark.parametrize("change", ["negated", "transposed", "channel", "tile", "residual"])
def test_mutants(change: str) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "x"], ["s"]),
        node("GlobalAveragePool", ["s"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w3"], ["g"]),
        node("Softmax", ["g"], ["y"]),
    ]
    w1, w2, w3 = (single(scale) * normal(*s) for scale, s in ((0.2, (8, 8, 3, 3)), (0.2, (8, 8, 3, 3)), (1, (8, 20))))
    inputs: dict[str, tuple[Sequence[int], str]] = {"x": ([1, 8, 20, 20], "float32")}
    whole = made(nodes, inputs, w1=w1, w2=w2, w3=w3)
    found = trials(whole)
    assert judge(lambda xs: by_onnxruntime(whole, xs), found).right
    bad1, bad2, wrong = w1, w2, list(nodes)
    if change == "negated":
        bad1 = -w1
    elif change == "transposed":
        bad1 = w1.transpose(0, 1, 3, 2).copy()
    elif change == "channel":
        bad2 = np.roll(w2, 1, axis=1)
    elif change == "tile":
        bad2 = w2.copy()
        bad2[:, :, 0, 0] = 0
    else:
        wrong[3] = node("Identity", ["c2"], ["s"])
    mutant = made(wrong, inputs, w1=bad1, w2=bad2, w3=w3)
    assert judge(lambda xs: by_onnxruntime(mutant, xs), found).wrong


@pytest.mark.parametrize("shape", [[4, 64], [16, 256]])
def test_a_deep_network_of_bytes_has_errors_of_whole_quanta(shape: list[int]) -> None:
    """Two runs that round otherwise are apart by quanta, which a larger rounding does not make larger.

    An element may be a quantum off although it is not in any evaluation of the reference, and so may a whole row.
    """
    nodes, x, layers = [], "x", 6
    for layer in range(layers):
        q, d, y = f"q{layer}", f"d{layer}", f"y{layer}"
        nodes += [node("QuantizeLinear", [x, "s", "z"], [q]), node("DequantizeLinear", [q, "s", "z"], [d])]
        nodes.append(node("MatMul", [d, "w"], [y]))
        x = y
    nodes += [node("QuantizeLinear", [x, "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    weights: dict[str, Any] = {
        "w": normal(shape[1], shape[1]) / np.float32(np.sqrt(shape[1])),
        "s": np.float32(0.05),
        "z": np.uint8(128),
    }
    whole = made(nodes, {"x": (shape, "float32")}, **weights)
    found = trials(whole)
    assert found.problem == ""
    for size in (1e-6, -1e-6, 3e-6):
        verdict = judge(lambda xs, size=size: by_onnxruntime(whole, [x * np.float32(1 + size) for x in xs]), found)  # type: ignore[misc]
        assert verdict.right, verdict.evidence
    mutant = made(nodes, {"x": (shape, "float32")}, **weights | {"w": np.ascontiguousarray(weights["w"].T)})
    assert judge(lambda xs: by_onnxruntime(mutant, xs), found).wrong
