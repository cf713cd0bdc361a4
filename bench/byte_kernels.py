"""Compares the convolutions of bytes of a network with the processor's peak for products of bytes.

    python -m bench.byte_kernels --folder kernels                      # compiles the kernels
    python -m bench.byte_kernels --folder kernels --json bytes.json    # times them

Each kernel is timed twice: as the network has it, with rounding and what else was fused, and its products alone, which
give int32 sums. Of the ``--likely`` most likely schedules, the fastest counts. Timing takes some seconds, in which
nothing is compiled. ``kernels`` of the JSON file have for each ``gops``, the operations per second (a multiply-add is
two), and ``share``, of the ``peak``: the most that the cores reach on registers, measured before and after the kernels.
``whole`` has the shares of all kernels together, each as often as the network calls it. Kernels are called on the same
data again and again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench._quantised import write_models
from bench.kernels import multiply_adds
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.errors import MeasureError
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract, task_of
from tilewright.measure.arguments import Arguments, Parameter, parameters_of
from tilewright.measure.limits import measure_limits
from tilewright.ops.contraction.dot_products import Operands
from tilewright.ops.contraction.form import BLOCK, read_form
from tilewright.ops.contraction.quantised import byte_conv2d
from tilewright.ops.registry import make_space
from tilewright.processor import model_name
from tilewright.space.module import task_module
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tvm_compat import keep_nan, wanted_threads

if TYPE_CHECKING:
    from tvm.runtime import Module

__all__ = ["products_alone"]

#: The list of the compiled kernels in ``--folder``.
_LIST = "kernels.json"
#: Rounds, and the seconds of a kernel in each.
_ROUNDS, _SECONDS = 7, 0.02
#: Seconds after measuring the peak, in which threads of a BLAS spin.
_PAUSE = 0.5
_WHOLE, _ALONE = "with rounding", "products alone"


@dataclass(frozen=True)
class _Kernel:
    """A compiled kernel.

    Attributes:
        name: what it computes.
        key: its key.
        kind: ``_WHOLE`` or ``_ALONE``.
        weight: how often the network calls it.
        operations: of a call, two for each multiply-add.
        library: the file.
        parameters: of its function.
    """

    name: str
    key: str
    kind: str
    weight: float
    operations: float
    library: str
    parameters: tuple[Parameter, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50", help="a name of bench.precision, or an ONNX file")
    parser.add_argument("--likely", type=int, default=1, help="schedules of each kernel")
    parser.add_argument("--target", default="native", help="what kernels are compiled for; it must run here")
    parser.add_argument("--folder", type=Path, required=True, help="for the compiled kernels")
    parser.add_argument("--json", type=Path, help="time the kernels, and write figures")
    arguments = parser.parse_args()
    target = Target.parse(arguments.target)
    if not (arguments.folder / _LIST).exists():
        _compile(arguments.network, target, arguments.folder, arguments.likely)
    if arguments.json is None:
        return
    done = {**_time(_read(arguments.folder), target), "network": arguments.network, "machine": model_name()}
    write_json(arguments.json, done | {"date": time.strftime("%Y-%m-%d"), "threads": wanted_threads()})
    show(done)


def products_alone(task: Task) -> Task:
    """The convolution of bytes of a task without what follows it: its result are int32 sums."""
    data, weight, sums, stride, operands = _read_shapes(task)
    missing = [max(0, (sums[axis] - 1) * stride[axis - 2] + weight[axis] - data[axis]) for axis in (2, 3)]
    padding = (-(-missing[0] // 2), -(-missing[1] // 2), missing[0] // 2, missing[1] // 2)
    function = byte_conv2d(data, weight, stride, padding, (1, 1), 0, operands)
    return task_of("byte_conv2d", function, (1,))


def _read_shapes(
    task: Task,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, int], Operands]:
    """The shapes of the data, of the weights and of the sums, the stride, and what is known of the operands."""
    from tvm.s_tir import Schedule

    module = task_module(task)
    form = read_form(module)
    shapes = [tuple(int(e) for e in p.shape) for p in module["main"].params]
    data = next(shape for shape in shapes if len(shape) == 5)
    weight = next(shape for shape in shapes if len(shape) == 7)
    schedule = Schedule(module)
    sums = schedule.get(schedule.get_sblock(BLOCK)).writes[0].source
    steps = dict(pair for dim in form.accesses[0].dims for pair in dim)
    stride = (1, 1) if form.fused else (steps.get("h", 1), steps.get("w", 1))
    return data, weight, tuple(int(e) for e in sums.ty.shape), stride, form.operands


def _describe(task: Task) -> str:
    """A convolution for people: its kernel, its channels, its pixels, and whether a residual is added."""
    data, weight, sums, stride, _ = _read_shapes(task)
    images = sum(len(p.shape) == 5 and p.dtype == "uint8" for p in parameters_of(task_module(task)["main"]))
    moved = f", stride {stride[0]}" if stride != (1, 1) else ""
    residual = ", residual" if images > 2 else ""  # besides the data and the result
    kernel, pixels = f"{weight[2]}x{weight[3]}", f"{sums[2]}x{sums[3]}"
    return f"{kernel}{moved}, {data[1] * data[4]} to {sums[1] * sums[4]} channels, {pixels}{residual}"


def _compile(network: str, target: Target, folder: Path, likely: int) -> None:
    """Compile the kernels of a network, with their products alone, and list them."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as text:
        model = write_models(network, Path(text), ["static"])
        uses = extract(load(model["int8"]), target).uses
    found: list[dict[str, Any]] = []
    for use in uses:
        if not use.task.name.startswith("byte_conv2d"):
            continue
        operations = multiply_adds(use.task)
        for kind, task in ((_WHOLE, use.task), (_ALONE, products_alone(use.task))):
            for config, library in enumerate(_build(task, target, folder / f"k{len(found)}", likely)):
                parameters = [vars(p) for p in parameters_of(task_module(task)["main"])]
                one = {
                    "name": _describe(use.task),
                    "key": use.task.key,
                    "kind": kind,
                    "weight": use.weight,
                    "operations": operations,
                }
                found.append({**one, "library": library, "config": config, "parameters": parameters})
        print(f"+ {use.task.name}", flush=True)
    write_json(folder / _LIST, {"kernels": found})


