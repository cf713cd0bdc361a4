"""Dividing a graph into compiled operators and segments that ONNX Runtime runs."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from tilewright.frontend.onnx.partition import SEGMENT, Partition, divide


def read(text: str) -> onnx.ModelProto:
    return parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text)


def kinds(partition: Partition) -> list[str]:
    return [node.op_type for node in partition.compiled.graph.node]


def test_a_graph_of_fixed_tensors_is_not_divided() -> None:
    model = read("g (float[2,3] x) => (float[2,3] y) { a = Relu(x) y = Tanh(a) }")
    partition = divide(model, {})
    assert partition.segments == ()
    assert kinds(partition) == ["Relu", "Tanh"]


def test_what_cannot_be_compiled_is_one_segment_between_compiled_operators() -> None:
    model = read("""
        g (float[64,512] x) => (float[64,512] y) {
            a = Relu(x)  b = Elu(a)  c = Selu(b)  y = Tanh(c)
        }""")
    partition = divide(model, {1: "a reason", 2: "another"})
    assert kinds(partition) == ["Relu", SEGMENT, "Tanh"]
    (segment,) = partition.segments
    assert segment.operators == ("Elu", "Selu")
    assert (segment.inputs, segment.outputs) == (("a",), ("c",))
    assert segment.reasons == ("Elu (b): a reason", "Selu (c): another")
    assert partition.order == (0, -1, 3)


def test_operators_that_do_not_wait_for_each_other_share_a_segment() -> None:
    model = read("""
        g (float[64,512] x, float[64,512] z) => (float[64,512] y) {
            a = Elu(x)  b = Relu(z)  c = Selu(b)  y = Add(a, c)
        }""")
    partition = divide(model, {0: "no", 2: "no"})
    assert len(partition.segments) == 1
    assert sorted(partition.segments[0].operators) == ["Elu", "Selu"]


def test_values_that_decide_a_shape_end_in_a_segment() -> None:
    model = read("""
        g (float[8,8] x) => (int64[2,n] y, float[8,8] z) {
            a = Relu(x)  y = NonZero(a)  z = Exp(a)
        }""")
    partition = divide(model, {})
    (segment,) = partition.segments
    assert "NonZero" in segment.operators
    assert segment.returned == ("y",)
    assert "its result 'y'" in " ".join(segment.reasons)


def test_nothing_of_open_shape_passes_by_a_compiled_operator() -> None:
    """The sum needs what values decide, and a product that would be computed in between."""
    model = read("""
        g (float[64,64] x) => (float[k] y) {
            n = NonZero(x)
            c = Size(n)
            f = Cast<to = 1>(c)
            p = Add(x, f)
            q = MatMul(p, p)
            m = ReduceMax<keepdims = 0>(q)
            i = Cast<to = 1>(n)
            j = Add(i, m)
            y = ReduceMax<keepdims = 0, axes = [0]>(j)
        }""")
    (segment,) = divide(model, {}).segments
    assert (segment.inputs, segment.outputs, segment.returned) == (("x",), (), ("y",))


def test_texts_are_given_to_the_segment_as_they_are() -> None:
    model = read("g (string[2] s, float[64,512] x) => (string[2] t, float[64,512] y) { t = Identity(s) y = Relu(x) }")
    partition = divide(model, {})
    (segment,) = partition.segments
    assert (segment.given, segment.returned) == (("s",), ("t",))
    assert [value.name for value in partition.compiled.graph.input] == ["x"]


@pytest.mark.parametrize("elements", [16, 1 << 16])
def test_small_groups_next_to_a_segment_join_it(elements: int) -> None:
    model = read(f"g (float[{elements}] x) => (float[{elements}] y) {{ a = Elu(x) y = Relu(a) }}")
    partition = divide(model, {0: "no"})
    assert kinds(partition) == ([SEGMENT] if elements == 16 else [SEGMENT, "Relu"])


def test_what_follows_an_encoder_of_labels_is_compiled() -> None:
    model = read("""
        g (int64[2,300] k, float[300,64] w) => (float[2,64] y) {
            a = ai.onnx.ml.LabelEncoder<keys_int64s = [1, 2], values_floats = [0.5, 1.0]>(k)
            b = ai.onnx.ml.Scaler<offset = [0.0], scale = [2.0]>(a)
            c = ai.onnx.ml.Imputer<imputed_value_floats = [1.0]>(b)
            y = MatMul(c, w)
        }""")
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    partition = divide(model, {0: "no", 1: "no", 2: "no"})
    assert kinds(partition) == [SEGMENT, "MatMul"]
    assert (partition.segments[0].inputs, partition.segments[0].outputs) == (("k",), ("c",))
