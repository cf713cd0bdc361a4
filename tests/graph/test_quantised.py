"""Quantised networks: integers all the way, and ONNX Runtime's results to a quantum, exactly where ties are exact."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from tests.agreement import one_thread
from tests.frontend.onnx.small import agrees
from tests.kernels import assembly
from tests.models import TARGET, build_lean, built, defaults, read, runs
from tests.targets import LANES, lack, lane_target
from tilewright.graph.tasks import Extraction, extract
from tilewright.ops.registry import make_space
from tilewright.space.module import task_module
from tilewright.space.space import name_instruction
from tilewright.target import Target

Arrays = dict[str, NDArray[Any]]


class Sketch:
    """A quantised model, operator by operator. Tensors of real numbers come from ``dq``, and integers from ``q``."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: Arrays = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def constant(self, array: Any, dtype: str) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(array, dtype)
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], domain=domain, **attributes))
        return out

    def input(self, *shape: int) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def q(self, x: str, scale: float, zero: int, dtype: str = "uint8") -> str:
        return self.op("QuantizeLinear", x, self.constant(scale, "float32"), self.constant(zero, dtype))

    def dq(self, x: str, scale: float, zero: int, dtype: str = "uint8") -> str:
        return self.op("DequantizeLinear", x, self.constant(scale, "float32"), self.constant(zero, dtype))

    def qdq(self, x: str, scale: float, zero: int, dtype: str = "uint8") -> str:
        return self.dq(self.q(x, scale, zero, dtype), scale, zero, dtype)

    def weight(self, *shape: int, scales: Any = 0.01, axis: int = 0) -> str:
        levels = self.constant(self.rng.integers(-127, 128, shape), "int8")
        zeros = self.constant(np.zeros(np.shape(scales)), "int8")
        return self.op("DequantizeLinear", levels, self.constant(scales, "float32"), zeros, axis=axis)

    def output(self, name: str, dtype: int = TensorProto.UINT8) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, None))

    def save(self, path: Path) -> Path:
        tensors = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, tensors)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
        return path


