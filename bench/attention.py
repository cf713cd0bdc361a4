"""Times attention in one function and in several, and compares the one function with the machine's limit.

    python -m bench.attention --cases minilm,vit,causal512,causal1024 --json attention.json

Each case is one attention whose queries, keys and values lie side by side, as a projection writes them. Each task is
timed with the most likely configs of its space, and counts with the fastest. The share of the peak counts the
multiply-adds of both products, of a causal attention half of them; the exponentials come on top. The peak is what a
register-blocked product of packed matrices reaches. Cases that the JSON file holds are not timed again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.measure.limits import measure_limits
from tilewright.measure.pool import LocalPool
from tilewright.ops.registry import make_space
from tilewright.processor import model_name
from tilewright.space.configs import sample
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.joining import joined_task


@dataclass(frozen=True)
class Case:
    """One attention.

    Attributes:
        heads, tokens, depth: its sizes.
        causal: whether a token reads those up to itself alone.
        batch: sequences.
    """

    heads: int
    tokens: int
    depth: int
    causal: bool = False
    batch: int = 1


CASES: dict[str, Case] = {
    "minilm": Case(12, 128, 32),
    "vit": Case(3, 197, 64),
    "causal512": Case(8, 512, 64, causal=True),
    "causal1024": Case(8, 1024, 64, causal=True),
    "whole1024": Case(8, 1024, 64),
    "batch8": Case(12, 128, 32, batch=8),
}


def write(case: Case, path: Path) -> Path:
    """An ONNX model of the attention between two projections, which are left out."""
    b, n, h, d = case.batch, case.tokens, case.heads, case.depth
    weights = {
        "split": np.asarray([b, n, 3, h, d]),
        "merged": np.asarray([b, n, h * d]),
        "scale": np.asarray(1 / math.sqrt(d), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["turned"], perm=[2, 0, 3, 1, 4]),
    ]
    for i, name in enumerate("qkv"):
        weights[f"at_{name}"] = np.asarray(i)
        nodes.append(helper.make_node("Gather", ["turned", f"at_{name}"], [name], axis=0))
    nodes += [
        helper.make_node("Transpose", ["k"], ["keys"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "keys"], ["products"]),
        helper.make_node("Mul", ["products", "scale"], ["scores"]),
    ]
    scores = "scores"
    if case.causal:
        weights["mask"] = np.triu(np.full((n, n), -np.inf, dtype=np.float32), 1)
        nodes.append(helper.make_node("Add", ["scores", "mask"], ["masked"]))
        scores = "masked"
    nodes += [
        helper.make_node("Softmax", [scores], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["tokens"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["tokens", "merged"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [b, n, 3 * h * d])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [b, n, h * d])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def best(task: Task, target: Target, pool: LocalPool, count: int) -> float:
    """Seconds of the fastest of the ``count`` most likely configs of a task; of some configs if none is more likely."""
    space = make_space(task, target)
    likely = getattr(space, "likely", None)
    drawn = np.stack([space.default(), *sample(space, np.random.default_rng(0), count - 1)])
    measured = pool.measure(space, drawn if likely is None else likely(count), math.inf, math.inf)
    return min(m.seconds for m in measured if m.ok)


def time_case(case: Case, target: Target, pool: LocalPool, count: int) -> dict[str, Any]:
    """Milliseconds of the one function, and of each of the several ones."""
    with tempfile.TemporaryDirectory() as folder:
        extraction = extract(load(write(case, Path(folder, "attention.onnx"))), target)
    ((form, _),) = extraction.attentions
    several = {task.name: 1e3 * best(task, target, pool, count) for task in extraction.separate_tasks(form)}
    one = 1e3 * best(joined_task(form), target, pool, count)
    return {"attention": str(form), "flop": 2.0 * form.work, "one": one, "several": several}


def show(cases: dict[str, dict[str, Any]], peak: float) -> str:
    rows = []
    for name, found in cases.items():
        total = sum(found["several"].values())
        speed = found["flop"] / found["one"] / 1e6
        parts = " + ".join(f"{ms:.3f}" for ms in found["several"].values())
        cells = [f"{found['one']:.3f}", f"{total:.3f} = {parts}", f"{found['one'] / total:.2f}", f"{speed:.0f}"]
        rows.append([name, found["attention"].removeprefix("attention "), *cells, f"{1e9 * speed / peak:.2f}"])
    return table(["case", "shape", "one, ms", "several, ms", "ratio", "GFLOP/s", "of the peak"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    parser.add_argument("--configs", type=int, default=16, help="configs of each task")
    parser.add_argument("--json", type=Path, default=Path("attention.json"))
    arguments = parser.parse_args()
    target = Target.parse("native")
    done = json.loads(arguments.json.read_text())["cases"] if arguments.json.exists() else {}
    peak = measure_limits(target.cores).product or math.nan
    about = {"machine": model_name(), "cores": target.cores, "date": time.strftime("%Y-%m-%d"), "peak": peak}
    with LocalPool(target) as pool:
        for name in arguments.cases.split(","):
            if name not in done:
                done[name] = time_case(CASES[name], target, pool, arguments.configs)
                write_json(arguments.json, about | {"cases": done})
    print(f"a product of packed matrices: {peak / 1e9:.0f} GFLOP/s")
    print(show(done, peak))


if __name__ == "__main__":
    main()
