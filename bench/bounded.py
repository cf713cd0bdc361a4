"""Tunes networks of many small operators with a short budget: 1,000 operators of each common kind.

    python -m bench.bounded --json bounded.json
    python -m bench.bounded --kinds tanh,mix --count 1000 --budget 30

Each model is tuned by ``tilewright tune`` in a process of its own. *Ended* means that the command wrote an executable.
The table has the seconds of the command, its processor seconds, and the most memory of any process so far. The exit
code is 1 if a command has not ended so, or took more than 1.5 times its budget.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tilewright.cli.boundary import write_json
from tilewright.cli.text import table

__all__ = ["KINDS", "main", "measure", "write_model"]

#: How much longer than its budget a command may take.
_LATE = 1.5


class _Graph:
    """A chain of operators that grows at its end."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.end = shape, "x"
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> str:
        return self.weight((mean + scale * self.rng.standard_normal(shape)).astype(np.float32))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    def add(self, operator: str, *others: str, **attributes: Any) -> None:
        self.end = self.node(operator, self.end, *others, **attributes)


def _unary(operator: str) -> Callable[[_Graph, int], None]:
    return lambda graph, _: graph.add(operator)


def _mix(graph: _Graph, number: int) -> None:
    operator = ("Tanh", "Relu", "Sigmoid", "Add", "Mul", "Gelu")[number % 6]
    graph.add(operator, *([graph.normal(16)] if operator in ("Add", "Mul") else []))


def _convolution(graph: _Graph, _: int) -> None:
    graph.add("Conv", graph.normal(8, 8, 3, 3, scale=(2 / 72) ** 0.5), pads=[1, 1, 1, 1])
    graph.add("Relu")


def _dense(graph: _Graph, _: int) -> None:
    graph.add("MatMul", graph.normal(16, 16, scale=0.25))
    graph.add("Add", graph.normal(16, scale=0.1))


def _layer_norm(graph: _Graph, _: int) -> None:
    graph.add("LayerNormalization", graph.normal(16, scale=0.1, mean=1.0), graph.normal(16, scale=0.1))


def _moved(graph: _Graph, _: int) -> None:
    graph.add("Reshape", graph.weight(np.asarray([16, 8])))
    graph.add("Transpose", perm=[1, 0])
    graph.add("Relu")


def _cut(graph: _Graph, _: int) -> None:
    """The columns in two parts, joined the other way round."""
    axis, edges = graph.weight(np.asarray([1])), [graph.weight(np.asarray([n])) for n in (0, 5, 16)]
    left, right = (graph.node("Slice", graph.end, *edges[i : i + 2], axis) for i in (0, 1))
    graph.end = graph.node("Concat", right, left, axis=1)


#: By name: what is added to the network for each of its operators.
KINDS: dict[str, Callable[[_Graph, int], None]] = {
    "tanh": _unary("Tanh"),
    "relu": _unary("Relu"),
    "gelu": _unary("Gelu"),
    "softmax": lambda graph, _: graph.add("Softmax"),
    "add": lambda graph, _: graph.add("Add", graph.normal(16, scale=0.1)),
    "mul": lambda graph, _: graph.add("Mul", graph.normal(16, scale=0.01, mean=1.0)),
    "mix": _mix,
    "convolution": _convolution,
    "dense": _dense,
    "layer_norm": _layer_norm,
    "moved": _moved,
    "cut": _cut,
}


def write_model(kind: str, count: int, path: Path) -> Path:
    """An ONNX model of ``count`` operators of one of ``KINDS`` in a row, on 8x16 numbers (convolutions: 1x8x8x8)."""
    graph = _Graph((1, 8, 8, 8) if kind == "convolution" else (8, 16))
    for number in range(count):
        KINDS[kind](graph, number)
    made = helper.make_graph(
        graph.nodes,
        kind,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, graph.shape)],
        [helper.make_tensor_value_info(graph.end, TensorProto.FLOAT, None)],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
    return path


def measure(model: Path, budget: float, folder: Path, limit: float) -> dict[str, Any]:
    """Tune ``model`` by the command, into ``folder``; ended after ``limit`` seconds in any case. Ready for JSON."""
    command = [sys.executable, "-m", "tilewright.cli", "tune", str(model), "--budget", f"{budget}s"]
    places = ["--out", str(folder / "out"), "--records", str(folder / "records.db")]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            [*command, *places], capture_output=True, text=True, timeout=limit, env=os.environ, check=False
        )
        code, message = done.returncode, done.stderr.strip()[-300:]
    except subprocess.TimeoutExpired:
        code, message = -1, f"did not end within {limit:g} s"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit_code": code,
        "executable": (folder / "out" / "manifest.json").exists(),
        "seconds": time.monotonic() - began,
        "processor_seconds": after.ru_utime - before.ru_utime,
        "peak_bytes": after.ru_maxrss << 10,  # of any process so far
        "message": message,
    }


def main(arguments: list[str] | None = None) -> int:
    """The bench as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of operators, by commas")
    parser.add_argument("--count", type=int, default=1000, help="of operators in each model")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    for kind in given.kinds.split(","):
        with tempfile.TemporaryDirectory(prefix="bounded-") as name:
            folder = Path(name)
            model = write_model(kind, given.count, folder / f"{kind}.onnx")
            found[kind] = measure(model, given.budget, folder, 10 * given.budget)
        print(f"{kind}: {json.dumps(found[kind])}", flush=True)
    rows = [
        [
            kind,
            "yes" if entry["executable"] and entry["exit_code"] == 0 else "no",
            f"{entry['seconds']:.1f}",
            f"{entry['processor_seconds']:.1f}",
            f"{entry['peak_bytes'] / 1e6:.0f}",
        ]
        for kind, entry in found.items()
    ]
    print(table(["operators", "ended", "seconds", "of the processor", "MB"], rows, left=1))
    write_json(given.json, {"count": given.count, "budget": given.budget, "kinds": found})
    late = [k for k, e in found.items() if e["exit_code"] or not e["executable"] or e["seconds"] > _LATE * given.budget]
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
