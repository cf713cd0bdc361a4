"""Small networks of many kinds for ``bench.verdict``: common architectures at a hundredth of their size.

Every weight is random and fixed. Some networks have outputs that are hard to judge: probabilities of 1e-7 and 1e-11,
integers, or twenty orders of magnitude in one output.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from bench._sketch import Sketch

__all__ = ["SMALL"]


def encoder() -> onnx.ModelProto:
    """A transformer of two layers on 24 tokens."""
    net = Sketch(1)
    x = net.input("x", 1, 24, 64)
    for _ in range(2):
        x = net.encoder(x, 24, 64, 4)
    net.output(net.layer_norm(x, 64), "y")
    return net.model()


def vision_transformer() -> onnx.ModelProto:
    """Patches of an image, a class token, positions, one layer, and a head on the class token."""
    net = Sketch(2)
    patches = net.conv(net.input("image", 1, 3, 32, 32), (64, 3, 8, 8), pad=0, strides=[8, 8])
    tokens = net.op("Transpose", net.op("Reshape", patches, net.integers(1, 64, 16)), perm=[0, 2, 1])
    tokens = net.op("Concat", net.normal(1, 1, 64), tokens, axis=1)
    x = net.op("Add", tokens, net.normal(1, 17, 64, scale=0.3))
    x = net.encoder(x, 17, 64, 4)
    first = net.op("Gather", net.layer_norm(x, 64), net.constant(np.asarray(0, np.int64)), axis=1)
    net.output(net.dense(first, 64, 10), "logits")
    return net.model()


def mobilenet_v3() -> onnx.ModelProto:
    """Inverted residuals with hard-swish and squeeze-and-excitation."""
    net = Sketch(3)
    x = net.batch_norm(net.conv(net.input("image", 1, 3, 48, 48), (16, 3, 3, 3), strides=[2, 2]), 16, "HardSwish")
    for stride, out in ((1, 16), (2, 24), (1, 24)):
        wide = net.conv(x, (48, 16 if out == 16 or stride == 2 else 24, 1, 1), "HardSwish")
        wide = net.conv(wide, (48, 1, 3, 3), "HardSwish", group=48, strides=[stride, stride])
        squeezed = net.conv(net.op("GlobalAveragePool", wide), (12, 48, 1, 1), "Relu")
        gate = net.op("HardSigmoid", net.conv(squeezed, (48, 12, 1, 1)), alpha=1 / 6, beta=0.5)
        made = net.conv(net.op("Mul", wide, gate), (out, 48, 1, 1))
        x = net.op("Add", x, made) if stride == 1 else made
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.output(net.dense(net.dense(pooled, 24, 64, "HardSwish"), 64, 20), "logits")
    return net.model()


def unet() -> onnx.ModelProto:
    """An encoder and a decoder of two levels, by max pooling and transposed convolution, with skip connections."""
    net = Sketch(4)
    levels = [net.conv(net.input("image", 1, 3, 32, 32), (16, 3, 3, 3), "Relu")]
    for narrow, wide in ((16, 32), (32, 64)):
        down = net.op("MaxPool", levels[-1], kernel_shape=[2, 2], strides=[2, 2])
        levels.append(net.conv(down, (wide, narrow, 3, 3), "Relu"))
    x = levels.pop()
    for wide, narrow in ((64, 32), (32, 16)):
        up = net.op("ConvTranspose", x, net.normal(wide, narrow, 2, 2, scale=0.15), net.normal(narrow), strides=[2, 2])
        x = net.conv(net.op("Concat", up, levels.pop(), axis=1), (narrow, wide, 3, 3), "Relu")
    net.output(net.conv(x, (2, 16, 1, 1)), "mask")
    return net.model()


def pyramid() -> onnx.ModelProto:
    """A feature pyramid: coarse maps are resized, added to finer ones, and each gives an output."""
    net = Sketch(5)
    fine = net.conv(net.input("image", 1, 3, 32, 32), (32, 3, 3, 3), "Relu", strides=[2, 2])
    coarse = net.conv(fine, (32, 32, 3, 3), "Relu", strides=[2, 2])
    scales = net.constant(np.asarray([1, 1, 2, 2], np.float32))
    up = net.op(
        "Resize", coarse, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    merged = net.conv(net.op("Add", fine, up), (16, 32, 3, 3), "Relu")
    net.output(net.conv(merged, (8, 16, 1, 1)), "fine")
    net.output(net.conv(coarse, (8, 32, 1, 1)), "coarse")
    return net.model()


def text_detector() -> onnx.ModelProto:
    """A text detector that sees no text: its probabilities are about 1e-7."""
    net = Sketch(6)
    x = net.batch_norm(net.conv(net.input("image", 1, 3, 48, 48), (16, 3, 3, 3), strides=[2, 2]), 16, "HardSwish")
    x = net.op("Add", x, net.conv(x, (16, 16, 3, 3), "Relu"))
    up = net.op("ConvTranspose", x, net.normal(16, 8, 2, 2, scale=0.2), net.normal(8), strides=[2, 2])
    net.output(net.op("Sigmoid", net.conv(net.op("Relu", up), (1, 8, 1, 1), bias=-16.0)), "probability")
    return net.model()


def detector_head() -> onnx.ModelProto:
    """Boxes, and scores of rare classes: sigmoids of biases -16 and -25."""
    net = Sketch(7)
    x = net.conv(net.input("image", 1, 3, 32, 32), (32, 3, 3, 3), "swish", strides=[2, 2])
    x = net.conv(x, (32, 32, 3, 3), "swish")
    net.output(net.conv(x, (4, 32, 1, 1)), "boxes")
    net.output(net.op("Sigmoid", net.conv(x, (6, 32, 1, 1), bias=-16.0)), "classes")
    net.output(net.op("Sigmoid", net.conv(x, (1, 32, 1, 1), bias=-25.0)), "objectness")
    return net.model()


def embedding() -> onnx.ModelProto:
    """A sentence's vector: token ids and a mask, a table, one layer, the mean over tokens that count, length 1."""
    net = Sketch(8)
    ids, mask = (net.input(name, 1, 12, dtype=TensorProto.INT64) for name in ("ids", "mask"))
    x = net.op("Add", net.op("Gather", net.normal(100, 32), ids), net.normal(1, 12, 32, scale=0.3))
    kept = net.op("Cast", mask, to=TensorProto.FLOAT)
    away = net.op("Mul", net.op("Sub", net.number(1), kept), net.number(-10000))
    bias = net.op("Unsqueeze", away, net.integers(1, 2))
    x = net.layer_norm(net.encoder(net.layer_norm(x, 32), 12, 32, 4, bias), 32)
    column = net.op("Unsqueeze", kept, net.integers(2))
    total = net.op("ReduceSum", net.op("Mul", x, column), net.integers(1), keepdims=0)
    count = net.op("Max", net.op("ReduceSum", column, net.integers(1), keepdims=0), net.number(1e-9))
    mean = net.op("Div", total, count)
    length = net.op("Sqrt", net.op("ReduceSum", net.op("Mul", mean, mean), net.integers(1), keepdims=1))
    net.output(net.op("Div", mean, net.op("Max", length, net.number(1e-12))), "vector")
    return net.model()


