"""Times our kernels in their places, in real steps of training, and says what each loses to the machine's limits."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench._gradient_errors import OurSteps
from bench._training_models import BATCH
from bench._training_tasks import DATA, FORWARD, KINDS, WEIGHTS, find_layers, find_purposes
from tilewright.cli.text import table
from tilewright.errors import MeasureError
from tilewright.measure.limits import Limits, measure_limits
from tilewright.measure.peer_process import PeerProcess
from tilewright.processor import cache_sizes
from tilewright.target import Target
from tilewright.tensor import Array
from tilewright.training.live import LivePart

__all__ = ["Timed", "bound_seconds", "list_convolutions", "list_kernels", "measure_kernels", "show_kernels"]

#: Steps in which kernels are timed, and steps before them that are not: caches and memory settle.
_STEPS, _WARM_UP = 7, 3
#: Seconds until all parts have kernels. Without a cache from an earlier run, they are compiled first.
_PATIENCE = 400.0
#: The goal of a step, as a share of the faster one of PyTorch's arms.
_GOAL = 0.65
#: How many kernels are printed that lose most.
_MOST = 10


@dataclass(frozen=True)
class Timed:
    """A call of a kernel of ours in a step.

    Attributes:
        graph: ``forward`` or ``backward``.
        kernel: the name of its function; empty: a copy.
        task: what it computes, for people.
        kind: one of ``KINDS``.
        layer: the convolution or product that it belongs to; empty: none.
        layer_flop: operations of the layer, computed directly.
        convolution: whether the layer is a convolution.
        flop: operations of the call itself.
        bytes: that it reads and writes, each tensor once.
        seconds: its median over steps.
        first: whether no earlier call belongs to the same kernel of the same layer.
    """

    graph: str
    kernel: str
    task: str
    kind: str
    layer: str
    layer_flop: float
    convolution: bool
    flop: float
    bytes: float
    seconds: float
    first: bool


class KernelSteps(OurSteps):
    """Steps that time our kernels. Each part runs in these, even if PyTorch's are faster."""

    def wait(self, _: Sequence[Array], seconds: float) -> list[str]:
        """Step until each part runs in our kernels, at most for ``seconds``. Returns what does not."""
        end = time.monotonic() + seconds
        while True:
            self._step()
            waiting = [part for _, part in _find_parts() if part.state not in ("running", "left")]
            if not waiting or time.monotonic() > end:
                return [
                    f"{part.name}: {part.reason or part.state}" for _, part in _find_parts() if part.state != "running"
                ]

    def profile(self, _: Sequence[Array], steps: int) -> list[dict[str, Any]]:
        """The calls of our kernels in a step, as fields of :class:`Timed`.

        Args:
            _: no inputs.
            steps: over which medians are taken.

        Raises:
            MeasureError: kernels are not those that this version of Tilewright would build.
        """
        parts = [(kind, part) for kind, part in _find_parts() if part.state == "running"]
        seconds: list[list[list[float]]] = [[] for _ in parts]
        for _step in range(steps):
            for _kind, part in parts:
                part.profile_next()
            self._step()
            for taken, (_kind, part) in zip(seconds, parts, strict=True):
                taken.append([s for _, s in part.kernels])
        found = []
        for (kind, part), taken in zip(parts, seconds, strict=True):
            found += _explain(kind, part, np.median(np.asarray(taken), axis=0).tolist())
        return [asdict(timed) for timed in found]


def _find_parts() -> list[tuple[str, LivePart]]:
    """The parts of this process's model, each with the kind of its graph."""
    from tilewright.training.backend import sessions

    return [(graph.kind, part) for session in sessions for graph in session.graphs for part in graph.parts]


def _agree(planned: Sequence[str], built: Sequence[str]) -> bool:
    """Whether kernels are those of a plan. The names of files are limited, so a kernel's may have been cut."""
    return len(planned) == len(built) and all(a.startswith(b) for a, b in zip(planned, built, strict=True))


