"""The messages on the page of limitations are those that a user gets."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.pages import DOCS
from tilewright import TilewrightError, load

PAGE = (DOCS / "reference/limitations.md").read_text(encoding="utf-8")
#: The messages of the first table; "..." stands for anything.
MESSAGES = re.findall(r"^\| [^|]* \| `([^`]*)` \|", PAGE, re.MULTILINE)


def one_node(node: onnx.NodeProto, shape: list[int | str], *inputs: str) -> onnx.ModelProto:
    """A model of one operator with the output ``y``."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(node.domain or "other", 1)]
    return helper.make_model(helper.make_graph([node], "g", values, [output]), opset_imports=opsets, ir_version=9)


def dropout() -> onnx.ModelProto:
    model = one_node(helper.make_node("Dropout", ["x", "ratio", "training"], ["y"]), [1, 8], "x")
    ratio = helper.make_tensor("ratio", TensorProto.FLOAT, [], [0.5])
    model.graph.initializer.extend([ratio, helper.make_tensor("training", TensorProto.BOOL, [], [True])])
    return model


CASES = {
    "open": one_node(helper.make_node("Relu", ["x"], ["y"]), ["batch", 3, 8, 8], "x"),
    "training": dropout(),
    "unknown": one_node(helper.make_node("MyOp", ["x"], ["y"], domain="mine"), [1, 8], "x"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_has_the_message(case: str, tmp_path: Path) -> None:
    onnx.save(CASES[case], tmp_path / "model.onnx")
    with pytest.raises(TilewrightError) as refusal:
        load(tmp_path / "model.onnx")
    patterns = [".*".join(map(re.escape, message.split("..."))) for message in MESSAGES]
    assert any(re.fullmatch(pattern, str(refusal.value), re.DOTALL) for pattern in patterns), str(refusal.value)