def convolutions(net: Sketch) -> None:
    """Per channel, with padding of a zero point, gaps, strides, saturation, limits, and a residual of another scale."""
    a = net.qdq(net.input(1, 3, 11, 9), 0.02, 131)
    scales = net.rng.uniform(1e-3, 9e-3, 20)
    bias = net.constant(net.rng.standard_normal(20), "float32")
    net.output(
        net.q(net.op("Relu", net.op("Conv", a, net.weight(20, 3, 3, 3, scales=scales), bias, pads=[1] * 4)), 0.03, 0)
    )
    b = net.qdq(net.input(1, 20, 8, 7), 0.0313, 0)
    c = net.op("Conv", b, net.weight(20, 20, 3, 3, scales=scales), pads=[1] * 4)
    net.output(net.q(net.op("Relu", net.op("Add", net.qdq(c, 0.0471, 117), b)), 0.0407, 3))
    e = net.qdq(net.input(1, 20, 10, 10), 0.04, 3)
    f = net.op("MaxPool", e, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    g = net.op("Conv", net.qdq(f, 0.04, 3), net.weight(32, 20, 1, 1), strides=[2, 2])
    net.output(net.q(net.op("Clip", g, net.constant(-1.0, "float32"), net.constant(2.5, "float32")), 0.01, 100))


def signed(net: Sketch) -> None:
    """Signed bytes of data, with and without a zero point. A grouped convolution stays float."""

    def end(x: str, scale: float, zero: int) -> None:
        net.output(net.q(x, scale, zero, "int8"), TensorProto.INT8)

    inputs = [net.qdq(net.input(1, 16, 7, 7), 0.03, zero, "int8") for zero in (-5, 0, 4)]
    end(net.op("Conv", inputs[0], net.weight(16, 16, 3, 3), pads=[1] * 4), 0.2, 0)
    end(net.op("Conv", inputs[1], net.weight(16, 1, 3, 3), group=16, pads=[1] * 4), 0.2, 4)
    end(net.op("Conv", inputs[2], net.weight(8, 8, 1, 1), group=2), 0.2, 0)
    end(net.op("Conv", inputs[1], net.weight(16, 16, 1, 1)), 0.5, 2)


def products(net: Sketch) -> None:
    """Products of rows: three dimensions, a transposed weight, a bias, columns that fill no block; after a reshape."""
    a = net.qdq(net.input(2, 5, 24), 0.02, 120)
    b = net.op("MatMul", a, net.weight(24, 36, scales=net.rng.uniform(1e-3, 9e-3, 36), axis=1))
    net.output(net.q(net.op("Add", b, net.constant(net.rng.standard_normal(36), "float32")), 0.02, 127))
    d = net.op("Reshape", net.qdq(net.input(2, 5, 36), 0.02, 127), net.constant([10, 36], "int64"))
    bias = net.constant(net.rng.standard_normal(17), "float32")
    net.output(net.q(net.op("Gemm", d, net.weight(17, 36), bias, transB=1), 0.04, 130))


def operators(net: Sketch) -> None:
    """Operators on integers, as ``onnxruntime.quantization`` writes them."""
    x = net.q(net.input(1, 8, 6, 6), 0.02, 128)
    numbers = [net.constant(v, d) for v, d in ((0.02, "float32"), (128, "uint8"))]
    scales = [net.constant(net.rng.uniform(1e-3, 9e-3, 16), "float32"), net.constant(np.zeros(16), "int8")]
    weight = net.constant(net.rng.integers(-127, 128, (16, 8, 3, 3)), "int8")
    out = [net.constant(v, d) for v, d in ((0.03, "float32"), (120, "uint8"))]
    bias = net.constant(net.rng.integers(-3000, 3000, 16), "int32")
    y = net.op("QLinearConv", x, *numbers, weight, *scales, *out, bias, pads=[1] * 4)
    z = net.op("QLinearAdd", y, *out, y, *out, *numbers, domain="com.microsoft")
    p = net.op("QLinearGlobalAveragePool", z, *numbers, *numbers, domain="com.microsoft")
    flat = net.op("Reshape", p, net.constant([1, 16], "int64"))
    levels = net.rng.integers(-127, 128, (16, 12))
    # Each has tensors of its own: ONNX Runtime fails where it makes those of both unsigned (see reference).
    matrices = [
        [net.constant(levels, "int8"), net.constant(0.01, "float32"), net.constant(0, "int8")] for _ in range(2)
    ]
    net.output(net.op("QLinearMatMul", flat, *numbers, *matrices[0], *out))
    net.output(net.op("QGemm", flat, *numbers, *matrices[1], "", *out, domain="com.microsoft"))


def limits(net: Sketch) -> None:
    """Limits of which one is beyond the other, or beyond all bytes. An Add also reads the data as float32 first."""

    def clip(x: str, low: float, high: float) -> str:
        return net.op("Clip", x, net.constant(low, "float32"), net.constant(high, "float32"))

    a = net.qdq(net.input(1, 16, 6, 6), 0.03, 120)
    for low, high in ((-6.0, -2.0), (2.0, 5.0)):
        b = net.op("Relu", net.op("Conv", a, net.weight(16, 16, 1, 1)))
        net.output(net.q(net.op("Add", clip(clip(b, 0.0, 1.0), low, high), a), 0.05, 30))
    net.output(net.q(net.op("Add", clip(net.op("Conv", a, net.weight(16, 16, 1, 1)), -6.0, -2.0), a), 0.05, 60))
    # Numbers beyond 2^22 quanta, whose limits are applied before they are rounded.
    net.output(net.q(net.op("Conv", a, net.weight(16, 16, 1, 1)), 1e-6, 100))
    # Limits beyond all bytes. ONNX Runtime removes a Clip that ends in a quantiser alone.
    c = clip(net.op("Conv", a, net.weight(16, 16, 1, 1)), -6.0, -2.0)
    net.output(net.q(c, 0.05, 0))
    net.output(net.q(net.op("MaxPool", c, kernel_shape=[2, 2]), 0.05, 90))


def axes(net: Sketch) -> None:
    """Sums of a convolution and a product: the scales of one are those of channels, and of the other of columns."""
    for width in (16, 12):  # as many columns as channels, and fewer
        a = net.qdq(net.input(1, 16, 6, width), 0.03, 120)
        b = net.op("Conv", a, net.weight(16, 16, 1, 1, scales=net.rng.uniform(1e-3, 9e-3, 16)))
        c = net.op("MatMul", a, net.weight(width, width, scales=net.rng.uniform(1e-3, 9e-3, width), axis=1))
        net.output(net.q(net.op("Add", b, c), 0.05, 100))


def channels_alone(net: Sketch) -> None:
    """Depthwise kernels of several sizes, strides and paddings, between pointwise convolutions, on blocks with gaps."""
    a = net.qdq(net.input(1, 20, 11, 9), 0.03, 131)
    scales = net.rng.uniform(1e-3, 9e-3, 20)
    b = net.op("Conv", a, net.weight(20, 1, 5, 5, scales=scales), group=20, pads=[2, 1, 2, 3], strides=[2, 1])
    c = net.qdq(net.op("Relu", b), 0.04, 3)
    d = net.qdq(net.op("Conv", c, net.weight(32, 20, 1, 1)), 0.2, 120)
    bias = net.constant(net.rng.standard_normal(32), "float32")
    weight = net.weight(32, 1, 3, 3, scales=net.rng.uniform(1e-3, 9e-3, 32))
    e = net.op("Conv", d, weight, bias, group=32, pads=[1] * 4, strides=[2, 2])
    net.output(net.q(net.op("Conv", d, net.weight(32, 1, 3, 3), group=32, pads=[2] * 4, dilations=[2, 2]), 0.3, 110))
    net.output(net.q(e, 0.3, 100))


def activations(net: Sketch) -> None:
    """Functions of bytes: hard-swish as the quantiser writes it, SiLU, GELU. Some are also read as float32."""
    a = net.qdq(net.input(1, 16, 6, 5), 0.03, 120)
    b = net.qdq(net.op("Conv", a, net.weight(16, 16, 1, 1)), 0.06, 110)
    gate = net.qdq(net.op("HardSigmoid", b, alpha=1 / 6), 1 / 255, 0)
    net.output(net.q(net.op("Mul", b, gate), 0.05, 10))
    c = net.qdq(net.op("Conv", a, net.weight(16, 16, 1, 1)), 0.06, -4, "int8")
    silu = net.op("Mul", c, net.qdq(net.op("Sigmoid", c), 1 / 255, 0))
    net.output(net.q(silu, 0.05, -3, "int8"), TensorProto.INT8)
    halves = net.op("Mul", c, net.constant(0.5, "float32"))
    erf = net.op("Erf", net.op("Mul", c, net.constant(0.5**0.5, "float32")))
    gelu = net.op("Mul", halves, net.op("Add", erf, net.constant(1.0, "float32")))
    net.output(net.q(gelu, 0.041, 9))  # far from ties: a scale of 0.04 halves every other level
    d = net.op("Conv", a, net.weight(16, 16, 1, 1))
    erf = net.op("Erf", net.op("Mul", d, net.constant(0.5**0.5, "float32")))
    gelu = net.op(
        "Mul", net.op("Mul", d, net.op("Add", erf, net.constant(1.0, "float32"))), net.constant(0.5, "float32")
    )
    net.output(
        net.q(net.op("HardSwish", net.op("Add", gelu, net.constant(0.1, "float32"))), 0.041, 9)
    )  # reads it twice
    net.output(net.q(net.op("Add", net.op("Tanh", b), net.op("Softmax", b, axis=1)), 0.01, 100))
    net.output(net.q(net.op("AveragePool", b, kernel_shape=[2, 3], pads=[0, 1, 1, 0]), 0.031, 100))


def excitation(net: Sketch) -> None:
    """Means of bytes, also with padding; products with gates, and of two whole tensors; in a block with gaps."""
    a = net.qdq(net.input(1, 20, 7, 6), 0.03, 120)
    b = net.qdq(net.op("Conv", a, net.weight(20, 20, 1, 1)), 0.06, 110)
    c = net.qdq(net.op("GlobalAveragePool", b), 0.01, 128)
    gate = net.qdq(net.op("Sigmoid", net.qdq(net.op("Conv", c, net.weight(20, 20, 1, 1)), 0.02, 128)), 1 / 255, 0)
    d = net.qdq(net.op("Mul", b, gate), 0.04, 118)
    net.output(net.q(net.op("Mul", net.qdq(net.op("Conv", a, net.weight(20, 20, 1, 1)), 0.06, 10), d), 0.2, 100))
    pooled = net.op("AveragePool", d, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=1)
    net.output(net.q(pooled, 0.03, 100))


def attentions(net: Sketch) -> None:
    """Heads of one projection that is split and scaled; then of three, signed, with a mask and rounded again."""
    tokens, heads, depth = 13, 2, 8
    a = net.qdq(net.input(1, tokens, 16), 0.02, 120)
    b = net.qdq(net.op("MatMul", a, net.weight(16, 3 * heads * depth, scales=0.0103)), 0.03, 128)
    b = net.qdq(net.op("Reshape", b, net.constant([1, tokens, 3, heads, depth], "int64")), 0.03, 128)
    parts = [f"part{i}" for i in range(3)]
    net.nodes.append(helper.make_node("Split", [b, net.constant([1, 1, 1], "int64")], parts, axis=2))
    split = [net.qdq(net.op("Squeeze", x, net.constant([2], "int64")), 0.03, 128) for x in parts]
    orders = [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]]
    q, k, v = (net.qdq(net.op("Transpose", x, perm=p), 0.03, 128) for x, p in zip(split, orders, strict=True))
    q, k = (net.qdq(net.op("Mul", x, net.constant(0.6, "float32")), 0.021, 125) for x in (q, k))
    scores = net.qdq(net.op("MatMul", q, k), 0.04, 119)
    weights = net.qdq(net.op("Softmax", scores, axis=-1), 1 / 255, 0)
    c = net.qdq(net.op("MatMul", weights, v), 0.0213, 126)
    c = net.qdq(net.op("Transpose", c, perm=[0, 2, 1, 3]), 0.0213, 126)
    net.output(net.q(net.op("Reshape", c, net.constant([1, tokens, heads * depth], "int64")), 0.0213, 126))

    own = [net.qdq(net.op("MatMul", a, net.weight(16, 16, scales=0.0103)), 0.03, -3, "int8") for _ in range(3)]
    shaped = [net.op("Reshape", x, net.constant([1, tokens, heads, depth], "int64")) for x in own]
    turned = [net.op("Transpose", x, perm=p) for x, p in zip(shaped, orders, strict=True)]
    q, k, v = (net.qdq(x, 0.03, -3, "int8") for x in turned)
    scores = net.qdq(net.op("MatMul", q, k), 0.0437, -5, "int8")
    scores = net.qdq(net.op("Div", scores, net.constant(8**0.5, "float32")), 0.02, -5, "int8")
    mask = net.constant(-np.abs(net.rng.standard_normal((1, 1, 1, tokens))), "float32")
    scores = net.qdq(net.op("Add", scores, mask), 0.03, 100, "int8")
    weights = net.qdq(net.op("Softmax", scores, axis=-1), 1 / 255, -128, "int8")
    kept = net.op("Where", net.op("IsNaN", weights), net.constant(0.0, "float32"), weights)
    c = net.op("MatMul", net.qdq(kept, 1 / 300, -128, "int8"), v)
    c = net.op("Transpose", net.qdq(c, 0.0213, -4, "int8"), perm=[0, 2, 1, 3])
    net.output(net.q(c, 0.0213, -4, "int8"), TensorProto.INT8)


