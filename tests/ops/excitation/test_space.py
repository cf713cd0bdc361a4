"""Squeeze and excitation: every program is right, and its form is read out of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.kernels import call_kernel
from tests.models import normal, read, save
from tests.targets import LANES, lane_target, require
from tilewright.graph.tasks import Extraction, extract
from tilewright.ops.excitation import KIND, ExcitationSpace
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.target import Target

Array = np.ndarray[Any, Any]
_DRAWN = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def excitation(
    path: Path, target: Target, image: tuple[int, int, int, int], few: int, activation: str = "Relu", end: str = ""
) -> Extraction:
    """A network with squeeze and excitation, ``few`` channels between its products, and a convolution before and after.

    Args:
        path: of the model's file.
        target: what it is cut into tasks for.
        image: the shape of the excited image.
        few: channels of the first product.
        activation: what follows it.
        end: "mean": the network adds the mean to its result. "image": the last convolution has more weights than the
            image has numbers.
    """
    n, channels, h, w = image
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["mean"]),
        helper.make_node("Conv", ["mean", "w1", "b1"], ["few"]),
        helper.make_node(activation, ["few"], ["active"]),
        helper.make_node("Conv", ["active", "w2", "b2"], ["scores"]),
        helper.make_node("Sigmoid", ["scores"], ["gates"]),
        helper.make_node("Mul", ["c", "gates"], ["gated"]),
        *([helper.make_node("Add", ["gated", "mean"], ["all"])] if end == "mean" else []),
        helper.make_node("Conv", ["all" if end == "mean" else "gated", "w3"], ["y"]),
    ]
    out = h * w + 1 if end == "image" else 2
    weights = {
        "w": normal(channels, 4, 1, 1),
        "w1": normal(few, channels, 1, 1, seed=1) / np.float32(np.sqrt(channels)),
        "b1": normal(few, seed=2),
        "w2": normal(channels, few, 1, 1, seed=3) / np.float32(np.sqrt(few)),
        "b2": normal(channels, seed=4),
        "w3": normal(out, channels, 1, 1, seed=5),
    }
    return extract(read(save(path, nodes, {"x": (n, 4, h, w)}, (n, out, h, w), **weights)), target)


@pytest.mark.parametrize("lanes", LANES)
@_DRAWN
@given(data=st.data())
def test_every_program_is_right(lanes: int, data: st.DataObject, tmp_path_factory: Any) -> None:
    import tvm

    target = lane_target(lanes)
    require(target)
    n = data.draw(st.sampled_from([1, 3]))
    channels, few = data.draw(st.integers(2, 70)), data.draw(st.integers(2, 40))
    h, w = data.draw(st.integers(1, 17)), data.draw(st.integers(2, 17))
    activation = data.draw(st.sampled_from(["Relu", "HardSwish", "Sigmoid"]))
    end = data.draw(st.sampled_from(["", "image"]))
    path = tmp_path_factory.mktemp("excitation") / "m.onnx"
    extraction = excitation(path, target, (n, channels, h, w), few, activation, end)
    (use,) = (use for use in extraction.uses if use.task.kind == KIND)
    space = make_space(use.task, target)
    assert isinstance(space, ExcitationSpace)
    main = space.schedule(space.default()).mod["main"]
    shapes = [tuple(int(d) for d in p.ty.shape) for p in main.params]
    rng = np.random.default_rng(0)
    image, w1, b1, w2, b2 = (rng.standard_normal(shape).astype(np.float32) for shape in shapes[:-1])
    mean = image.astype(np.float64).mean(axis=(2, 3))
    hidden = np.einsum("nic,oicx->nox", mean, w1[:, :, 0, 0]) + b1[:, :, 0, 0]
    active = {
        "Relu": np.maximum(hidden, 0),
        "HardSwish": hidden * np.clip(hidden / 6 + 0.5, 0, 1),
        "Sigmoid": 1 / (1 + np.exp(-hidden)),
    }[activation]
    scores = np.einsum("nic,oicx->nox", active, w2[:, :, 0, 0]) + b2[:, :, 0, 0]
    want = (1 / (1 + np.exp(-scores)))[:, :, None, None]
    gated = n > 1 or h * w <= 2 or end == "image"  # otherwise the last convolution's weights are multiplied
    assert len(space.knobs) == 3 + gated
    want = want * image if gated else want
    for config in (space.default(), *sample(space, rng, 1)):
        out = tvm.runtime.tensor(np.full(shapes[-1], np.nan, np.float32))
        operands = [tvm.runtime.tensor(array) for array in (image, w1, b1, w2, b2)]
        call_kernel(space.schedule(config).mod, target, *operands, out)
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-4, atol=1e-5, err_msg=str(config))


def test_a_mean_that_is_read_elsewhere_stays_a_function(tmp_path: Path) -> None:
    target = lane_target(16)
    kinds = [
        {use.task.kind for use in excitation(tmp_path / f"{end}.onnx", target, (1, 32, 5, 5), 8, end=end).uses}
        for end in ("", "mean")
    ]
    assert [KIND in kind for kind in kinds] == [True, False]


def test_a_recorded_function_is_accepted(tmp_path: Path) -> None:
    extraction = excitation(tmp_path / "m.onnx", lane_target(16), (1, 32, 5, 5), 8)
    check_recorded(next(use.task for use in extraction.uses if use.task.kind == KIND))
