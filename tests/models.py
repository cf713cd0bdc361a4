"""Small ONNX models, and how they are built with default schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.agreement import network_error
from tests.targets import host_target, needs, require
from tilewright.compiling.build import build
from tilewright.executable.executable import Executable
from tilewright.frontend.load import load, read_model
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.reading import read_here
from tilewright.graph.left_out import extract_all
from tilewright.graph.tasks import Extraction
from tilewright.ops.registry import make_space
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task

#: What small models are built for, and what tests that run them begin with.
TARGET = host_target()
runs = needs(TARGET)
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"

Shape = Sequence[int | str]


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: Mapping[str, Shape], output: Shape, **weights: NDArray[Any]
) -> Path:
    """A model that ends in the tensor ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv_model(path: Path, batch: int | str = 1) -> Path:
    """Convolution with bias, then ReLU."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    return save(path, nodes, {"x": [batch, 8, 10, 10]}, [batch, 16, 10, 10], w=normal(16, 8, 3, 3), b=normal(16))


@lru_cache(1024)
def design_space(task: Task, target: Target) -> DesignSpace:
    """The space of a task, made once: networks of many tests have the same tasks."""
    return make_space(task, target)


@lru_cache(1024)
def default_program(task: Task, target: Target) -> Any:
    """The program of a task's default config."""
    space = design_space(task, target)
    return space.schedule(space.default()).mod["main"]


def defaults(extraction: Extraction) -> dict[str, Any]:
    """The default programs of an extraction's tasks, by their keys."""
    return {use.task.key: default_program(use.task, extraction.target) for use in extraction.uses}


def read(path: Path) -> Network:
    """An ONNX file as :func:`load` reads it, but in this process: starting another takes a third of a second."""
    return read_model(path.stem, *read_here(path, {}), {})


def built(model: Any, out: Path, target: Target = TARGET) -> tuple[Extraction, Executable]:
    require(target)
    ours = isinstance(model, Path) and model.suffix == ".onnx"
    extraction = extract_all(read(model) if ours else load(model), target)
    return extraction, build(extraction, defaults(extraction), out, {})


def agrees(model: Path, out: Path, target: Target = TARGET) -> Extraction:
    """Built with default schedules, the model gives ONNX Runtime's outputs."""
    extraction, executable = built(model, out, target)
    error = network_error(executable, extraction.network)
    assert error is not None
    assert error <= 1e-3
    return extraction