def norms(net: Sketch) -> None:
    """Layer norms of a residual that products of another shape are added to: as bytes of both signs."""
    a = net.qdq(net.input(1, 7, 24), 0.02, 120)
    flat = net.qdq(net.op("Reshape", a, net.constant([7, 24], "int64")), 0.02, 120)
    b = net.qdq(net.op("MatMul", flat, net.weight(24, 24, scales=0.0103)), 0.031, 128)
    b = net.qdq(net.op("Reshape", b, net.constant([1, 7, 24], "int64")), 0.031, 128)
    for zero, dtype in ((117, "uint8"), (-9, "int8")):
        c = net.qdq(net.op("Add", a, b), 0.043, zero, dtype)
        weights = [net.constant(net.rng.uniform(0.5, 2.0, 24), "float32") for _ in range(2)]
        net.output(net.q(net.op("LayerNormalization", c, *weights, axis=-1, epsilon=1e-5), 0.021, 120))
        net.output(net.q(net.op("Add", c, a), 0.043, 117))


def squares(net: Sketch) -> None:
    """3x3 kernels for which Winograd's algorithm pays: padding of a zero point, gaps, a residual, and a table."""
    scales = net.rng.uniform(1e-3, 9e-3, 20)
    bias = net.constant(net.rng.standard_normal(20), "float32")
    a = net.qdq(net.input(1, 20, 13, 12), 0.0313, 117)
    b = net.op("Conv", a, net.weight(20, 20, 3, 3, scales=scales), bias, pads=[1] * 4)
    net.output(net.q(net.op("Relu", net.op("Add", net.qdq(b, 0.2, 117), a)), 0.1507, 3))
    c = net.qdq(net.op("Conv", a, net.weight(16, 20, 3, 3), pads=[1, 0, 0, 1]), 0.06, -4, "int8")
    net.output(net.q(net.op("Mul", c, net.qdq(net.op("Sigmoid", c), 1 / 255, 0)), 0.05, -3, "int8"), TensorProto.INT8)