def multi_task() -> onnx.ModelProto:
    """Age, gender and emotion of a face: one trunk, three heads with different activations."""
    net = Sketch(9)
    x = net.conv(net.input("face", 1, 1, 32, 32), (24, 1, 5, 5), "Relu", strides=[2, 2])
    x = net.op("MaxPool", net.conv(x, (32, 24, 3, 3), "Relu"), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    pooled = net.dense(net.op("Flatten", x), 32 * 64, 48, "Tanh")
    net.output(net.dense(pooled, 48, 1, "Relu", scale=4.0), "age")
    net.output(net.dense(pooled, 48, 2, "Sigmoid"), "gender")
    net.output(net.op("Softmax", net.dense(pooled, 48, 7, scale=3.0), axis=-1), "emotion")
    return net.model()


def segmenter() -> onnx.ModelProto:
    """The class of each pixel as an integer, and its logits."""
    net = Sketch(10)
    x = net.conv(net.input("image", 1, 3, 32, 32), (24, 3, 3, 3), "Relu")
    logits = net.conv(net.conv(x, (24, 24, 3, 3), "Relu", pad=2, dilations=[2, 2]), (6, 24, 1, 1))
    net.output(net.op("ArgMax", logits, axis=1, keepdims=0), "classes", TensorProto.INT64)
    return net.model()


def one_hot() -> onnx.ModelProto:
    """A classifier that gives its answer as a one-hot vector, and how sure it is."""
    net = Sketch(11)
    x = net.dense(net.dense(net.input("x", 8, 20), 20, 40, "Relu"), 40, 9)
    depth = net.constant(np.asarray(9, np.int64))
    found = net.op("ArgMax", x, axis=-1, keepdims=0)
    net.output(net.op("OneHot", found, depth, net.constant(np.asarray([0, 1], np.float32)), axis=-1), "answer")
    net.output(net.op("ReduceMax", net.op("Softmax", x, axis=-1), axes=[1], keepdims=0), "sure")
    return net.model()


def tails() -> onnx.ModelProto:
    """Softplus, mish and GELU far out on their left: outputs of 1e-9 and less that must still be right."""
    net = Sketch(12)
    x = net.dense(net.input("x", 4, 32), 32, 64, "Tanh")
    for kind, mean in (("Softplus", -18.0), ("mish", -14.0), ("gelu", -4.5)):
        moved = net.op("Add", net.dense(x, 64, 24), net.normal(24, scale=0.5, mean=mean))
        net.output(net.activate(moved, kind), kind.lower())
    return net.model()


def super_resolution() -> onnx.ModelProto:
    """Three convolutions, and pixels from channels."""
    net = Sketch(13)
    x = net.conv(net.input("luma", 1, 1, 24, 24), (32, 1, 5, 5), "Tanh")
    x = net.conv(net.conv(x, (32, 32, 3, 3), "Relu"), (9, 32, 3, 3))
    net.output(net.op("DepthToSpace", x, blocksize=3, mode="CRD"), "large")
    return net.model()


def grouped() -> onnx.ModelProto:
    """A block of ResNeXt and a channel shuffle: grouped and depthwise convolutions."""
    net = Sketch(14)
    x = net.conv(net.input("image", 1, 3, 24, 24), (32, 3, 3, 3), "Relu")
    inner = net.conv(net.conv(x, (64, 32, 1, 1), "Relu"), (64, 16, 3, 3), "Relu", group=4)
    x = net.op("Relu", net.op("Add", x, net.conv(inner, (32, 64, 1, 1))))
    split = net.op("Reshape", net.conv(x, (32, 16, 1, 1), group=2), net.integers(1, 2, 16, 24, 24))
    shuffled = net.op("Reshape", net.op("Transpose", split, perm=[0, 2, 1, 3, 4]), net.integers(1, 32, 24, 24))
    deep = net.conv(shuffled, (32, 1, 3, 3), group=32, strides=[2, 2])
    net.output(net.conv(deep, (16, 32, 1, 1), "relu6"), "maps")
    return net.model()


def audio() -> onnx.ModelProto:
    """Convolutions along time, strided, then dilated with residuals and gates, as in WaveNet."""
    net = Sketch(15)
    x = net.conv(net.input("wave", 1, 1, 512), (24, 1, 9), strides=[4])
    for dilation in (1, 2, 4):
        left = net.conv(x, (24, 24, 3), "Tanh", pad=dilation, dilations=[dilation])
        right = net.conv(x, (24, 24, 3), "Sigmoid", pad=dilation, dilations=[dilation])
        x = net.op("Add", x, net.conv(net.op("Mul", left, right), (24, 24, 1)))
    net.output(net.op("Softmax", net.conv(x, (12, 24, 1)), axis=1), "phones")
    return net.model()


def autoencoder() -> onnx.ModelProto:
    """Dense layers to a narrow waist and back."""
    net = Sketch(16)
    x = net.dense(net.input("x", 4, 96), 96, 48, "Tanh")
    x = net.dense(net.dense(net.dense(x, 48, 12), 12, 48, "LeakyRelu"), 48, 96, "Sigmoid", scale=2.0)
    net.output(x, "again")
    return net.model()


def classifier() -> onnx.ModelProto:
    """A LeNet with average pooling that ends in log-softmax."""
    net = Sketch(17)
    x = net.conv(net.input("digit", 1, 1, 28, 28), (12, 1, 5, 5), "Relu", pad=0)
    x = net.conv(net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), (24, 12, 3, 3), "Elu")
    x = net.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    flat = net.op("Flatten", x)
    weight = net.normal(10, 24 * 36, scale=0.05)
    net.output(net.op("LogSoftmax", net.op("Gemm", flat, weight, net.normal(10), transB=1), axis=-1), "logs")
    return net.model()


