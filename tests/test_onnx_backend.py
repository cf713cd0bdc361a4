"""The backend of ONNX: a sample of ONNX's own node tests, and what the interface takes and refuses."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright.onnx_backend as backend
from bench._node_tests import NodeTest, collect, complain
from tests.models import runs
from tests.pages import names, programs
from tilewright.errors import ModelError, ModelFormatError, ShapeError, TargetError, TilewrightError

#: Node tests by the modules of the onnx package that have them.
SAMPLE = {
    "add": ["test_add_bcast", "test_add_uint8"],
    "argmax": ["test_argmax_negative_axis_keepdims_random"],
    "averagepool": ["test_averagepool_2d_precomputed_same_upper"],
    "clip": ["test_clip_default_min"],
    "conv": ["test_conv_with_strides_and_asymmetric_padding"],
    "convtranspose": ["test_convtranspose_pads"],
    "cumsum": ["test_cumsum_1d_reverse_exclusive"],
    "depthtospace": ["test_depthtospace_crd_mode_example"],
    "einsum": ["test_einsum_batch_matmul"],
    "expand": ["test_expand_dim_changed"],
    "gather": ["test_gather_negative_indices"],
    "gathernd": ["test_gathernd_example_float32"],
    "gelu": ["test_gelu_tanh_2"],
    "gemm": ["test_gemm_all_attributes"],
    "gru": ["test_gru_with_initial_bias"],
    "hardswish": ["test_hardswish"],
    "identity": ["test_identity_sequence"],
    "if_": ["test_if"],
    "layernormalization": ["test_layer_normalization_default_axis"],
    "loop": ["test_loop11"],
    "lstm": ["test_lstm_with_peepholes"],
    "matmul": ["test_matmul_1d_3d"],
    "maxpool": ["test_maxpool_2d_ceil"],
    "nonmaxsuppression": ["test_nonmaxsuppression_two_classes"],
    "nonzero": ["test_nonzero_example"],
    "onehot": ["test_onehot_negative_indices"],
    "pad": ["test_constant_pad_axes"],
    "qlinearmatmul": ["test_qlinearmatmul_2D_uint8_float32"],
    "resize": ["test_resize_upsample_scales_linear_align_corners"],
    "scatterelements": ["test_scatter_elements_with_axis"],
    "slice": ["test_slice_neg_steps"],
    "softmax": ["test_softmax_negative_axis"],
    "split": ["test_split_variable_parts_2d_opset13"],
    "string_concat": ["test_string_concat"],
    "tile": ["test_tile_precomputed"],
    "topk": ["test_top_k_smallest"],
    "transpose": ["test_transpose_default"],
    "trilu": ["test_triu_neg"],
    "where": ["test_where_long_example"],
}
NAMES = [name for names in SAMPLE.values() for name in names]


@cache
def collected() -> dict[str, NodeTest]:
    return collect(list(SAMPLE))


@runs
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_node_test(name: str) -> None:
    test = collected()[name]
    prepared = backend.prepare(test.model, isolated=False)
    for inputs, expected in test.data():
        assert complain(expected, prepared.run(inputs), test.case.rtol, test.case.atol) == ""


def model(*nodes: onnx.NodeProto, rows: int | str = 2) -> onnx.ModelProto:
    """A model that takes ``x`` and ``z`` and gives the results of its nodes, all of ``[rows, 3]``."""
    results = [name for node in nodes for name in node.output]
    taken, given = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 3]) for name in end] for end in ("xz", results)
    )
    graph = helper.make_graph(list(nodes), "g", taken, given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


X, Z = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 2.0, dtype=np.float32)
SUBTRACT = helper.make_node("Sub", ["x", "z"], ["difference"])
DIVIDE = helper.make_node("Div", ["x", "z"], ["1st"])


@runs
def test_inputs_are_a_list_or_a_mapping_and_outputs_have_names() -> None:
    prepared = backend.prepare(model(SUBTRACT, DIVIDE), isolated=False)
    assert prepared.segments == ()
    for inputs in ([X, Z], (X, Z), {"z": Z, "x": X}):
        found = prepared.run(inputs)
        np.testing.assert_array_equal(found[0], X - 2)
        by_name: Any = found
        np.testing.assert_array_equal(by_name["difference"], X - 2)
        np.testing.assert_array_equal(by_name["1st"], X / 2)
        assert [type(output) for output in found] == [np.ndarray, np.ndarray]
    with pytest.raises(ShapeError, match=r"\(x, z\), but 'z' is missing"):
        prepared.run({"x": X})
    with pytest.raises(ShapeError, match="'w' is none of them"):
        prepared.run({"w": X, "x": X, "z": Z})
    with pytest.raises(ShapeError, match="2 inputs and got 1 array"):
        prepared.run(X)
    with pytest.raises(TilewrightError, match="run has no option 'threads'"):
        prepared.run([X, Z], threads=2)


@runs
def test_shapes_fix_open_dimensions_and_the_file_is_read_in_another_process() -> None:
    shapes = {"x": (2, 3), "z": (2, 3)}
    (found,) = backend.run_model(model(SUBTRACT, rows="n"), [X, Z], shapes=shapes)
    np.testing.assert_array_equal(found, X - 2)


@runs
def test_a_model_with_open_dimensions_is_built_for_the_shapes_that_it_is_run_with() -> None:
    prepared = backend.prepare(model(SUBTRACT, rows="n"), isolated=False)
    with pytest.raises(ShapeError, match="'x' has open dimensions; run it first"):
        prepared.segments  # noqa: B018
    (found,) = prepared.run([X, Z])
    np.testing.assert_array_equal(found, X - 2)
    first = prepared.executable
    (found,) = prepared.run({"x": X[:1], "z": Z[:1]})
    np.testing.assert_array_equal(found, X[:1] - 2)
    assert prepared.executable is not first
    prepared.run([X, Z])
    assert prepared.executable is first


@runs
def test_a_dimension_of_0_is_meant_as_it_is() -> None:
    nothing = np.zeros((0, 3), dtype=np.float32)
    (found,) = backend.run_model(model(SUBTRACT, rows=0), [nothing, nothing], isolated=False)
    assert found.shape == (0, 3)


def test_a_model_that_can_be_read_is_compatible() -> None:
    valid, twice = model(SUBTRACT), model(SUBTRACT, SUBTRACT)
    assert backend.is_compatible(valid)
    assert not backend.is_compatible(valid, "CUDA")
    assert not backend.is_compatible(twice)


def test_only_the_cpu_is_supported() -> None:
    assert [backend.supports_device(device) for device in ("CPU", "CPU:0", "CPU:1", "CUDA")] == [1, 1, 0, 0]
    with pytest.raises(TargetError, match="'CUDA:1' was asked for"):
        backend.prepare(model(SUBTRACT), "CUDA:1")


def test_what_is_no_option_or_no_model_is_refused() -> None:
    with pytest.raises(TilewrightError, match="prepare has no option 'fast'"):
        backend.prepare(model(SUBTRACT), fast=True)
    with pytest.raises(TilewrightError, match="a budget is a duration"):
        backend.prepare(model(SUBTRACT), budget=30)
    with pytest.raises(TilewrightError, match="shapes are a mapping"):
        backend.prepare(model(SUBTRACT), shapes=[2, 3])
    with pytest.raises(ModelFormatError, match=r"takes an onnx.ModelProto, but this is a str"):
        backend.prepare("model.onnx")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="two nodes compute 'difference'"):
        backend.prepare(model(SUBTRACT, SUBTRACT), isolated=False)


@runs
def test_one_node_runs_with_inferred_outputs_or_given_ones() -> None:
    node = helper.make_node("Clip", ["x", "", "most"], ["y"])
    most = np.asarray(3.0, dtype=np.float32)
    for inputs in ([X, most], {"most": most, "x": X}):
        (found,) = backend.run_node(node, inputs, isolated=False)
        np.testing.assert_array_equal(found, np.minimum(X, 3))
    old = helper.make_node("Squeeze", ["x"], ["y"], axes=[0])
    told = [(np.dtype(np.float32), (3,))]
    (found,) = backend.run_node(old, [X[:1]], outputs_info=told, opset_version=11, isolated=False)
    np.testing.assert_array_equal(found, X[0])
    with pytest.raises(ShapeError, match=r"an array for each input \(x, most\), but got 1 array"):
        backend.run_node(node, [X])


@runs
def test_a_budget_tunes_and_judges() -> None:
    weights = numpy_helper.from_array(np.ones((3, 3), dtype=np.float32), "w")
    made = model(helper.make_node("MatMul", ["x", "w"], ["product"]), SUBTRACT)
    made.graph.initializer.append(weights)
    prepared = backend.prepare(made, budget="1s")
    assert prepared.executable.manifest["verdict"]["outcome"] == "right"
    np.testing.assert_allclose(prepared.run([X, Z])[0], X @ np.ones((3, 3)))


@runs
def test_the_program_on_the_page_runs() -> None:
    names(*programs("reference/models.md"))