def _explain(kind: str, part: LivePart, seconds: Sequence[float]) -> list[Timed]:
    """What the calls of a part are for. The part is imported again, since an executable knows no tasks."""
    from tilewright.frontend.load import load_part
    from tilewright.graph.tasks import extract
    from tilewright.tuning.algorithms import assume_algorithms

    # A copy: the part goes on running.
    module = pickle.loads(pickle.dumps(part.part.module))
    network = load_part(part.name, module, part.inputs, part.outputs)
    extraction = extract(network, Target.parse(), assume=assume_algorithms)
    plan, kernels = extraction.plan, [name for name, _ in part.kernels]
    stems = [_stem(_without_hash(kernel)) for kernel in kernels]
    if plan is None or not _agree([_stem(call.kernel) for call in plan.calls], stems):
        raise MeasureError(
            f"kernels can be explained if this version of Tilewright built them, but those of {part.name} are of "
            "another one; take other records, or remove the cache beside them"
        )
    tasks = {name: use.task for use in extraction.uses for name in use.functions}
    of_calls = [tasks.get(call.kernel) for call in plan.calls]
    module = pickle.loads(pickle.dumps(part.part.module))
    purposes = find_purposes(plan, of_calls, find_layers(module, part.inputs), kind == "backward")
    found, seen = [], set()
    for call, kernel, task, purpose, taken in zip(plan.calls, kernels, of_calls, purposes, seconds, strict=True):
        layer, key = purpose.layer, (purpose.kind, id(purpose.layer))
        moved = [plan.tensors[number].bytes for number in call.tensors]
        found.append(
            Timed(
                graph=kind,
                kernel=kernel,
                task="copy" if task is None else task.name,
                kind=purpose.kind,
                layer="" if layer is None else layer.name,
                layer_flop=0.0 if layer is None else layer.flop,
                convolution=layer is not None and layer.convolution,
                flop=0.0 if task is None else task.flop,
                # What moves elements may read a small piece of a large tensor.
                bytes=float(2 * moved[-1] if purpose.kind == "layout" else sum(moved)),
                seconds=taken,
                first=key not in seen,
            )
        )
        seen.add(key)
    return found


def _without_hash(kernel: str) -> str:
    """The name that a kernel has in its plan: a library adds a number that depends on the program."""
    return re.sub(r"_[0-9a-f]{8}$", "", kernel)


def _stem(name: str) -> str:
    """A name without the numbers that tell equal names apart: they depend on what was imported before."""
    return re.sub(r"\d+", "", name)


