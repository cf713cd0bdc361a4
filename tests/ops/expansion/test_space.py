"""A 1x1 convolution and the depthwise one that reads its result, as one function: every program is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.kernels import call_kernel
from tests.ops.depthwise.test_space import convolve
from tests.targets import LANES, lane_target, require
from tilewright.graph.expansions import count_joints
from tilewright.graph.grouping import enter_context, fuse, group
from tilewright.ops.contraction import conv2d, depthwise_conv2d
from tilewright.ops.expansion import ExpansionSpace, ExpansionTemplate
from tilewright.ops.mark import take_marks
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import IRModule

Array = np.ndarray[Any, Any]
_DRAWN = settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def expansion(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, ...] = (1, 1, 1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> IRModule:
    """A module of both convolutions, with a ReLU after each of them.

    Args:
        data: shape ``(n, C/cb, h, w, cb)``.
        weight: shape ``(O/x, C/cb, 1, 1, cb, x)`` of the first convolution.
        kernel: of the second.
        stride: of the second.
        padding: of the second.
        dilation: of the second.
    """
    from tvm import relax

    blocks, x = weight[0], weight[-1]
    builder = relax.BlockBuilder()
    between = (data[0], blocks, *data[2:4], x)
    first = conv2d(data, weight, (1, 1), (0, 0, 0, 0), (1, 1))
    second = depthwise_conv2d(between, (blocks, *kernel, x), stride, padding, dilation)
    shapes = (data, weight, (blocks, *kernel, x))
    operands = [relax.Var(name, relax.TensorType(s, "float32")) for name, s in zip("dwv", shapes, strict=True)]
    with builder.function("main", operands):
        with builder.dataflow():
            value = operands[0]
            for function, weights in ((first, operands[1]), (second, operands[2])):
                shape = [int(extent) for extent in function.params[-1].ty.shape]
                out = relax.TensorType(shape, "float32")
                called = relax.call_tir(builder.add_func(function, "f"), [value, weights], out)
                value = builder.emit(relax.op.nn.relu(builder.emit(called)))
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    return builder.finalize()


def joints(module: IRModule) -> list[Task]:
    """The tasks of one function that the graph proposes for the functions of a module."""
    target = lane_target(16)
    with enter_context(target):
        fused, marks = take_marks(fuse(group(module)))
        return [joint.one for joint, _ in count_joints(fused, marks, 1, target)]


@pytest.mark.parametrize("lanes", LANES)
@_DRAWN
@given(data=st.data())
def test_windows_of_all_kinds(lanes: int, data: st.DataObject) -> None:
    import tvm

    def pair(least: int, most: int) -> tuple[int, int]:
        a, b = data.draw(st.lists(st.integers(least, most), min_size=2, max_size=2))
        return a, b

    target = lane_target(lanes)
    require(target)
    n, inputs = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(1, 2))
    blocks, cb = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    size, kernel, stride, dilation = pair(2, 17), pair(1, 5), pair(1, 3), pair(1, 2)
    padding = tuple(data.draw(st.lists(st.integers(0, 4), min_size=4, max_size=4)))
    x = data.draw(st.sampled_from([lanes, lanes - 1]))
    assume(kernel != (1, 1))
    for axis in range(2):
        assume(size[axis] + padding[axis] + padding[axis + 2] > dilation[axis] * (kernel[axis] - 1))
    weight = (blocks, inputs, 1, 1, cb, x)
    (task,) = joints(expansion((n, inputs, *size, cb), weight, kernel, stride, padding, dilation))
    space = make_space(task, target)
    assert isinstance(space, ExpansionSpace)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((n, inputs, *size, cb)).astype(np.float32)
    first = rng.standard_normal((blocks, inputs, 1, 1, cb, x)).astype(np.float32)
    second = rng.standard_normal((blocks, *kernel, x)).astype(np.float32)
    wide = np.einsum("nchwi,ockliv->nohwv", image.astype(np.float64), first)
    want = np.maximum(convolve(np.maximum(wide, 0.0), second, stride, padding, dilation), 0.0)
    for config in [space.default(), *sample(space, rng, 1)]:
        out = tvm.runtime.tensor(np.full(want.shape, np.nan, np.float32))
        arguments = [tvm.runtime.tensor(array) for array in (image, first, second)]
        call_kernel(space.schedule(config).mod, target, *arguments, out)
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-4, atol=1e-4, err_msg=str(config))


def test_what_does_not_fit_is_left_alone() -> None:
    """Rows of the map that do not fit half of the second cache, and vectors that are longer than a register."""
    template = ExpansionTemplate()
    (task,) = joints(expansion((1, 1, 8, 40, 8), (1, 1, 1, 1, 8, 16), (5, 5)))
    assert template.serves(task, lane_target(16))
    assert not template.serves(task, lane_target(8))
    assert make_space(task, lane_target(8)).template != ExpansionSpace.template
    assert joints(expansion((1, 1, 8, 4000, 8), (1, 1, 1, 1, 8, 16), (5, 5))) == []


def test_parts_do_not_make_most_rows_twice() -> None:
    (task,) = joints(expansion((1, 1, 12, 12, 8), (2, 1, 1, 1, 8, 16), (7, 7), padding=(3, 3, 3, 3)))
    space = make_space(task, lane_target(16))
    configs = sample(space, np.random.default_rng(0), 40)
    place = [knob.name for knob in space.knobs].index("parts")
    parts = {space.knobs[place].choices[config[place]][0] for config in configs}
    assert parts <= {1, 2}


def test_a_recorded_function_is_accepted() -> None:
    (task,) = joints(expansion((1, 1, 6, 6, 8), (2, 1, 1, 1, 8, 16), (3, 3)))
    check_recorded(task)
