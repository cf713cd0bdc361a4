"""What is proven to compute each element along a dimension by itself, and what is not."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from tilewright.frontend.onnx.independence import find_paddings, prove_independence
from tilewright.frontend.shapes import Declared


def read(text: str) -> onnx.ModelProto:
    return parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text)


#: Bodies of models of x [N,4,8,8], u [N,6] and the weights below, in which the first axis is one of examples.
INDEPENDENT = {
    "conv": "c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p)",
    "dense": "g = Gemm<transB=1>(u, d, b) y = Sigmoid(g)",
    "product": "t = Transpose<perm=[0,2,3,1]>(x) m = MatMul(t, q) y = Softmax<axis=-1>(m)",
    "reshape": "y = Reshape(x, rows)",
    "computed shape": """
        s = Shape(x) i = Constant<value_ints=[0]>() n = Gather(s, i) k = Constant<value_ints=[-1]>()
        z = Concat<axis=0>(n, k) y = Reshape(x, z)""",
    "attention of one example": """
        a = Reshape(x, heads) t = Transpose<perm=[0,2,1]>(a) m = MatMul(a, t) s = Softmax<axis=-1>(m)
        y = MatMul(s, a)""",
    "a token for each example": """
        s = Shape(u) i = Constant<value_int=0>() n = Gather(s, i) o = Constant<value_ints=[0]>()
        v = Unsqueeze(n, o) six = Constant<value_ints=[6]>() z = Concat<axis=0>(v, six) e = Expand(b, z)
        y = Concat<axis=1>(e, u)""",
    "two inputs": "f = Flatten(x) g = Gemm<transB=1>(u, d) y = Concat<axis=1>(f, g)",
    "resize": "y = Resize(x, , scales)",
    "reduction": "r = ReduceMean<axes=[2,3]>(x) y = Squeeze(r, last)",
    "einsum": 'y = Einsum<equation="nchw,cd->ndhw">(x, q)',
}
#: The same, in which elements of different examples meet, or might.
DEPENDENT = {
    "mean over examples": "y = ReduceMean<axes=[0]>(u)",
    "softmax over examples": "y = Softmax<axis=0>(u)",
    "products of examples": "t = Transpose(u) y = MatMul(t, u)",
    "examples beside each other": "m = MatMul(u, d) t = Transpose(u) y = MatMul(m, t)",
    "number of examples": "s = Shape(u) c = Cast<to=1>(s) r = ReduceProd(c) y = Div(u, r)",
    "reshape across": "y = Reshape(u, pairs)",
    "reversed": "y = Slice(u, starts, ends, first, steps)",
    "all elements": "y = ReduceSum(u)",
    "cumulative": "z = Constant<value_int=0>() y = CumSum(u, z)",
    "unknown": "y = NonZero(u)",
    "examples as channels": "t = Transpose<perm=[1,0,2,3]>(x) y = Conv(t, square)",
}


#: Inputs that depend on no example, and constants.
FREE = {"w": (5, 4, 3, 3), "d": (7, 6), "b": (6,), "q": (4, 9), "square": (3, 3, 1, 1)}
CONSTANTS = """
    int64[2] rows = {-1, 256}, int64[3] heads = {-1, 4, 64}, int64[2] pairs = {-1, 3}, float[4] scales = {1,1,2,2},
    int64[2] last = {2, 3}, int64[1] starts = {-1}, int64[1] ends = {-100}, int64[1] first = {0}, int64[1] steps = {-1}
"""
SHAPES, AXES = {"x": (3, 4, 8, 8), "u": (3, 6), **FREE}, {"x": 0, "u": 0}


def model(body: str) -> onnx.ModelProto:
    weights = ", ".join(f"float{list(shape)} {name}" for name, shape in FREE.items())
    return read(f"g (float[N,4,8,8] x, float[N,6] u, {weights}) => (y) <{CONSTANTS}> {{ {body} }}")


@pytest.mark.parametrize("case", INDEPENDENT)
def test_each_example_by_itself(case: str) -> None:
    found = prove_independence(model(INDEPENDENT[case]), SHAPES, AXES)
    assert found is not None
    assert found.outputs == {"y": 0}


@pytest.mark.parametrize("case", DEPENDENT)
def test_examples_that_meet(case: str) -> None:
    assert prove_independence(model(DEPENDENT[case]), SHAPES, AXES) is None


def test_the_width_of_an_image_is_not_independent() -> None:
    assert prove_independence(model(INDEPENDENT["conv"]), SHAPES, {"x": 3}) is None


def test_an_output_without_examples_stays_whole() -> None:
    made = read("g (float[N,6] u, float[6] v) => (y, z) { y = Relu(u) z = Relu(v) }")
    found = prove_independence(made, {"u": (3, 6), "v": (6,)}, {"u": 0})
    assert found is not None
    assert found.outputs == {"y": 0}


def test_axes_of_one_name_are_padded_together() -> None:
    made = read("g (float[N,6] u, float[6,N] v) => (y) { t = Transpose(v) y = Add(u, t) }")
    declared: Declared = {"u": ("N", 6), "v": (6, "N")}
    ((found,),) = find_paddings(made, declared, [{"u": (4, 6), "v": (6, 4)}])
    assert (found.inputs, found.outputs) == ({"u": 0, "v": 1}, {"y": 0})


def test_first_axes_without_a_name_are_tried_together() -> None:
    made = read("g (float[4,6] u, float[4,6] v) => (y) { y = Add(u, v) }")
    ((found,),) = find_paddings(made, {"u": ("", 6), "v": ("", 6)}, [{"u": (4, 6), "v": (4, 6)}])
    assert found.inputs == {"u": 0, "v": 0}