def tiny_outputs() -> onnx.ModelProto:
    """A physical quantity in SI units: outputs of about 1e-19."""
    net = Sketch(18)
    x = net.dense(net.dense(net.input("x", 6, 16), 16, 48, "swish"), 48, 48, "swish")
    net.output(net.op("Mul", net.dense(x, 48, 5), net.number(1.6e-19)), "charge")
    return net.model()


def style() -> onnx.ModelProto:
    """Style transfer: reflected edges, instance norms, a group norm, a residual."""
    net = Sketch(19)
    padded = net.op("Pad", net.input("image", 1, 3, 24, 24), net.integers(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    x = net.conv(padded, (16, 3, 3, 3), pad=0)
    ones, zeros = net.normal(16, scale=0.2, mean=1.0), net.normal(16, scale=0.2)
    x = net.op("Relu", net.op("InstanceNormalization", x, ones, zeros, epsilon=1e-5))
    groups = net.op("Reshape", net.conv(x, (16, 16, 3, 3)), net.integers(1, 4, 4 * 24 * 24))
    fours = net.normal(4, scale=0.2, mean=1.0), net.normal(4, scale=0.2)
    normal = net.op("InstanceNormalization", groups, *fours, epsilon=1e-5)
    x = net.op("Add", x, net.op("Reshape", normal, net.integers(1, 16, 24, 24)))
    net.output(net.op("Tanh", net.conv(x, (3, 16, 3, 3))), "painted")
    return net.model()


def wide_range() -> onnx.ModelProto:
    """Rates that are exponentials: some twenty orders of magnitude in one output, and a mean with its deviation."""
    net = Sketch(20)
    x = net.dense(net.dense(net.input("x", 6, 24), 24, 64, "Tanh"), 64, 64, "Relu")
    moved = net.op("Add", net.dense(x, 64, 20), net.constant(np.linspace(-24, 22, 20).astype(np.float32)))
    net.output(net.op("Exp", moved), "rates")
    net.output(net.op("Exp", net.op("Mul", net.dense(x, 64, 4), net.number(0.5))), "deviation")
    return net.model()


def mixer() -> onnx.ModelProto:
    """An MLP-Mixer: dense layers along tokens, then along channels."""
    net = Sketch(21)
    x = net.input("tokens", 1, 16, 32)
    turned = net.op("Transpose", net.layer_norm(x, 32), perm=[0, 2, 1])
    mixed = net.dense(net.dense(turned, 16, 32, "gelu"), 32, 16)
    x = net.op("Add", x, net.op("Transpose", mixed, perm=[0, 2, 1]))
    x = net.op("Add", x, net.dense(net.dense(net.layer_norm(x, 32), 32, 64, "gelu"), 64, 32))
    net.output(net.dense(net.op("ReduceMean", x, axes=[1], keepdims=0), 32, 8), "logits")
    return net.model()


def regression() -> onnx.ModelProto:
    """A table of measured values, normalised by their means and deviations, and the answer scaled back."""
    net = Sketch(22)
    x = net.input("features", 16, 12)
    x = net.op("Div", net.op("Sub", x, net.normal(12)), net.op("Abs", net.normal(12, scale=0.3, mean=1.5)))
    x = net.dense(net.dense(x, 12, 48, "Relu"), 48, 48, "Relu")
    gate = net.dense(x, 48, 48, "Sigmoid")
    x = net.op("Sub", net.op("Mul", x, gate), net.dense(x, 48, 48, "Tanh"))
    net.output(net.op("Add", net.op("Mul", net.dense(x, 48, 3), net.number(40)), net.number(200)), "price")
    return net.model()


def residual() -> onnx.ModelProto:
    """Two residual blocks of 3x3 convolutions with batch norms, as in a small ResNet."""
    net = Sketch(23)
    x = net.batch_norm(net.conv(net.input("image", 1, 3, 32, 32), (32, 3, 3, 3)), 32, "Relu")
    for _ in range(2):
        inner = net.batch_norm(net.conv(x, (32, 32, 3, 3)), 32, "Relu")
        x = net.op("Relu", net.op("Add", x, net.batch_norm(net.conv(inner, (32, 32, 3, 3)), 32)))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.output(net.op("Softmax", net.dense(pooled, 32, 10, scale=2.0), axis=-1), "probabilities")
    return net.model()


#: Networks by name.
SMALL: dict[str, Callable[[], onnx.ModelProto]] = {
    made.__name__: made
    for made in (
        encoder,
        vision_transformer,
        mobilenet_v3,
        unet,
        pyramid,
        text_detector,
        detector_head,
        embedding,
        multi_task,
        segmenter,
        one_hot,
        tails,
        super_resolution,
        grouped,
        audio,
        autoencoder,
        classifier,
        tiny_outputs,
        style,
        wide_range,
        mixer,
        regression,
        residual,
    )
}
