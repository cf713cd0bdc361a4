"""Builds libraries for 64-bit Arm, runs them by QEMU, and compares their outputs; for ``bench/export.py``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.conformance.lane_cases import recurrence
from tests.foreign import arm_target, export_foreign, run_network
from tests.graph.test_tokens import attention
from tests.models import LIGHT, normal, read, save
from tilewright.graph.tasks import extract
from tilewright.measure.compare import relative_error

__all__ = ["compare_elsewhere"]


def randomise(name: str, path: Path) -> Path:
    """A light network of the onnx package with random weights: its own are uniform, which hides wrong indices."""
    model, rng = onnx.load(LIGHT / f"light_{name}.onnx"), np.random.default_rng(0)
    shapes = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    made, left = [], []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            left.append(node)
            continue
        shape = tuple(int(extent) for extent in shapes[node.input[0]])
        if len(shape) > 1:
            array = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
        else:
            array = rng.uniform(0.5, 1.5, shape)  # variances among them
        made.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
    if left[-1].op_type == "Softmax":  # of large numbers it is 1 in one place, whatever was computed before
        model.graph.output[0].name = left.pop().input[0]
    del model.graph.node[:]
    model.graph.node.extend(left)
    model.graph.initializer.extend(made)
    onnx.save(model, path)
    return path


def residuals(path: Path, channels: int = 32, blocks: int = 3, side: int = 28) -> Path:
    """A small ResNet: a stem, blocks of two convolutions with a residual, and a dense layer."""
    conv = partial(helper.make_node, "Conv", pads=[1, 1, 1, 1])
    nodes = [conv(["x", "w"], ["c"], strides=[2, 2]), helper.make_node("Relu", ["c"], ["r0"])]
    weights: dict[str, NDArray[np.float32]] = {"w": normal(channels, 3, 3, 3), "d": normal(channels, 10)}
    for i in range(blocks):
        weights |= {f"{k}{i}": normal(channels, channels, 3, 3, seed=i) / (3 * channels**0.5) for k in "uv"}
        nodes += [
            conv([f"r{i}", f"u{i}"], [f"a{i}"]),
            helper.make_node("Relu", [f"a{i}"], [f"b{i}"]),
            conv([f"b{i}", f"v{i}"], [f"e{i}"]),
            helper.make_node("Add", [f"e{i}", f"r{i}"], [f"s{i}"]),
            helper.make_node("Relu", [f"s{i}"], [f"r{i + 1}"]),
        ]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"r{blocks}"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["y"]),
    ]
    return save(path, nodes, {"x": [1, 3, 2 * side, 2 * side]}, [1, 10], **weights)


#: Writes the model of each network.
NETWORKS: dict[str, Callable[[Path], Path]] = {
    "squeezenet": partial(randomise, "squeezenet"),
    "shufflenet": partial(randomise, "shufflenet"),
    "small ResNet": residuals,
    "attention": partial(attention, batch=2, tokens=64, heads=4, depth=32, masked=True, one=True),
    "LSTM": partial(recurrence, hidden=48),
}


def compare_elsewhere() -> dict[str, dict[str, float]]:
    """For each network, the largest relative error against ONNX Runtime, its tasks, and the seconds to build it."""
    found = {}
    for name, write in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            path, began = write(Path(folder, "m.onnx")), time.monotonic()
            extraction = extract(read(path), arm_target())
            prefix = export_foreign(extraction, Path(folder))
            built = time.monotonic() - began
            inputs = extraction.network.random_inputs(0)
            outputs = run_network(extraction.network.outputs, prefix, inputs)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            feeds = {spec.name: x for spec, x in zip(extraction.network.inputs, inputs, strict=True)}
            wanted = session.run(None, feeds)
            error = max(relative_error(ours, theirs) for ours, theirs in zip(outputs, wanted, strict=True))
            found[name] = {"error": float(error), "tasks": len(extraction.uses), "build_seconds": built}
    return found