def patches(net: Sketch) -> None:
    """Patches of an image, as vision transformers read them, and some that overlap."""
    for kernel, strides in ((8, 8), (4, 4), (8, 4)):
        a = net.qdq(net.input(2, 3, 16, 24), 0.02, 131)
        b = net.op("Conv", a, net.weight(20, 3, kernel, kernel), strides=[strides] * 2)
        net.output(net.q(b, 0.06, 120))


CASES: dict[str, Callable[[Sketch], None]] = {
    "convolutions": convolutions,
    "signed": signed,
    "products": products,
    "operators": operators,
    "limits": limits,
    "axes": axes,
    "channels_alone": channels_alone,
    "activations": activations,
    "excitation": excitation,
    "attentions": attentions,
    "norms": norms,
    "squares": squares,
    "patches": patches,
}


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tilewright-tests-")


@cache
def model_of(name: str) -> Path:
    """The file of a case, which several tests read."""
    net = Sketch()
    CASES[name](net)
    return net.save(Path(_folder().name, f"{name}.onnx"))


@cache
def extraction_of(name: str, target: Target) -> Extraction:
    """The tasks of a case, of which several tests look at something else."""
    return extract(read(model_of(name)), target)


def reference(path: Path, inputs: list[NDArray[Any]], rewritten: bool = True) -> list[NDArray[Any]]:
    options = one_thread()
    # Without this, sums of two products saturate at 16 bits on processors with AVX2 and without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not rewritten:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {f"x{i}": array for i, array in enumerate(inputs)}))


