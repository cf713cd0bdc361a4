"""Open dimensions, values and shapes of ONNX models: what is asked for, proposed, and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from tests.models import normal, save
from tilewright import load
from tilewright.errors import ShapeError
from tilewright.frontend.load import load_buckets
from tilewright.frontend.shapes import ShapeRequest


def write(path: Path, text: str) -> Path:
    onnx.save(parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text), str(path))
    return path


def test_every_open_dimension_is_named_with_options_that_work(tmp_path: Path) -> None:
    """An image and a mask: the sides of an image get 224, a length 128, what counts examples 1."""
    path = write(
        tmp_path / "m.onnx",
        """g (float[N,3,H,W] image, float[N,length] mask) => (y, z) { y = Relu(image) z = Relu(mask) }""",
    )
    message = (
        r"'image' is \[N,3,H,W\] and 'mask' is \[N,length\]; fix them with "
        r"--shape image=1,3,224,224 --shape mask=1,128$"
    )
    with pytest.raises(ShapeError, match=message):
        load(path)


def test_names_that_inputs_share_are_given_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        """g (float[batch,length] ids, float[batch,length] mask, float[batch,length] kinds) => (y) {
            a = Add(ids, mask) y = Add(a, kinds) }""",
    )
    with pytest.raises(ShapeError, match=r"--shape batch=1 --shape length=128$"):
        load(path)
    request = ShapeRequest((("batch", ((1,),)), ("length", ((32,), (64,)))))
    assert [network.inputs[2].shape for network in load_buckets(path, request)] == [(1, 32), (1, 64)]


def test_proposed_shapes_are_ones_that_run(tmp_path: Path) -> None:
    """The model takes vectors of 16 only."""
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["N", "K"]},
        ["N", 8],
        w=normal(16, 8),
    )
    with pytest.raises(ShapeError, match=r"--shape x=1,16$"):
        load(path)


def test_an_input_of_unknown_rank(tmp_path: Path) -> None:
    model = onnx.load(str(write(tmp_path / "m.onnx", "g (float[N] x) => (y) { y = Relu(x) }")))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(ShapeError, match=r"'x' is \[...\]; fix it with --shape x="):
        load(tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx", {"x": (2, 3, 4)}).outputs[0].shape == (2, 3, 4)


def test_a_shape_that_the_model_cannot_take(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "g (float[N,K] x) => (y) <int64[2] s = {-1, 6}> { y = Reshape(x, s) }")
    assert load(path, {"x": (2, 3)}).outputs[0].shape == (1, 6)
    with pytest.raises(ShapeError, match=r"cannot take x=2,4: .*incompatible shapes"):
        load(path, {"x": (2, 4)})


def test_a_fixed_value_folds_what_depends_on_it(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        """g (float[2,8] x, int64 rate) => (y) <int64 known = {16000}> {
            same = Equal(rate, known)
            y = If (same) <
                then_branch = then () => (float[2,8] a) { a = Relu(x) },
                else_branch = otherwise () => (float[2,8] b) { b = Neg(x) }
            >
        }""",
    )
    network = load(path, ShapeRequest(values={"rate": (16000,)}))
    assert [spec.name for spec in network.inputs] == ["x"]
    assert network.folded is not None
    assert [node.op_type for node in network.folded.graph.node] == ["Relu"]
    (fixed,) = network.signature.fixed
    assert (fixed.place, fixed.spec.name, fixed.value.tolist()) == (1, "rate", 16000)
    for values, says in (({"none": (1,)}, "'none' is none; it has: x, rate"), ({"rate": (0.5,)}, "numbers of int64")):
        with pytest.raises(ShapeError, match=says):
            load(path, ShapeRequest(values=values))
    with pytest.raises(ShapeError, match="all numbers of an input"):
        load(path, ShapeRequest(values={"x": (1, 2)}))


def test_an_extent_of_0_is_0_unless_another_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "g (float[0,3] x, float[0] k) => (y) { s = ReduceSum(k) y = Mul(x, s) }")
    assert load(path).outputs[0].shape == (0, 3)
    fixed = {"k": (1.0, 2.0)}
    assert load(path, ShapeRequest(values=fixed)).signature.fixed[0].value.tolist() == [1.0, 2.0]
    networks = load_buckets(path, ShapeRequest((("x", ((1, 2), (3,))),), values=fixed))
    assert [network.outputs[0].shape for network in networks] == [(1, 3), (2, 3)]
    with pytest.raises(ShapeError, match=r"'x' is \[0,3\] and \[2, 4\] was given"):
        load(path, {"x": (2, 4)})


def test_several_shapes_are_no_single_network(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "g (float[N,3] x) => (y) { y = Relu(x) }")
    with pytest.raises(ShapeError, match="one of them only"):
        load(path, [{"x": (1, 3)}, {"x": (2, 3)}])
    networks = load_buckets(path, [{"x": (1, 3)}, {"x": (2, 3)}])
    assert [network.outputs[0].shape for network in networks] == [(1, 3), (2, 3)]
    assert [padding.inputs for padding in networks[1].signature.paddings] == [{"x": 0}]
    assert np.all([network.signature.declared == {"x": ("N", 3)} for network in networks])


def test_a_single_integer_may_decide_what_a_model_takes(tmp_path: Path) -> None:
    """The branches take vectors of 6 and of 4, so no run with made-up integers shows that 6 is wrong."""
    text = """
        g (float[N] x, int64 rate) => (y) <int64 known = {16000}, int64[2] six = {2, 3}, int64[2] four = {2, 2}> {
            same = Equal(rate, known)
            y = If (same) <
                then_branch = then () => (a) { a = Reshape(x, six) },
                else_branch = otherwise () => (b) { b = Reshape(x, four) }
            >
        }"""
    path = write(tmp_path / "m.onnx", text)
    assert [spec.name for spec in load(path, {"x": (6,)}).inputs] == ["x", "rate"]
    assert load(path, ShapeRequest((("x", ((6,),)),), values={"rate": (16000,)})).outputs[0].shape == (2, 3)
    with pytest.raises(ShapeError, match="cannot take x=4"):
        load(path, ShapeRequest((("x", ((4,),)),), values={"rate": (16000,)}))


BRANCHES = """
    g (float[N] x, int64 rate, bool loud) => (y, z)
    <int64 known = {16000}, int64[2] six = {2, 3}, int64[2] four = {2, 2}> {
        given = Cast<to = 7>(rate)
        same = Equal(given, known)
        y = If (same) <
            then_branch = then () => (a) { a = Reshape(x, six) },
            else_branch = otherwise () => (b) { b = Reshape(x, four) }
        >
        z = If (loud) <
            then_branch = up () => (c) { c = Exp(x) },
            else_branch = down () => (d) { n = NonZero(x) d = Cast<to = 1>(n) }
        >
    }"""


def test_an_input_that_decides_what_runs_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", BRANCHES)
    with pytest.raises(ShapeError, match=r"with --shape x=\d+ --fix rate=16000; the value of 'rate' decides") as caught:
        load(path)
    assert "'loud' decides which operators run, so give it with --fix loud=VALUE" in str(caught.value)
    (segment,) = load(path, {"x": (6,)}).segments
    assert any("the input 'rate'; give the input its value with --fix rate=16000" in why for why in segment.reasons)
    assert any("--fix loud=VALUE" in why for why in segment.reasons)


def test_shapes_are_proposed_with_the_value(tmp_path: Path) -> None:
    """Vectors of 16 are taken with the value only, and those of 128 without it."""
    text = """
        g (float[1,K] x, int64 rate) => (y) <int64 known = {16000}, int64[2] a = {4, 4}, int64[2] b = {4, 32}> {
            same = Equal(rate, known)
            y = If (same) <
                then_branch = then () => (p) { p = Reshape(x, a) },
                else_branch = otherwise () => (q) { q = Reshape(x, b) }
            >
        }"""
    with pytest.raises(ShapeError, match=r"with --shape x=1,16 --fix rate=16000; "):
        load(write(tmp_path / "m.onnx", text))


def test_a_model_whose_value_was_fixed_before_is_folded_again(tmp_path: Path) -> None:
    """ONNX Runtime 1.32 folds the condition only with open shapes."""
    path = write(tmp_path / "m.onnx", BRANCHES.replace(", bool loud", "").replace("If (loud)", "If (same)"))
    network = load(path, ShapeRequest((("x", ((6,),)),), values={"rate": (16000,)}))
    assert network.onnx is not None
    onnx.save(network.onnx, str(tmp_path / "fixed.onnx"))
    again = load(tmp_path / "fixed.onnx")
    assert not again.segments
    assert [spec.name for spec in again.inputs] == ["x"]
    assert [spec.shape for spec in again.outputs] == [(2, 3), (6,)]
