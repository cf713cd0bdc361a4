"""Layouts chosen over the whole graph: what converts images, and that the numbers stay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, helper

from tests.models import TARGET, Shape, agrees, normal, read, save
from tilewright.graph.rewrite import rewrite

Weights = dict[str, NDArray[Any]]
_DRAWN = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
#: Operators of Relax that move the numbers of a tensor.
_MOVES = ("permute_dims", "take", "strided_slice", "layout_transform")


class Builder:
    """Writes a network, operator by operator. Each method gives the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: Weights = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scale = np.float32(1 / math.sqrt(max(1, math.prod(shape[1:]))))
        self.weights[name] = normal(*shape, seed=len(self.weights)) * scale
        return name

    def ints(self, *values: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(values, np.int64)
        return name

    def conv(self, x: str, taken: int, given: int, size: int = 1, stride: int = 1, group: int = 1) -> str:
        pads = [size // 2] * 4 if stride < size or size % 2 else [0] * 4
        weight = self.weight(given, taken // group, size, size)
        return self.add("Conv", x, weight, self.weight(given), strides=[stride] * 2, pads=pads, group=group)

    def norm(self, x: str, width: int) -> str:
        """A layer norm over channels, as PyTorch exports it for images."""
        rows = self.add("Transpose", x, perm=[0, 2, 3, 1])
        rows = self.add("LayerNormalization", rows, self.weight(width), self.weight(width), axis=-1)
        return self.add("Transpose", rows, perm=[0, 3, 1, 2])

    def excite(self, x: str, width: int) -> str:
        """Squeeze and excitation."""
        mean = self.add("GlobalAveragePool", x)
        few = self.add("Relu", self.conv(mean, width, width // 4))
        return self.add("Mul", x, self.add("Sigmoid", self.conv(few, width // 4, width)))

    def classify(self, x: str, width: int) -> tuple[str, Shape]:
        return self.conv(self.add("GlobalAveragePool", x), width, 16), (1, 16, 1, 1)

    def save(self, path: Path, y: str, shape: Shape, output: Shape) -> Path:
        self.nodes.append(helper.make_node("Identity", [y], ["y"]))
        return save(path, self.nodes, {"x": shape}, output, **self.weights)


def convnext(net: Builder, batch: int = 1, widths: tuple[int, ...] = (32, 48), side: int = 16) -> tuple[str, Shape]:
    """Blocks of ConvNeXt: their convolutions are depthwise, and their products are of tokens."""
    x = net.norm(net.conv("x", 3, widths[0], 4, 4), widths[0])
    for stage, width in enumerate(widths):
        if stage:
            x = net.conv(net.norm(x, widths[stage - 1]), widths[stage - 1], width, 2, 2)
        for _ in range(2):
            rows = net.add("Transpose", net.conv(x, width, width, 7, group=width), perm=[0, 2, 3, 1])
            rows = net.add("LayerNormalization", rows, net.weight(width), net.weight(width), axis=-1)
            rows = net.add("MatMul", rows, net.weight(width, 4 * width))
            rows = net.add("MatMul", net.add("Relu", rows), net.weight(4 * width, width))
            x = net.add("Add", x, net.add("Transpose", rows, perm=[0, 3, 1, 2]))
    x = net.add("GlobalAveragePool", x)
    return x, (batch, widths[-1], 1, 1)


def inverted(net: Builder) -> tuple[str, Shape]:
    """Inverted residuals with squeeze and excitation."""
    x, width = net.conv("x", 3, 24, 3, 2), 24
    for wide, given in ((72, 24), (88, 40), (120, 40)):
        y = net.add("Relu", net.conv(x, width, wide))
        y = net.add("Relu", net.conv(y, wide, wide, 5, group=wide))
        y = net.conv(net.excite(y, wide), wide, given)
        x = net.add("Add", x, y) if given == width else y
        width = given
    return net.classify(x, width)


def bottlenecks(net: Builder) -> tuple[str, Shape]:
    """Residuals of ResNets: 3x3 convolutions between 1x1, the first with a stride."""
    x, width = net.add("MaxPool", net.conv("x", 3, 32, 7, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 32
    for given in (64, 64):
        y = net.add("Relu", net.conv(x, width, 16))
        y = net.conv(net.add("Relu", net.conv(y, 16, 16, 3)), 16, given)
        x = net.add("Relu", net.add("Add", y, x if width == given else net.conv(x, width, given)))
        width = given
    return net.classify(x, width)


def grouped(net: Builder) -> tuple[str, Shape]:
    """Residuals of RegNets: their 3x3 convolutions have groups."""
    x, width = net.conv("x", 3, 32, 3, 2), 32
    for given in (64, 64):
        y = net.add("Relu", net.conv(x, width, given))
        y = net.add("Relu", net.conv(y, given, given, 3, group=given // 16))
        y = net.conv(net.excite(y, given), given, given)
        x = net.add("Relu", net.add("Add", y, x if width == given else net.conv(x, width, given)))
        width = given
    return net.classify(x, width)


def partial(net: Builder) -> tuple[str, Shape]:
    """Cross stage partial networks of detectors: halves of channels, all joined; a pyramid that is scaled up."""
    x, width, levels = net.conv("x", 3, 32, 3, 2), 32, []
    for given in (32, 64):
        x = net.conv(x, width, given, 3, 2)
        half, width = given // 2, given
        first, second = (net.add("Split", net.conv(x, given, given), net.ints(half, half), axis=1), "")
        second = f"{first}b"
        net.nodes[-1].output.append(second)
        parts = [first, second]
        for _ in range(2):
            step = net.add("Relu", net.conv(parts[-1], half, half, 3))
            parts.append(net.add("Add", parts[-1], net.conv(step, half, half, 3)))
        x = net.conv(net.add("Concat", *parts, axis=1), 4 * half, given)
        levels.append(x)
    net.weights["scales"] = np.asarray([1, 1, 2, 2], np.float32)
    large = net.add(
        "Resize", x, "", "scales", mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    )
    joined = net.conv(net.add("Concat", large, levels[0], axis=1), 96, 32)
    return net.classify(joined, 32)


def patches(net: Builder) -> tuple[str, Shape]:
    """Patches of a vision transformer: a convolution whose pixels are tokens."""
    flat = net.add("Reshape", net.conv("x", 3, 48, 4, 4), net.ints(1, 48, 16))
    rows = net.add("Transpose", flat, perm=[0, 2, 1])
    rows = net.add("LayerNormalization", rows, net.weight(48), net.weight(48), axis=-1)
    return net.add("MatMul", rows, net.weight(48, 32)), (1, 16, 32)


def conversions(path: Path) -> Iterator[str]:
    """What moves tensors in the rewritten network."""
    for block in rewrite(read(path), TARGET).module["main"].body.blocks:
        for binding in block.bindings:
            name = getattr(getattr(binding.value, "op", None), "name", "").removeprefix("relax.")
            if name in _MOVES:
                shapes = [[int(d) for d in t.ty.shape.values] for t in (binding.value.args[0], binding.var)]
                yield f"{name} {shapes[0]} -> {shapes[1]}"


@pytest.mark.parametrize(
    ("family", "parts"),
    [(convnext, 0), (inverted, 0), (bottlenecks, 0), (grouped, 0), (partial, 4), (patches, 0)],
)
def test_common_networks_convert_no_image(family: Any, parts: int, tmp_path: Path) -> None:
    """Nothing is moved but parts of channels, which a plan reads where they lie. Inputs are read as they are."""
    net = Builder()
    y, output = family(net)
    found = list(conversions(net.save(tmp_path / "m.onnx", y, (1, 3, 16, 16), output)))
    assert len(found) == parts, found
    assert all(text.startswith("strided_slice") for text in found), found


@_DRAWN
@drawn(data=st.data())
def test_blocks_of_depthwise_convolutions_and_tokens(data: st.DataObject, tmp_path_factory: Any) -> None:
    """With vectors that divide the channels or not, one image or several."""
    batch = data.draw(st.sampled_from([1, 3]))
    widths = data.draw(st.sampled_from([(32,), (24,), (12,), (16, 20), (7,), (40,)]))
    side = data.draw(st.sampled_from([8, 20]))
    net = Builder()
    y, output = convnext(net, batch, widths)
    folder = tmp_path_factory.mktemp("layouts")
    agrees(net.save(folder / "m.onnx", y, (batch, 3, side, side), output), folder / "out")


def test_parts_of_channels_are_read_where_they_lie(tmp_path: Path) -> None:
    net = Builder()
    y, output = partial(net)
    extraction = agrees(net.save(tmp_path / "m.onnx", y, (1, 3, 16, 16), output), tmp_path / "out")
    assert extraction.plan is not None
    assert all(call.kernel for call in extraction.plan.calls)
    assert not any("slice" in use.task.name for use in extraction.uses)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_gate_is_multiplied_into_weights_that_are_smaller_than_the_image(batch: int, tmp_path: Path) -> None:
    net = Builder()
    y = net.conv(net.excite(net.conv("x", 8, 36, 3), 36), 36, 20)
    extraction = agrees(net.save(tmp_path / "m.onnx", y, (batch, 8, 6, 7), (batch, 20, 6, 7)), tmp_path / "out")
    (name,) = (use.task.name for use in extraction.uses if use.task.kind == "excitation")
    assert ("x6x7x" in name.rsplit(" ", 1)[1]) == (batch > 1), name  # the image, or the gates


@pytest.mark.parametrize(("channels", "size"), [(2, 1), (12, 5), (40, 1)])
def test_a_convolution_writes_rows_of_channels(channels: int, size: int, tmp_path: Path) -> None:
    """Of channels that fill no whole vectors, too; the next convolution reads these rows."""
    net = Builder()
    rows = net.norm(net.conv("x", 8, channels, size), channels)
    y = net.conv(net.conv(rows, channels, 8, 3, 2), 8, 4)
    extraction = agrees(net.save(tmp_path / "m.onnx", y, (2, 8, 6, 7), (2, 4, 3, 4)), tmp_path / "out")
    assert sum("transpose" in use.task.name for use in extraction.uses) <= 2  # the input and the output
