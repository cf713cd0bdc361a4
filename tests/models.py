"""Small ONNX models, and how they are built with default schedules."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.agreement import network_error
from tests.targets import host_target, needs, require
from tilewright.compiling.build import build, write
from tilewright.compiling.kernels import Kernels
from tilewright.compiling.objects import SharedObjects
from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.plan import WEIGHTS
from tilewright.executable.segment import is_segment
from tilewright.frontend.load import load, read_model
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.reading import read_here
from tilewright.graph.buckets import Extracted
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


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tilewright-tests-")


@cache
def shared_objects(target: Target) -> SharedObjects:
    """The compiled kernels of all tests of this process, for a target.

    Networks of many tests have the same kernels, and each is compiled once. They do not check their arguments, which is
    up to a third of the time that compiling them takes (:func:`check_calls` does). They are not kept for the next
    process: a kept file is found by the versions of packages, and a change of our own code may change none of them.
    """
    return SharedObjects(Path(tempfile.mkdtemp(dir=_scratch().name)), target)


def check_calls(extraction: Extracted, programs: Mapping[str, Any]) -> None:
    """What kernels would check of the tensors that a plan gives them: how many there are, shapes, types, and places.

    Args:
        extraction: the network.
        programs: of its tasks, by ``Task.key``. Other tasks keep the functions of the network.
    """
    for part in extraction.parts:
        functions = {var.name_hint: function for var, function in part.module.functions_items()}
        chosen = [use for use in part.uses if use.task.key in programs]
        functions |= {name: programs[use.task.key] for use in chosen for name in use.functions}
        for call in part.plan.calls if part.plan is not None else ():
            if call.kernel and not is_segment(call.kernel):
                assert part.plan is not None
                given = [part.plan.tensors[number] for number in call.tensors]
                wanted = [(tuple(int(n) for n in p.ty.shape), str(p.ty.dtype)) for p in functions[call.kernel].params]
                assert [(tensor.shape, tensor.dtype) for tensor in given] == wanted, call.kernel
                aligned = [tensor.region == WEIGHTS or tensor.place % part.plan.vector == 0 for tensor in given]
                assert all(aligned), call.kernel


def write_lean(extraction: Extracted, programs: Mapping[str, Any], out: Path) -> None:
    """Write an executable, whose kernels are those of :func:`shared_objects`, and whose calls are checked here.

    Args:
        extraction: the network.
        programs: of its tasks, by ``Task.key``. Other tasks are compiled as they are.
        out: the executable's directory. It has no archive of object files, which a C library is linked from.
    """
    check_calls(extraction, programs)
    objects = shared_objects(extraction.target)
    write(extraction, programs, out, {}, Kernels(extraction, objects.folder, objects))


def build_lean(extraction: Extracted, programs: Mapping[str, Any], out: Path) -> Executable:
    """What :func:`write_lean` has written, ready to be called."""
    write_lean(extraction, programs, out)
    return load_executable(out)


def built(model: Any, out: Path, target: Target = TARGET, *, lean: bool = True) -> tuple[Extraction, Executable]:
    """A network with default schedules: its tasks, and the executable ``out``.

    Args:
        model: what :func:`load` takes.
        out: the executable's directory.
        target: what it is compiled for.
        lean: whether it is built by :func:`build_lean`; otherwise as users get it.
    """
    require(target)
    ours = isinstance(model, Path) and model.suffix == ".onnx"
    extraction = extract_all(read(model) if ours else load(model), target)
    if lean:
        return extraction, build_lean(extraction, defaults(extraction), out)
    return extraction, build(extraction, defaults(extraction), out, {})


def agrees(model: Path, out: Path, target: Target = TARGET, *, lean: bool = True) -> Extraction:
    """Built with default schedules, as :func:`built` does it, the model gives ONNX Runtime's outputs."""
    extraction, executable = built(model, out, target, lean=lean)
    error = network_error(executable, extraction.network)
    assert error is not None
    assert error <= 1e-3
    return extraction
