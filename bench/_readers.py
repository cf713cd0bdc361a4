"""Every reader of outside data, each with a valid file that it reads.

Slow imports are made where they are used, because each reader runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["READERS", "Reader"]


@dataclass(frozen=True)
class Reader:
    """A reader of outside data.

    Attributes:
        make: writes a valid file into a folder and returns it, or what is read of it.
        read: reads it, and raises ``AssertionError`` where what comes back has wrong types.
        resealed: makes checksums right again after a change, so that what lies behind them is tried.
        compiled: reads by TVM, ONNX Runtime or PyTorch, which take seconds to import.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], None]
    resealed: Callable[[Path], None] | None = None
    compiled: bool = False


def _make_manifest(folder: Path) -> Path:
    return _make_executable(folder) / "manifest.json"


def _make_executable(folder: Path) -> Path:
    """A directory with an executable of one small network."""
    from tilewright.compiling.build import build
    from tilewright.frontend.load import load
    from tilewright.graph.tasks import extract
    from tilewright.target import Target

    out = folder / "out"
    build(extract(load(_make_onnx(folder)), Target.parse()), {}, out, {})
    return out


def _read_executable(path: Path) -> None:
    from tilewright.executable.executable import load_executable

    executable = load_executable(path.parent)
    outputs = executable(*(np.zeros(spec.shape, dtype=spec.dtype) for spec in executable.inputs))
    assert [tuple(output.shape) for output in outputs] == [spec.shape for spec in executable.outputs]


def _reseal(path: Path) -> None:
    from tilewright.executable.manifest import NAME, seal

    try:
        manifest = json.loads((path.parent / NAME).read_text())
        files = [name for name in manifest.pop("sha256") if name != NAME and (path.parent / name).is_file()]
        (path.parent / NAME).write_text(seal(manifest, path.parent, files))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        pass  # then it stays as it is


def _make_onnx(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("ConstantOfShape", ["w2__SHAPE"], ["w2"]),
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w2"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(np.zeros(8, np.float32), "b"),
        numpy_helper.from_array(np.asarray([8, 4], np.int64), "w2__SHAPE"),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(nodes, "g", ends, out, weights)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _read_model(path: Path) -> None:
    from tilewright.frontend.load import load
    from tilewright.frontend.onnx.model import prepare
    from tilewright.frontend.onnx.reading import OnnxReading, ReadModels, read_prepared

    class Here(OnnxReading):
        """Reads in this process, which is one of its own already: starting another takes a second for each file."""

        def __init__(self) -> None:
            self.path, self.shapes, self.folded = path, {}, True

        def results(self) -> ReadModels:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                prepare(path, {}, folder)
                return read_prepared(folder)

    network = load(Here())
    assert all(isinstance(extent, int) and extent >= 0 for spec in network.inputs for extent in spec.shape)


def _make_program(folder: Path) -> Path:
    import torch

    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    path = folder / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(layers, (torch.randn(1, 3, 6, 6),)), str(path))
    return path


def _check_program(path: Path) -> None:
    """What is checked before PyTorch reads it; PyTorch itself takes a second for each file."""
    from tilewright.errors import ModelFormatError
    from tilewright.frontend.torch.file import check_program

    try:
        check_program(path)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, zipfile.BadZipFile) as exc:
        raise ModelFormatError(str(exc)) from exc  # as read_program does


def _nest(count: int = 40) -> Any:
    from tilewright.space.loop_nest import LoopNest

    rng = np.random.default_rng(0)

    def some(*shape: int) -> Any:
        return rng.integers(1, 9, (count, *shape)).astype(np.float32)

    whole = rng.integers(0, 2, (count, 3)).astype(np.int8)
    parts = (whole, some(3), whole, some(2, 3), some(2, 3), some(2, 3), some(3), some(1))
    return LoopNest(("i", "j", "k"), ("A", "B"), *parts, ("x",))


