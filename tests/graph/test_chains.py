"""Long chains of element-wise operators: cut into functions of bounded size, and right all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.agreement import one_thread
from tests.models import TARGET, build_lean, defaults, design_space, normal, read, save
from tilewright.compiling.build import build
from tilewright.graph.tasks import extract
from tilewright.space.inlining import MOST_LOADS, nested_loads
from tilewright.space.module import task_module


def chain(path: Path, operators: list[str], *, convolution: bool) -> Path:
    nodes, name = [], "x"
    if convolution:
        nodes.append(helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]))
        name = "c"
    for number, operator in enumerate(operators):
        out = "y" if number == len(operators) - 1 else f"t{number}"
        nodes.append(helper.make_node(operator, [name], [out]))
        name = out
    shape = [1, 16, 6, 6] if convolution else [8, 16]
    weights = {"w": normal(16, 16, 3, 3) * np.float32(0.1)} if convolution else {}
    return save(path, nodes, {"x": shape}, shape, **weights)


def test_a_convolution_keeps_what_can_be_inlined_into_it(tmp_path: Path) -> None:
    network = read(chain(tmp_path / "m.onnx", ["Relu", "Tanh"], convolution=True))
    kinds = [use.task.kind for use in extract(network, TARGET).uses if "conv2d" in use.task.name]
    names = [use.task.name.split()[0] for use in extract(network, TARGET).uses if "conv2d" in use.task.name]
    assert kinds == ["contraction"]
    assert names == ["conv2d_relu_tanh"]


def test_what_follows_a_convolution_is_cut_before_it_explodes(tmp_path: Path) -> None:
    network = read(chain(tmp_path / "m.onnx", ["Tanh"] * 12, convolution=True))
    extraction = extract(network, TARGET)
    assert all(nested_loads(task_module(use.task)) <= MOST_LOADS for use in extraction.uses if "conv" in use.task.name)
    templates = {design_space(use.task, TARGET).template.split("/")[0] for use in extraction.uses}
    assert {"contraction", "elementwise"} <= templates
    executable = build_lean(extraction, defaults(extraction), tmp_path / "out")
    x = normal(1, 16, 6, 6, seed=1)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), one_thread(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(executable(x)[0], session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [64, 200])
def test_a_function_has_at_most_64_operators(tmp_path: Path, count: int) -> None:
    network = read(chain(tmp_path / "m.onnx", ["Tanh", "Sigmoid"] * (count // 2), convolution=False))
    extraction = extract(network, TARGET)
    assert extraction.plan is not None
    assert len(extraction.plan.calls) == -(-count // 64)
    assert all(design_space(use.task, TARGET).template == "elementwise/1" for use in extraction.uses)


def test_equal_functions_are_one_task(tmp_path: Path) -> None:
    network = read(chain(tmp_path / "m.onnx", ["Relu"] * 320, convolution=False))
    extraction = extract(network, TARGET)
    assert [use.weight for use in extraction.uses] == [5]
    # The name of the file of such a kernel must not list all of its operators.
    assert build(extraction, defaults(extraction), tmp_path / "out", {}) is not None
