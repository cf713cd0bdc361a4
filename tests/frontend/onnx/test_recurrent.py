"""LSTM, GRU and RNN of ONNX become a product and one kernel, which compute what the reference says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.models import TARGET, build_lean, defaults, runs
from tests.recurrent_models import VARIANTS, make_inputs, make_model
from tilewright.frontend.load import read_model
from tilewright.graph.left_out import extract_all
from tilewright.graph.tasks import Extraction
from tilewright.verify.evaluator import OnnxEvaluator

#: Variants that are built. All are read.
BUILT = [
    "lstm, one step",
    "lstm, both",
    "lstm, lengths",
    "lstm, weights given",
    "gru, reset after, lengths",
    "rnn, one unit",
]


def extracted(model: onnx.ModelProto) -> Extraction:
    return extract_all(read_model("m", model, model, {}), TARGET)


def kinds(extraction: Extraction) -> list[str]:
    return [use.task.kind for use in extraction.uses for _ in range(use.weight)]


def check(model: onnx.ModelProto, out: Path) -> None:
    """Built with default schedules, the model computes what the reference says."""
    extraction = extracted(model)
    assert not extraction.network.segments
    executable = build_lean(extraction, defaults(extraction), out)
    inputs = make_inputs(model)
    wanted = OnnxEvaluator(model, list(inputs), True).run(list(inputs.values()))
    found = executable(*inputs.values())
    assert [o.shape for o in found] == [o.shape for o in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_is_one_task(name: str) -> None:
    extraction = extracted(make_model(**VARIANTS[name]))
    assert not extraction.network.segments
    assert kinds(extraction).count("recurrent") == 1
    assert extraction.plan is not None


@runs
@pytest.mark.parametrize("name", BUILT)
def test_it_computes_what_the_reference_says(name: str, tmp_path: Path) -> None:
    check(make_model(**VARIANTS[name]), tmp_path / "out")


@runs
def test_batches_may_come_first(tmp_path: Path) -> None:
    check(make_model("GRU", layout=1, state=True, direction="bidirectional", batch=3), tmp_path / "out")


@runs
def test_directions_that_are_put_side_by_side_cost_no_copy(tmp_path: Path) -> None:
    """As exporters do it: Transpose, then Reshape."""
    model = make_model("LSTM", direction="bidirectional", batch=3, outputs=("Y",))
    shape = onnx.numpy_helper.from_array(np.asarray([5, 3, 40]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(onnx.helper.make_node("Transpose", ["Y"], ["moved"], perm=[0, 2, 1, 3]))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["moved", "shape"], ["Z"]))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("Z", onnx.TensorProto.FLOAT, [5, 3, 40]))
    assert sorted(kinds(extracted(model))) == ["contraction", "recurrent"]
    check(model, tmp_path / "out")


def test_weights_are_packed_when_the_network_is_built() -> None:
    extraction = extracted(make_model("GRU", linear_before_reset=1, hidden=32))
    packed = [recipe for recipe in extraction.recipes if recipe.source.endswith("R")]
    assert [recipe.shape[-1] for recipe in packed] == [min(32, TARGET.lanes)]
    assert sorted(kinds(extraction)) == ["contraction", "recurrent"]


def test_lengths_that_are_all_steps_need_no_operand() -> None:
    def parameters(lengths: Any) -> int:
        (use,) = (u for u in extracted(make_model("RNN", lengths=lengths)).uses if u.task.kind == "recurrent")
        return use.task.ir.count("lengths")

    assert parameters([5, 5]) < parameters([5, 4])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activations": ["Affine"]}, "does not give the numbers of its activation affine"),
        ({"activations": ["Cosine"]}, "no formula computes its activation cosine"),
    ],
)
def test_what_no_kernel_serves_runs_in_a_segment(changes: dict[str, Any], reason: str) -> None:
    model = make_model("RNN", **changes)
    (segment,) = read_model("m", model, model, {}).segments
    assert segment.operators == ("RNN",)
    assert reason in segment.reasons[0]
