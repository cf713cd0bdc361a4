"""Tasks of networks: fused, merged, weighed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.models import LIGHT, TARGET, normal, read, save
from tilewright.errors import UnsupportedOperatorError
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.space.module import task_module
from tilewright.task import WEIGHTS


@pytest.mark.parametrize(
    "name",
    [
        "bvlc_alexnet",
        "densenet121",
        "inception_v1",
        "inception_v2",
        "resnet50",
        "shufflenet",
        "squeezenet",
        # vgg19 is left out: its 144 million weights take half a minute to read, and its layers are of the same kinds.
        "zfnet512",
    ],
)
def test_light_networks(name: str) -> None:
    extraction = extract(read(LIGHT / f"light_{name}.onnx"), TARGET)
    keys = [use.task.key for use in extraction.uses]
    assert keys
    assert len(set(keys)) == len(keys)
    assert all(use.weight > 0 and use.functions and use.task.flop > 0 for use in extraction.uses)
    work = [use.weight * use.task.flop for use in extraction.uses]
    assert work == sorted(work, reverse=True)


def test_equal_layers_are_one_task(tmp_path: Path) -> None:
    nodes = []
    for i in range(3):
        nodes.append(helper.make_node("Conv", [f"t{i}" if i else "x", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"t{i + 1}" if i < 2 else "y"]))
    weights = {f"w{i}": normal(16, 16, 3, 3, seed=i) for i in range(3)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 16, 8, 8]}, [1, 16, 8, 8], **weights)
    uses = [u for u in extract(read(path), TARGET).uses if u.task.kind == "contraction"]
    assert [u.weight for u in uses] == [3]
    assert task_module(uses[0].task)["main"].attrs[WEIGHTS] == "1"
    assert uses[0].task.flop == pytest.approx(2 * 16 * 16 * 9 * 64, rel=0.2)


def test_a_look_up_in_a_table_of_weights_by_ids_of_any_shape(tmp_path: Path) -> None:
    """TVM imports the shape of the ids as a value of its own, which is no tensor."""
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["taken"]),
        helper.make_node("Add", ["taken", "bias"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [2, 4]}, [2, 4, 8], table=normal(16, 8), bias=normal(8))
    assert extract(read(path), TARGET).uses


def test_an_operator_that_cannot_be_compiled_is_refused() -> None:
    from tvm import relax

    builder = relax.BlockBuilder()
    whole = relax.Var("x", relax.TensorType([4], "int64"))
    with builder.function("main", [whole]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(relax.op.power(whole, whole)))
        builder.emit_func_output(result)
    with pytest.raises(UnsupportedOperatorError, match=r"one of relax is not: .*power only applies to float; replace"):
        extract(load(builder.finalize()), TARGET)


def test_a_tensor_whose_size_values_decide_is_in_a_segment(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["picked"]),
        helper.make_node("Cast", ["picked"], ["y"], to=TensorProto.FLOAT),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"boxes": [1, 20, 4], "scores": [1, 2, 20]}, [40, 3], most=np.array([20]))
    (segment,) = extract(read(path), TARGET).network.segments
    assert segment.operators == ("NonMaxSuppression", "Cast")
    assert "decided while it runs" in segment.reasons[0]