def templates(extraction: Extraction) -> list[str]:
    return [use.task.name.split()[0] for use in extraction.uses if use.task.kind == "contraction"]


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes} lanes")
@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_onnx_runtime_to_a_quantum(name: str, lanes: int, tmp_path: Path) -> None:
    target = lane_target(lanes)
    if lack(target):
        pytest.skip(lack(target))
    check(name, target, tmp_path)


@runs
def test_and_on_this_machine(tmp_path: Path) -> None:
    check("convolutions", TARGET, tmp_path)


def check(name: str, target: Target, folder: Path) -> None:
    path, extraction = model_of(name), extraction_of(name, target)
    executable = build_lean(extraction, defaults(extraction), folder / "out")
    # ONNX Runtime's own softmax of bytes rounds a probability otherwise than the float32 one that the model has.
    rewritten = name != "attentions"
    for seed, size in enumerate((1.0, 30.0)):  # the second saturates
        inputs = [size * array for array in extraction.network.random_inputs(seed)]
        for found, wanted in zip(executable(*inputs), reference(path, inputs, rewritten), strict=True):
            apart = np.abs(np.asarray(found).astype(int) - wanted.astype(int))
            assert found.dtype == wanted.dtype
            assert apart.max() <= 1
            assert np.mean(apart > 0) < 0.01