def measure_kernels(name: str, own: str, threads: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Time our kernels of a network in real steps, in a process of its own.

    Args:
        name: of the network.
        own: the arm of Tilewright.
        threads: of the process.
        options: of the backend. The kernels are what the records of its mode ``cached`` hold.

    Returns:
        ``kernels``: a row for each kernel; ``convolutions``: a row for each convolution; ``limits`` of the machine;
        ``waiting``: the parts that PyTorch runs, each with the reason; ``profiled_ms``: the median of whole steps.
        If kernels cannot be timed: ``kernels_error``.
    """
    limits = [measure_limits(threads)]
    process = PeerProcess(threads)
    try:
        process.start(KernelSteps, (name, own, threads, dict(options), BATCH))
        process.prepare([])
        waiting = process.call("wait", _PATIENCE)
        step = float(np.median(process.time(_WARM_UP, _STEPS)))
        calls = [Timed(**fields) for fields in process.call("profile", _STEPS)]
    except MeasureError as error:
        return {"kernels_error": str(error)}
    finally:
        process.kill()
    limits.append(measure_limits(threads))
    best = max(limits, key=lambda found: found.reachable)
    return {
        "profiled_ms": 1e3 * step,
        "waiting": waiting,
        "limits": {**best.describe(), "reachable": best.reachable},
        "kernels": list_kernels(calls, best),
        "convolutions": list_convolutions(calls, best),
    }


def bound_seconds(flop: float, moved: float, limits: Limits, last_cache: int) -> float:
    """The seconds in which good code does so much: at the speed of a matrix product, of caches, and of memory.

    Args:
        flop: floating-point operations.
        moved: bytes that are read and written.
        limits: of the machine.
        last_cache: bytes of the last cache. What it cannot hold comes from memory, or goes there.
    """
    seconds = flop / limits.reachable
    if limits.cache_bandwidth:
        seconds = max(seconds, moved / limits.cache_bandwidth)
    if limits.memory_bandwidth:
        seconds = max(seconds, (moved - last_cache) / limits.memory_bandwidth)
    return seconds


def list_kernels(calls: Sequence[Timed], limits: Limits) -> list[dict[str, Any]]:
    """A row for each kernel and layer: the sums over all calls in a step. What loses most comes first."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    last_cache = cache_sizes()[2]
    for call in calls:
        about = {"graph": call.graph, "kernel": call.kernel, "task": call.task, "kind": call.kind, "layer": call.layer}
        row = rows.setdefault(
            tuple(about.values()), {**about, "calls": 0, "us": 0.0, "flop": 0.0, "bytes": 0.0, "bound_us": 0.0}
        )
        row["calls"] += 1
        row["us"] += 1e6 * call.seconds
        row["flop"] += call.flop
        row["bytes"] += call.bytes
        row["bound_us"] += 1e6 * bound_seconds(call.flop, call.bytes, limits, last_cache)
    for row in rows.values():
        row["above_us"] = row["us"] - row["bound_us"]
    return sorted(rows.values(), key=lambda row: -float(row["above_us"]))


def list_convolutions(calls: Sequence[Timed], limits: Limits) -> list[dict[str, Any]]:
    """A row for each shape of convolution: how fast its three kernels are, with all that belongs to them.

    Operations are those of computing directly, so Winograd's algorithm may exceed the peak, which is a matrix product.
    """
    rows: dict[str, dict[str, Any]] = {}
    for call in calls:
        if not call.convolution:
            continue
        row = rows.setdefault(call.layer, {"layer": call.layer, "flop": call.layer_flop})
        kernel = row.setdefault(call.kind, {"count": 0, "ms": 0.0})
        kernel["count"] += call.first
        kernel["ms"] += 1e3 * call.seconds
    for row in rows.values():
        for kind in (FORWARD, DATA, WEIGHTS):
            if kernel := row.get(kind):
                rate = row["flop"] * kernel["count"] / (1e-3 * kernel["ms"])
                kernel |= {"gflops": rate / 1e9, "of_peak": rate / limits.reachable}
    return list(rows.values())


def show_kernels(networks: Mapping[str, Any]) -> str:
    """For each network a table of kinds, one of the kernels that lose most, and one of convolutions."""
    return "\n\n".join(_show(name, entry) for name, entry in networks.items())


def _show(name: str, entry: Mapping[str, Any]) -> str:
    if "kernels" not in entry:
        return f"{name}: no kernels were timed: {entry.get('kernels_error', 'this file is of an earlier version')}"
    rows, limits = entry["kernels"], entry["limits"]
    ours = sum(row["us"] for row in rows) / 1e3
    lines = [
        f"{name}: {ours:.0f} ms of a step of {entry['profiled_ms']:.0f} ms are in our kernels",
        f"peak: {limits['reachable'] / 1e9:.0f} GFLOP/s in a matrix product; {limits['peak'] / 1e9:.0f} by "
        f"{limits['peak_source']}; memory: {(limits['memory_bandwidth'] or 0.0) / 1e9:.0f} GB/s",
        *_show_goal(entry),
        *(f"PyTorch runs {part}" for part in entry["waiting"]),
        "",
        table(
            ["kind", "calls", "ms", "bound, ms", "above, ms", "GFLOP/s"], list(map(_describe_kind, _sum_kinds(rows)))
        ),
        "",
        table(
            ["kernel", "pass", "kind", "layer", "calls", "us", "bound, us", "above, us"],
            [
                [
                    row["task"],
                    row["graph"],
                    row["kind"],
                    row["layer"],
                    str(row["calls"]),
                    *(f"{row[key]:.0f}" for key in ("us", "bound_us", "above_us")),
                ]
                for row in rows[:_MOST]
            ],
        ),
    ]
    if entry["convolutions"]:
        header = ["convolution", "times"]
        for kind in (FORWARD, DATA, WEIGHTS):
            header += [f"{'forward' if kind == FORWARD else kind}: ms", "GFLOP/s", "of peak"]
        lines += ["", table(header, list(map(_describe_convolution, entry["convolutions"])))]
    return "\n".join(lines)


def _show_goal(entry: Mapping[str, Any]) -> list[str]:
    """How far the step is from its goal, if it was raced."""
    medians = {arm: float(found["median_ms"]) for arm, found in entry.get("step_ms", {}).items()}
    others = [median for arm, median in medians.items() if arm != "tilewright"]
    if not others:
        return []
    goal = _GOAL * min(others)
    excess = medians["tilewright"] - goal
    text = f"{excess:.0f} ms too long" if excess > 0 else "reached"
    return [f"goal: {goal:.0f} ms, {_GOAL:g} of PyTorch's best; {text}"]


def _sum_kinds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The sums of the rows of each kind, the kinds in their order."""
    keys = ("calls", "us", "bound_us", "above_us", "flop")
    kinds = [(kind, [row for row in rows if row["kind"] == kind]) for kind in KINDS]
    return [{"kind": kind, **{key: sum(r[key] for r in found) for key in keys}} for kind, found in kinds if found]


def _describe_kind(row: Mapping[str, Any]) -> list[str]:
    times = [f"{row[key] / 1e3:.1f}" for key in ("us", "bound_us", "above_us")]
    return [row["kind"], str(row["calls"]), *times, f"{row['flop'] / row['us'] / 1e3:.0f}"]


def _describe_convolution(row: Mapping[str, Any]) -> list[str]:
    kernels = [row.get(kind) for kind in (FORWARD, DATA, WEIGHTS)]
    cells = [row["layer"], str(max(kernel["count"] for kernel in kernels if kernel))]
    for kernel in kernels:
        cells += [f"{kernel['ms']:.2f}", f"{kernel['gflops']:.0f}", f"{kernel['of_peak']:.2f}"] if kernel else ["-"] * 3
    return cells
