"""A 1x1 convolution and the depthwise one that reads its result are found, and one function computes both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.agreement import network_error
from tests.models import TARGET, build_lean, defaults, normal, read, save
from tests.targets import require
from tilewright.graph.buckets import combine
from tilewright.graph.tasks import Extraction, extract
from tilewright.ops.registry import make_space


def inverted_residual(
    path: Path,
    channels: int,
    wide: int,
    *,
    batch: int = 1,
    kernel: int = 3,
    stride: int = 1,
    activations: Sequence[str] = ("Relu", "HardSwish"),
    squeezed: bool = False,
    second: bool = False,
) -> Path:
    """Channels are expanded, filtered one by one, and projected.

    Args:
        path: where the model is written.
        channels: of the input and the output.
        wide: channels between.
        batch: images.
        kernel: rows and columns of the depthwise kernel.
        stride: of it.
        activations: after both convolutions; "": none.
        squeezed: whether squeeze-and-excite follows.
        second: whether the map between both convolutions is read once more.
    """
    pads = [kernel // 2] * 4
    nodes: list[NodeProto] = []

    def add(operator: str, operands: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, operands, [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    value = add("Conv", ["x", "w0", "b"])
    value = between = add(activations[0], [value]) if activations[0] else value
    value = add("Conv", [value, "w1", "b"], pads=pads, strides=[stride, stride], group=wide)
    value = add(activations[1], [value]) if activations[1] else value
    if squeezed:
        mean = add("GlobalAveragePool", [value])
        value = add("Mul", [value, add("Sigmoid", [add("Conv", [mean, "w3"])])])
    if second:
        value = add("Add", [value, between])
    value = add("Conv", [value, "w2"])
    if stride == 1:
        value = add("Add", [value, "x"])
    nodes[-1].output[0] = "y"
    size = (13 - 1) // stride + 1
    weights = {
        "w0": normal(wide, channels, 1, 1),
        "w1": normal(wide, 1, kernel, kernel, seed=1),
        "w2": normal(channels, wide, 1, 1, seed=2),
        "b": normal(wide, seed=3),
    }
    if squeezed:
        weights["w3"] = normal(wide, wide, 1, 1, seed=4) / np.float32(wide)
    return save(path, nodes, {"x": [batch, channels, 13, 13]}, [batch, channels, size, size], **weights)


def joined(extraction: Extraction) -> Extraction:
    return extraction.with_algorithms({}, {form for form, _ in extraction.joints})


def kinds(extraction: Extraction) -> list[str]:
    return [use.task.kind for use in extraction.uses]


@pytest.mark.parametrize(
    ("batch", "kernel", "stride", "activations", "squeezed"),
    [(1, 3, 1, ("Relu", "HardSwish"), False), (3, 5, 2, ("HardSwish", ""), True), (1, 3, 2, ("", "Relu"), False)],
)
def test_one_function_takes_the_place_of_two(
    batch: int, kernel: int, stride: int, activations: tuple[str, str], squeezed: bool, tmp_path: Path
) -> None:
    model = inverted_residual(
        tmp_path / "m.onnx",
        8,
        32,
        batch=batch,
        kernel=kernel,
        stride=stride,
        activations=activations,
        squeezed=squeezed,
    )
    extraction = extract(read(model), TARGET)
    ((form, count),) = extraction.joints
    assert count == 1
    assert str(form).startswith("expansion")
    whole = joined(extraction)
    assert kinds(whole).count("expansion") == 1
    assert len(whole.uses) == len(extraction.uses) - 1
    (use,) = [use for use in whole.uses if use.task.kind == "expansion"]
    assert use.task == form.one
    assert make_space(use.task, TARGET).template == "expansion/1"
    # The separate functions are those of the network in which nothing is joined.
    assert extraction.separate_tasks(form) == form.several
    assert set(form.several) <= {use.task for use in extraction.uses}
    assert joined(whole).uses == whole.uses
    require(TARGET)
    error = network_error(build_lean(whole, defaults(whole), tmp_path / "out"), whole.network)
    assert error is not None
    assert error <= 1e-4


def test_a_map_that_is_read_twice_stays(tmp_path: Path) -> None:
    # A residual around the depthwise convolution is fused into it, and another function reads the map of one with an
    # activation after it.
    for after in ("", "Relu"):
        model = inverted_residual(tmp_path / "m.onnx", 8, 32, activations=("Relu", after), second=True)
        assert extract(read(model), TARGET).joints == ()


def test_buckets_count_together(tmp_path: Path) -> None:
    extraction = extract(read(inverted_residual(tmp_path / "m.onnx", 8, 32)), TARGET)
    buckets = combine([extraction, extraction], [1.0, 1.0])
    ((form, count),) = buckets.joints
    assert count == 2
    assert buckets.separate_tasks(form) == form.several
    assert all("expansion" in kinds(part) for part in joined(buckets).parts)  # type: ignore[arg-type]