def _make_model(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from tilewright.cost.models import make_model, save_model

        model = make_model(name)
        model.fit([_nest()], [np.linspace(1, 2, 40)])
        save_model(name, model, "toy/1", {"tasks": 1}, folder / "m.npz")
        return folder / "m.npz"

    return make


def _read_cost_model(path: Path) -> None:
    from tilewright.cost.models import load_model

    stored = load_model(path)
    with contextlib.suppress(ValueError, RuntimeError):  # of another width: said by the commands that score programs
        assert stored.model.predict(_nest()).shape == (40,)


def _make_data_set(folder: Path) -> Path:
    from tilewright.cost.dataset import DataSet, TaskData, write_data_set

    configs = np.arange(80, dtype=np.int32).reshape(40, 2)
    task = TaskData("key", "name", 1e6, ("net",), "cpu", "toy/1", configs, _nest(), np.linspace(1, 2, 40))
    write_data_set(DataSet((task,), {"date": "2025-01-01"}), folder / "d.parquet")
    return folder / "d.parquet"


def _read_data_set(path: Path) -> None:
    from tilewright.cost.dataset import read_data_set

    for task in read_data_set(path).tasks:
        assert task.configs.dtype == np.int32
        assert len(task.configs) == len(task.seconds) == len(task.nest)
        assert isinstance(task.name, str)
        assert isinstance(task.flop, int | float)


def _measurements() -> list[Any]:
    from tilewright.measure.outcome import Measurement, Outcome

    ok = [Measurement("t", "cpu", "toy/1", (i, 3), Outcome.OK, (0.1 + i, 0.2 + i), time=1.7e9) for i in range(8)]
    return [*ok, Measurement("t", "cpu", "toy/1", (1, 2), Outcome.RUN_CRASHED, (), "signal 11")]


def _make_lines(folder: Path) -> Path:
    from tilewright.records.export import write_jsonl

    with (folder / "r.jsonl").open("w") as file:
        write_jsonl(_measurements(), file)
    return folder / "r.jsonl"


def _read_lines(path: Path) -> None:
    from tilewright.records.export import read_jsonl

    with path.open(encoding="utf-8") as file:
        for measurement in read_jsonl(file):
            _check_measurement(measurement)


def _check_measurement(measurement: Any) -> None:
    assert all(type(index) is int for index in measurement.config)
    assert all(type(seconds) is float for seconds in measurement.repeats)
    assert isinstance(measurement.message, str)


def _make_store(folder: Path) -> Path:
    from tilewright.records import open_store
    from tilewright.task import Task

    with open_store(folder / "r.db") as store:
        store.add(_measurements())
        store.describe(Task("t", "matmul", "auto", 1e6, "{" + "x" * 30_000 + "}"))
    return folder / "r.db"


def _read_store(path: Path) -> None:
    from tilewright.records import open_store
    from tilewright.records.store import Query

    for side in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + side).unlink(missing_ok=True)
    with open_store(path) as store:
        for measurement in store.scan(Query()):
            _check_measurement(measurement)
        assert all(m.ok for m in store.best("t", "cpu", "toy/1", 5))
        assert all(isinstance(row.name, str) and isinstance(row.last_time, float) for row in store.summary())
        assert all(isinstance(task.ir, str) for task in store.tasks())
        store.add(_measurements()[:1])


def _make_task(folder: Path) -> Path:
    from tilewright.frontend.load import load
    from tilewright.graph.tasks import extract
    from tilewright.target import Target

    use = extract(load(_make_onnx(folder)), Target.parse()).uses[0]
    (folder / "task.json").write_text(use.task.ir)
    return folder / "task.json"


def _read_task(path: Path) -> None:
    from tilewright.ops.registry import recorded_space
    from tilewright.target import Target
    from tilewright.task import Task

    ir = path.read_text(encoding="utf-8", errors="replace")
    space = recorded_space(Task("key", "name", "contraction", 1.0, ir), Target.parse())
    if space.has_loop_nest:
        space.loop_nest(space.default()[None])


def _make_input(folder: Path) -> Path:
    np.save(folder / "x.npy", np.ones((2, 3), np.float32))
    return folder / "x.npy"


def _read_input(path: Path) -> None:
    from tilewright.cli.run import _read
    from tilewright.tensor import TensorSpec

    (array,) = _read([path], [TensorSpec("x", (2, 3), "float32")])
    assert array.shape == (2, 3)
    assert array.dtype == np.float32


READERS: dict[str, Reader] = {
    "input array": Reader(_make_input, _read_input),
    "records, JSON lines": Reader(_make_lines, _read_lines),
    "records, SQLite": Reader(_make_store, _read_store),
    "data set": Reader(_make_data_set, _read_data_set),
    "cost model, trees": Reader(_make_model("xgb_rank"), _read_cost_model),
    "cost model, perceptron": Reader(_make_model("mlp"), _read_cost_model, compiled=True),
    "executable, changed": Reader(_make_manifest, _read_executable, compiled=True),
    "executable, sealed anew": Reader(_make_manifest, _read_executable, _reseal, compiled=True),
    "ONNX": Reader(_make_onnx, _read_model, compiled=True),
    "PyTorch program": Reader(_make_program, _check_program, compiled=True),
    "recorded task": Reader(_make_task, _read_task, compiled=True),
}
