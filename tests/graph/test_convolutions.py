"""Convolutions of all forms, through every step, against ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, helper

from tests.agreement import compare_with
from tests.models import TARGET, Shape, build_lean, design_space, normal, read, save
from tests.targets import require
from tilewright.graph.tasks import Extraction, extract
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample

_DRAWN = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def all_agree(nodes: list[NodeProto], inputs: dict[str, Shape], output: Shape, **weights: NDArray[Any]) -> Extraction:
    """Built with default schedules, and with two random ones of each task, the model gives ONNX Runtime's outputs."""
    require(TARGET)
    with tempfile.TemporaryDirectory() as folder:
        extraction = extract(read(save(Path(folder, "m.onnx"), nodes, inputs, output, **weights)), TARGET)
        spaces = {use.task.key: design_space(use.task, TARGET) for use in extraction.uses}
        error_of, rng = compare_with(extraction.network), np.random.default_rng(0)
        assert error_of is not None
        configs = {
            key: [s.default(), *(sample(s, rng, 2) if s.template.startswith(("contraction", "depthwise")) else ())]
            for key, s in spaces.items()
        }
        programs = {k: [s.schedule(config).mod["main"] for config in configs[k]] for k, s in spaces.items()}
        for choice in range(3):
            functions = {k: some[min(choice, len(some) - 1)] for k, some in programs.items()}
            executable = build_lean(extraction, functions, Path(folder, f"out{choice}"))
            assert error_of(executable) <= 1e-3, [configs[k][min(choice, len(configs[k]) - 1)] for k in spaces]
    return extraction


