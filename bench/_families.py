"""The kernels of ``bench.kernels --family``: those of one kind, out of networks of today and of single operators."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench import attention
from bench._modern import fetch
from tilewright.frontend.load import load
from tilewright.graph.tasks import TaskUse, extract
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.joining import joined_task

__all__ = ["FAMILIES", "Kernel", "roles"]

#: How ``tilewright.graph.tasks`` calls the iterators of a convolution, and of a depthwise one.
CONVOLUTION, DEPTHWISE = "boppl/rrrr", "boppl/rr"
#: Rows and columns of the largest map that counts as small.
_SMALL = 14
#: Transposed convolutions (input channels, output channels, side, kernel, stride, padding): of U-Nets, text detectors
#: and generators.
_TRANSPOSED = (
    (256, 128, 32, 2, 2, 0),
    (128, 64, 64, 2, 2, 0),
    (24, 24, 160, 2, 2, 0),
    (24, 1, 320, 2, 2, 0),
    (128, 64, 28, 3, 1, 1),
    (256, 128, 16, 4, 2, 1),
    (64, 32, 56, 3, 2, 1),
)
_ATTENTIONS = ("minilm", "vit", "causal512", "causal1024")


@dataclass(frozen=True)
class Kernel:
    """A task, and how often its network has it.

    Attributes:
        task: the task.
        weight: the uses in the network, or 1.
        flop: of all, or of the products of an attention alone.
    """

    task: Task
    weight: int
    flop: float


def roles(task: Task) -> str:
    """What the iterators of a contraction are for; empty for other tasks."""
    if task.kind != "contraction":
        return ""
    from tilewright.space.module import task_module

    return str(task_module(task)["main"].attrs["tilewright.contraction"])


def _tasks(networks: Iterable[str], chosen: Callable[[TaskUse], bool], target: Target) -> list[Kernel]:
    """The chosen tasks of networks of ``bench._modern``, each once."""
    found: dict[str, Kernel] = {}
    for name in networks:
        network = fetch(name)
        shapes = dict(option.split("=") for option in network.options if "=" in option)
        sizes = {key: tuple(int(size) for size in given.split(",")) for key, given in shapes.items()}
        for use in extract(load(network.path, sizes or None), target).uses:
            if chosen(use):
                found.setdefault(use.task.key, Kernel(use.task, use.weight, use.task.flop))
    return list(found.values())


def _is_small_pointwise(use: TaskUse) -> bool:
    """Whether a task is a 1x1 convolution of a small map with more than one pixel.

    By the shapes of its name (``conv2d 1x7x14x14x16 1x42x14x14x16``) and its arithmetic, since the name does not tell
    the kernel. What is fused with it adds a tenth at most.
    """
    shapes = [[int(size) for size in shape.split("x")] for shape in re.findall(r"(?<= )\d+(?:x\d+){4}", use.task.name)]
    if roles(use.task) != CONVOLUTION or len(shapes) != 2:
        return False
    (_, blocks, height, width, block), (n, outs, rows, cols, out) = shapes
    products = 2.0 * n * outs * out * rows * cols * blocks * block
    small = 1 < rows * cols <= _SMALL**2 and (height, width) == (rows, cols)
    return small and use.task.flop < 1.5 * products


def _transposed(target: Target) -> list[Kernel]:
    """All tasks of transposed convolutions between convolutions that bring blocked layouts in and out."""
    found: dict[str, Kernel] = {}
    with tempfile.TemporaryDirectory() as folder:
        for channels, out, side, kernel, stride, padding in _TRANSPOSED:
            rng = np.random.default_rng(0)
            shapes = {"before": (channels, 3, 1, 1), "w": (channels, out, kernel, kernel)}
            weights = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
            nodes = [
                helper.make_node("Conv", ["x", "before"], ["a"]),
                helper.make_node("ConvTranspose", ["a", "w"], ["y"], strides=[stride] * 2, pads=[padding] * 4),
            ]
            graph = helper.make_graph(
                nodes,
                "transposed",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                [numpy_helper.from_array(array, name) for name, array in weights.items()],
            )
            path = Path(folder, f"{channels}_{out}_{side}_{kernel}.onnx")
            onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
            first = 2.0 * 3 * channels * side * side
            for use in extract(load(path), target).uses:
                if use.task.flop > first or use.task.name.startswith("phases"):
                    found.setdefault(use.task.key, Kernel(use.task, 1, use.task.flop))
    return list(found.values())


def _attention(target: Target) -> list[Kernel]:
    """The attentions of ``bench.attention``, each in one function."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in _ATTENTIONS:
            extraction = extract(load(attention.write(attention.CASES[name], Path(folder, f"{name}.onnx"))), target)
            ((form, _),) = extraction.attentions
            found.append(Kernel(joined_task(form), 1, 2.0 * form.work))
    return found


_MOBILE: Sequence[str] = ("mobilenetv3", "efficientnet_b0")
#: By name, what finds the kernels of a family on a target.
FAMILIES: dict[str, Callable[[Target], list[Kernel]]] = {
    "depthwise": partial(_tasks, (*_MOBILE, "convnext_tiny"), lambda use: roles(use.task) == DEPTHWISE),
    "pointwise_small": partial(_tasks, _MOBILE, _is_small_pointwise),
    "transposed": _transposed,
    "attention": _attention,
}