def _build(task: Task, target: Target, path: Path, likely: int) -> list[str]:
    """The files of the libraries of a task's most likely programs."""
    import tvm

    space = make_space(task, target)
    drawn = getattr(space, "likely", None)
    names = []
    for number, config in enumerate([space.default()] if drawn is None else drawn(likely)):
        file = path.with_name(f"{path.name}-{number}.so")
        tvm.compile(keep_nan(space.schedule(config).mod), target=target.tvm).export_library(str(file))
        names.append(file.name)
    return names


def _read(folder: Path) -> list[tuple[_Kernel, Path]]:
    rows = json.loads((folder / _LIST).read_text())["kernels"]
    found = []
    for row in rows:
        parameters = tuple(Parameter(**{**p, "shape": tuple(p["shape"])}) for p in row["parameters"])
        own = {key: row[key] for key in ("name", "key", "kind", "weight", "operations", "library")}
        found.append((_Kernel(**own, parameters=parameters), folder / row["library"]))
    return found


def _time(kernels: Sequence[tuple[_Kernel, Path]], target: Target) -> dict[str, Any]:
    """The figures of all kernels, by turns with the peak."""
    import tvm

    peaks = [_measure_peak(target)]
    time.sleep(_PAUSE)
    calls = []
    for kernel, file in kernels:
        module: Module = tvm.runtime.load_module(str(file))
        arguments = Arguments(kernel.parameters, kernel.name)
        module["main"](*arguments.tensors)
        calls.append((module, arguments))
    seconds: list[list[float]] = [[] for _ in kernels]
    for _ in range(_ROUNDS):
        for (module, arguments), times in zip(calls, seconds, strict=True):
            times.append(_call(module["main"], arguments))
    peak = max(*peaks, _measure_peak(target))
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for (kernel, _), times in zip(kernels, seconds, strict=True):
        took = float(np.median(times))
        row = {
            "name": kernel.name,
            "key": kernel.key,
            "kind": kernel.kind,
            "weight": kernel.weight,
            "operations": kernel.operations,
        }
        row |= {"microseconds": 1e6 * took, "gops": 1e-9 * kernel.operations / took}
        row["share"] = kernel.operations / took / peak
        known = best.get((kernel.key, kernel.kind))
        if known is None or row["microseconds"] < known["microseconds"]:
            best[kernel.key, kernel.kind] = row
    whole = {}
    for kind in (_WHOLE, _ALONE):
        rows = [row for row in best.values() if row["kind"] == kind]
        work = sum(row["weight"] * row["operations"] for row in rows)
        whole[kind] = work / sum(row["weight"] * 1e-6 * row["microseconds"] for row in rows) / peak
    return {"kernels": [*best.values()], "whole": whole, "peak": peak}


def _measure_peak(target: Target) -> float:
    limits = measure_limits(target.cores, target.features)
    if limits.dot is None:
        raise MeasureError("the peak for products of bytes is measured by code that needs a C compiler; install one")
    return limits.dot


def _call(function: Any, arguments: Arguments) -> float:
    """Seconds of a call, the mean over about ``_SECONDS``."""
    begin = time.perf_counter()
    function(*arguments.tensors)
    count = max(3, round(_SECONDS / (time.perf_counter() - begin)))
    begin = time.perf_counter()
    for _ in range(count):
        function(*arguments.tensors)
    return (time.perf_counter() - begin) / count


def show(done: dict[str, Any]) -> None:
    """Print the table."""
    keys = dict.fromkeys(row["key"] for row in done["kernels"])
    found = {(row["key"], row["kind"]): row for row in done["kernels"]}
    rows = []
    for key in keys:
        whole, alone = found[key, _WHOLE], found[key, _ALONE]
        cells = [
            f"{row[figure]:{form}}"
            for row in (whole, alone)
            for figure, form in (("microseconds", ".0f"), ("share", ".2f"))
        ]
        rows.append([whole["name"], f"{whole['weight']:g}", f"{1e-6 * whole['operations']:.0f}", *cells])
    head = ["kernel", "calls", "MOP", f"{_WHOLE}, us", "of the peak", f"{_ALONE}, us", "of the peak"]
    print(table(head, rows))
    print(", ".join(f"{kind}: {share:.2f} of the peak" for kind, share in done["whole"].items()))
    print(f"peak: {1e-9 * done['peak']:.0f} GOP/s; {done['machine']}")


if __name__ == "__main__":
    main()