@_DRAWN
@given(data=st.data())
def test_convolutions_of_all_forms(data: st.DataObject) -> None:
    def pair(most: int) -> list[int]:
        return data.draw(st.lists(st.integers(1, most), min_size=2, max_size=2))

    batch = data.draw(st.sampled_from([1, 4]))
    kind = data.draw(st.sampled_from(["one group", "groups", "depthwise"]))
    groups = {"one group": 1, "groups": data.draw(st.sampled_from([2, 3, 4]))}.get(kind, 0)
    if kind == "depthwise":
        groups = channels = out = data.draw(st.sampled_from([3, 8, 10, 17, 32, 48]))
    else:
        channels = groups * data.draw(st.sampled_from([1, 3, 6, 8, 20]))
        out = groups * data.draw(st.sampled_from([1, 3, 5, 7, 8, 16, 34]))
    size, kernel, strides, dilations = pair(12), pair(3), pair(3), pair(2)
    pads = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    spans = [size[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1 for i in range(2)]
    assume(min(spans) >= 0)
    shape = [batch, out, *(span // stride + 1 for span, stride in zip(spans, strides, strict=True))]
    window: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], **window),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weights = {"w": normal(out, channels // groups, *kernel), "b": normal(out)}
    extraction = all_agree(nodes, {"x": [batch, channels, *size]}, shape, **weights)
    assert not extraction.fallbacks
    contractions = [u for u in extraction.uses if u.task.kind == "contraction"]
    assert len(contractions) == 1
    assert make_space(contractions[0].task, TARGET).template.startswith(("contraction", "depthwise"))


def test_a_depthwise_convolution_of_one_pixel() -> None:
    """All pixels of it are one loop, so that its rows are not apart."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=17)
    all_agree([node], {"x": [1, 17, 5, 6]}, [1, 17, 5, 6], w=normal(17, 1, 1, 1), b=normal(17))


@pytest.mark.parametrize("groups", [1, 17])
def test_what_reads_a_gelu_twice(groups: int) -> None:
    """Hard-swish reads its operand twice, so that the formula of a GELU before it is in the program twice."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Mul", ["c", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["f"]),
        helper.make_node("Mul", ["c", "f"], ["h"]),
        helper.make_node("Mul", ["h", "half"], ["g"]),
        helper.make_node("Add", ["g", "k"], ["t"]),
        helper.make_node("HardSwish", ["t"], ["y"]),
    ]
    weights = {"w": normal(17, 17 // groups, 3, 3), "k": normal(17, 1, 1)}
    weights |= {name: np.asarray(x, np.float32) for name, x in (("root", 0.5**0.5), ("one", 1), ("half", 0.5))}
    all_agree(nodes, {"x": [1, 17, 5, 5]}, [1, 17, 5, 5], **weights)


@settings(_DRAWN, max_examples=5)
@given(
    batch=st.sampled_from([1, 2]),
    groups=st.sampled_from([2, 3, 4]),
    each=st.sampled_from([3, 6, 8, 17]),
    side=st.sampled_from([5, 8]),
    joined=st.booleans(),
)
def test_shuffled_units(batch: int, groups: int, each: int, side: int, joined: bool) -> None:
    """Grouped convolution, channel shuffle, depthwise, grouped convolution, and what goes round them."""
    c = groups * each
    stride = 2 if joined else 1
    rows = (side - 1) // stride + 1
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node("Conv", ["a", "w1", "b1"], ["c1"], group=groups),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Reshape", ["r1", "split"], ["s1"]),
        helper.make_node("Transpose", ["s1"], ["s2"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["s2", "merge"], ["s3"]),
        helper.make_node("Conv", ["s3", "w2", "b2"], ["c2"], group=c, pads=[1, 1, 1, 1], strides=[stride, stride]),
        helper.make_node("Conv", ["c2", "w3", "b3"], ["c3"], group=groups),
    ]
    if joined:
        window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
        nodes += [
            helper.make_node("AveragePool", ["a"], ["p"], **window),
            helper.make_node("Concat", ["c3", "p"], ["j"], axis=1),
            helper.make_node("Relu", ["j"], ["k"]),
            helper.make_node("Conv", ["k", "w4"], ["c4"], group=groups),
            helper.make_node("Add", ["c4", "k"], ["t"]),
        ]
    else:
        nodes.append(helper.make_node("Add", ["c3", "a"], ["t"]))
    # A sum with what is not blocked, and a convolution of one group, read all channels in their order.
    nodes += [helper.make_node("Add", ["t", "z"], ["u"]), helper.make_node("Conv", ["u", "w5"], ["y"])]
    wide = 2 * c if joined else c
    all_agree(
        nodes,
        {"x": [batch, 8, side, side], "z": [batch, wide, rows, rows]},
        [batch, 6, rows, rows],
        w0=normal(c, 8, 1, 1),
        w1=normal(c, each, 1, 1),
        b1=normal(c),
        w2=normal(c, 1, 3, 3),
        b2=normal(c, seed=1),
        w3=normal(c, each, 1, 1, seed=1),
        b3=normal(c, seed=2),
        **({"w4": normal(wide, wide // groups, 1, 1)} if joined else {}),
        w5=normal(6, wide, 1, 1),
        split=np.asarray([batch, groups, each, side, side]),
        merge=np.asarray([batch, c, side, side]),
    )


def test_inverted_residuals_of_odd_channels_convert_no_layout() -> None:
    """Blocks fill vectors where that makes fewer of them, and no tensor between convolutions changes its layout."""
    nodes, weights = [helper.make_node("Conv", ["x", "stem"], ["s"])], {"stem": normal(20, 3, 1, 1)}
    last, width = "s", 20
    for i, (wide, out) in enumerate([(44, 20), (52, 28), (92, 28)]):
        last_before = last
        stages: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
            ("expand", (wide, width, 1, 1), {}),
            ("depthwise", (wide, 1, 3, 3), {"group": wide, "pads": [1, 1, 1, 1]}),
            ("project", (out, wide, 1, 1), {}),
        ]
        for name, shape, attributes in stages:
            weights[f"{name}{i}"] = normal(*shape, seed=i)
            nodes.append(helper.make_node("Conv", [last, f"{name}{i}"], [f"{name}_{i}"], **attributes))
            last = f"{name}_{i}"
            if name == "depthwise":  # squeeze and excite
                weights[f"gate{i}"] = normal(wide, wide, 1, 1, seed=i) / np.float32(8)
                nodes += [
                    helper.make_node("GlobalAveragePool", [last], [f"mean{i}"]),
                    helper.make_node("Conv", [f"mean{i}", f"gate{i}"], [f"scores{i}"]),
                    helper.make_node("HardSigmoid", [f"scores{i}"], [f"excite{i}"]),
                    helper.make_node("Mul", [last, f"excite{i}"], [f"gated{i}"]),
                ]
                last = f"gated{i}"
        if out == width:
            nodes.append(helper.make_node("Add", [last, last_before], [f"sum{i}"]))
            last = f"sum{i}"
        width = out
    nodes[-1].output[0] = "y"
    extraction = all_agree(nodes, {"x": (1, 3, 6, 6)}, (1, width, 6, 6), **weights)
    moved = [use.task.name for use in extraction.uses if use.task.name.startswith("transpose")]
    assert len(moved) <= 2, moved  # the network's input and its output
    lanes = TARGET.lanes
    names = [use.task.name for use in extraction.uses if use.task.name.startswith("depthwise")]
    assert all(int(name.rsplit("x", 1)[1]) > lanes // 2 for name in names), names
    if lanes == 16:  # 52 = 4 x 13 needs as many vectors as with gaps, and a quarter less memory; 44 = 4 x 11 needs more
        assert {name.rsplit("x", 1)[1] for name in names} == {"13", "16"}, names