@pytest.mark.parametrize(
    ("name", "contractions"),
    [
        ("convolutions", 3),
        ("signed", 4),
        ("products", 2),
        ("operators", 2),
        ("limits", 4),
        ("axes", 4),
        ("channels_alone", 4),
        ("attentions", 2),
    ],
)
def test_contractions_are_of_bytes(name: str, contractions: int) -> None:
    found = templates(extraction_of(name, lane_target(16)))
    assert len(found) == contractions
    plain = [stem for stem in found if not stem.startswith("byte_")]
    assert [stem.split("_")[0] for stem in plain] == (["grouped"] if name == "signed" else [])


@pytest.mark.parametrize(
    ("largest", "dtype", "instruction"),
    [(127, "int16", "vpmaddwd"), (64, "int8", "vpmaddubsw"), (65, "int16", "vpmaddwd")],
)
def test_weights_have_the_format_of_their_instruction(
    largest: int, dtype: str, instruction: str, tmp_path: Path
) -> None:
    """Only weights of which no two products can exceed int16 are multiplied by the instruction that saturates."""
    net, target = Sketch(), lane_target(8)
    levels = net.constant(np.full((16, 16), largest), "int8")
    weight = net.op("DequantizeLinear", levels, net.constant(0.01, "float32"), net.constant(0, "int8"))
    net.output(net.q(net.op("MatMul", net.qdq(net.input(8, 16), 0.02, 120), weight), 0.05, 100))
    extraction = extract(read(net.save(tmp_path / "m.onnx")), target)
    (task,) = [use.task for use in extraction.uses if use.task.kind == "contraction"]
    assert str(task_module(task)["main"].params[1].ty.dtype) == dtype
    space = make_space(task, target)
    code = assembly(space.schedule(space.default()).mod, target)
    assert instruction in code
    assert ("vpmaddubsw" in code) == (instruction == "vpmaddubsw")
    assert name_instruction(space) == instruction


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("llvm:haswell", "squares", 2),
        ("llvm:skylake-avx512", "squares", 2),
        ("llvm:haswell", "convolutions", 0),  # its images have too few tiles
        ("llvm:cascadelake", "squares", 0),
        ("llvm:neoverse-v1:aarch64-linux-gnu", "squares", 0),
    ],
)
def test_pairs_are_convolved_by_winograds_algorithm(text: str, name: str, count: int) -> None:
    target = Target.parse(text if text.count(":") > 1 else f"{text}:x86_64-linux-gnu")
    tasks = [use.task.name.split()[0] for use in extraction_of(name, target).uses]
    assert sum(task.startswith("byte_winograd") for task in tasks) == count


@pytest.mark.parametrize(("text", "count"), [("llvm:haswell", 2), ("llvm:cascadelake", 0)])
def test_patches_become_channels(text: str, count: int) -> None:
    uses = extraction_of("patches", Target.parse(f"{text}:x86_64-linux-gnu")).uses
    params = [p for use in uses if use.task.kind == "contraction" for p in task_module(use.task)["main"].params]
    weights = [[int(extent) for extent in p.ty.shape] for p in params if len(p.ty.shape) == 7]
    assert len(weights) == 3
    assert sum(shape[2:4] == [1, 1] for shape in weights) == count


def test_no_image_becomes_float32() -> None:
    """What follows a convolution of bytes gives bytes: activations, gates and means."""
    tasks = [use.task for use in extraction_of("excitation", lane_target(16)).uses]
    for task in tasks:
        function = task_module(task)["main"]
        dtypes = [str(p.ty.dtype) for p in function.params if len(p.ty.shape) == 5 and int(p.ty.shape[3]) > 1]
        assert "float32" not in dtypes


def test_norms_read_bytes_and_residuals_are_fused() -> None:
    tasks = [use.task for use in extraction_of("norms", lane_target(16)).uses]
    assert not any("dequantise" in task.name for task in tasks)
    norms = [task_module(task)["main"] for task in tasks if task.kind == "rows"]
    assert norms
    assert {str(norm.params[0].ty.dtype) for norm in norms} == {"uint8"}


def test_an_attention_is_one_function() -> None:
    """Nothing is copied between the products, and nothing is float32."""
    extraction = extraction_of("attentions", lane_target(16))
    kinds = Counter(use.task.kind for use in extraction.uses for _ in range(int(use.weight)))
    assert kinds["byte_attention"] == 2
    assert kinds["rows"] == 0
    assert not any("dequantise" in use.task.name or "transpose" in use.task.name for use in extraction.uses)


