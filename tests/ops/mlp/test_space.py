"""Two dense layers as one function: every program is right."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels import call_kernel
from tests.targets import LANES, lane_target, require
from tilewright.graph.expansions import count_joints
from tilewright.graph.grouping import enter_context, fuse, group
from tilewright.ops.contraction import dense
from tilewright.ops.mark import take_marks
from tilewright.ops.mlp import MlpSpace, MlpTemplate
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.recorded import check_recorded
from tilewright.task import Task
from tilewright.tvm_compat import keep_nan

if TYPE_CHECKING:
    from tvm.ir import IRModule

Array = np.ndarray[Any, Any]
_DRAWN = settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def mlp(rows: int, depth: int, hidden: tuple[int, int], outs: tuple[int, int], residual: bool = True) -> IRModule:
    """A module of two dense layers: a bias and a ReLU after the first, and the data or a bias after the second.

    Args:
        rows: of the data.
        depth: columns of the data.
        hidden: blocks of columns, and columns of a block, of the first layer.
        outs: of the second.
        residual: whether the result of the second layer is added to another operand; otherwise it has a bias.
    """
    from tvm import relax

    between, columns = hidden[0] * hidden[1], outs[0] * outs[1]
    first = (hidden[0], depth, hidden[1])
    second = (outs[0], between, outs[1])
    last = (rows, columns) if residual else (columns,)
    shapes = {"x": (rows, depth), "w": first, "b": (between,), "v": second, "c": last}
    operands = {name: relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()}
    builder = relax.BlockBuilder()
    with builder.function("main", list(operands.values())):
        with builder.dataflow():
            value = operands["x"]
            for weight, more, width in (("w", "b", between), ("v", "c", columns)):
                function = dense(rows, shapes[weight], width)
                out = relax.TensorType((rows, width), "float32")
                called = relax.call_tir(builder.add_func(function, "f"), [value, operands[weight]], out)
                value = builder.emit(relax.op.add(builder.emit(called), operands[more]))
                value = builder.emit(relax.op.nn.relu(value)) if weight == "w" else value
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
def test_rows_and_columns_of_all_kinds(lanes: int, data: st.DataObject) -> None:
    import tvm

    target = lane_target(lanes)
    require(target)
    rows, depth = data.draw(st.integers(8, 61)), data.draw(st.integers(1, 37))
    x = [data.draw(st.sampled_from([lanes, lanes - 1])) for _ in range(2)]
    blocks = [data.draw(st.integers(1, 6)) for _ in range(2)]
    residual = data.draw(st.booleans())
    hidden, outs = zip(blocks, x, strict=True)
    (task,) = joints(mlp(rows, depth, hidden, outs, residual))
    space = make_space(task, target)
    assert isinstance(space, MlpSpace)
    rng = np.random.default_rng(0)
    between, columns = hidden[0] * hidden[1], outs[0] * outs[1]
    shapes = (rows, depth), (hidden[0], depth, hidden[1]), (between,), (outs[0], between, outs[1])
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays.append(rng.standard_normal((rows, columns) if residual else columns).astype(np.float32))
    wide = np.einsum("mk,okv->mov", arrays[0].astype(np.float64), arrays[1]).reshape(rows, between) + arrays[2]
    want = np.einsum("mk,okv->mov", np.maximum(wide, 0.0), arrays[3]).reshape(rows, columns) + arrays[4]
    for config in [space.default(), *sample(space, rng, 1)]:
        out = tvm.runtime.tensor(np.full(want.shape, np.nan, np.float32))
        call_kernel(space.schedule(config).mod, target, *map(tvm.runtime.tensor, arrays), out)
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-4, atol=1e-3, err_msg=str(config))


def test_few_rows_and_long_vectors_are_left_alone() -> None:
    (task,) = joints(mlp(8, 5, (2, 16), (1, 16)))
    assert MlpTemplate().serves(task, lane_target(16))
    assert not MlpTemplate().serves(task, lane_target(8))
    assert joints(mlp(7, 5, (2, 16), (1, 16))) == []


def test_hidden_rows_fit_half_of_the_second_cache() -> None:
    (task,) = joints(mlp(256, 8, (16, 16), (1, 16)))
    target = dataclasses.replace(lane_target(16), l2=64 << 10, cores=2)
    space = make_space(task, target)
    place = [knob.name for knob in space.knobs].index("chunks")
    for config in [space.default(), *sample(space, np.random.default_rng(0), 20)]:
        chunk = -(-256 // space.knobs[place].choices[config[place]][0])
        assert 4 * 256 * chunk <= target.l2 // 2


def test_the_next_weights_are_fetched() -> None:
    (task,) = joints(mlp(32, 8, (4, 16), (4, 16)))
    space = make_space(task, lane_target(16))
    assert "prefetch" in keep_nan(space.schedule(space.default()).mod).script()


def test_a_recorded_function_is_accepted() -> None:
    (task,) = joints(mlp(16, 4, (2, 16), (2, 16)))
    check_recorded(task)