@runs
@pytest.mark.parametrize("another", ["scores", "weights", "float32"])
def test_an_attention_whose_parts_are_read_elsewhere_stays_several_functions(another: str, tmp_path: Path) -> None:
    net = Sketch()
    q, k, v = (net.qdq(net.input(2, 6, 8), 0.02, 128) for _ in range(3))
    product = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    scores = net.q(product, 0.03, 128)
    weights = net.q(net.op("Softmax", net.dq(scores, 0.03, 128), axis=-1), 1 / 255, 0)
    result = net.op("MatMul", net.dq(weights, 1 / 255, 0), v)
    net.output(net.q(result, 0.02, 128))
    others = {"scores": scores, "weights": weights, "float32": net.q(result, 0.05, 100)}
    net.output(others[another])
    path = net.save(tmp_path / "m.onnx")
    extraction, executable = built(path, tmp_path / "out")
    assert not any(use.task.kind == "byte_attention" for use in extraction.uses)
    inputs = read(path).random_inputs(0)
    for found, wanted in zip(executable(*inputs), reference(path, inputs), strict=True):
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


@runs
def test_ties_are_rounded_to_even(tmp_path: Path) -> None:
    """Scales are powers of two, so that all sums are exact, and a quarter of them lies between two integers."""
    net = Sketch()
    a = net.qdq(net.input(1, 16, 4, 4), 0.25, 7)
    b = net.op("Conv", a, net.weight(16, 16, 1, 1, scales=2.0**-6))
    net.output(net.q(b, 2.0**-7, 101))
    net.output(net.q(b, 4.0, 101))
    path = net.save(tmp_path / "ties.onnx")
    extraction, executable = built(path, tmp_path / "out")
    inputs = [np.random.default_rng(0).integers(-40, 40, (1, 16, 4, 4)).astype(np.float32) / 8]
    sums = inputs[0] / 0.25
    assert np.any(sums % 1 == 0.5)
    for found, wanted in zip(executable(*inputs), reference(path, inputs), strict=True):
        assert np.array_equal(found, wanted)
    assert extraction.plan is not None


@pytest.mark.parametrize("scale", [0.0, np.nan])
def test_a_quantiser_whose_scale_is_no_scale_stays_as_it_is(scale: float, tmp_path: Path) -> None:
    net = Sketch()
    a = net.qdq(net.input(1, 16, 4, 4), 0.25, 7)
    net.output(net.q(net.op("Conv", a, net.weight(16, 16, 1, 1)), scale, 101))
    extraction = extract(read(net.save(tmp_path / "m.onnx")), lane_target(16))
    assert any(
        "quantise" in use.task.name.replace("requantise", "").replace("dequantise", "") for use in extraction.uses
    )


def test_the_zero_point_is_exactly_zero(tmp_path: Path) -> None:
    """With ``x * scale - zero * scale`` it is 1.5e-7, and a network whose outputs are all 0 would be called wrong."""
    net = Sketch()
    numbers = net.qdq(net.op("Conv", net.qdq(net.input(1, 16, 4, 4), 0.02, 120), net.weight(16, 16, 1, 1)), 0.1, 100)
    net.output(net.op("Mul", numbers, net.input(1, 16, 4, 4)), TensorProto.FLOAT)
    _, executable = built(net.save(tmp_path / "m.onnx"), tmp_path / "out")
    ones = np.ones((1, 16, 4, 4), np.float32)
    assert np.array_equal(executable(0 * ones, ones)[0], 0 * ones)


def test_parts_of_signed_bytes_are_signed(tmp_path: Path) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[2,8] x) => (int8[2,4] a, float[2,4] b) <float s = {0.05}, int8 z = {3}> {
            q = QuantizeLinear(x, s, z)
            a, r = Split <axis = 1, num_outputs = 2> (q)
            b = DequantizeLinear(r, s, z)
        }
    """
    agrees(parser.parse_model(text), tmp_path, np.linspace(-7, 7, 16, dtype=np.float32).reshape(2, 8))
