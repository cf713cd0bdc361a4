"""Runs that nobody made, of any size, for pages: with names that want to be HTML, or with hundreds of tasks."""

from __future__ import annotations

import math

import numpy as np

from tilewright.executable.plan import Call, Plan, Tensor
from tilewright.report.history import History
from tilewright.report.network import draw_network
from tilewright.report.run import Bench, PeerTime, Run
from tilewright.training.results import (
    ChangeReport,
    GraphReport,
    KernelShare,
    Kind,
    PartReport,
    ProofReport,
    SlotReport,
    StepsReport,
    TrainingReport,
)
from tilewright.tuning.report import (
    AlgorithmReport,
    DisturbanceReport,
    RaceReport,
    RuntimeRaceReport,
    SegmentReport,
    TaskReport,
    TuneReport,
)
from tilewright.tuning.run_events import (
    KernelsEvent,
    KnobText,
    LatencyEvent,
    MachineEvent,
    NetworkEvent,
    PhaseEvent,
    RoundEvent,
    SpaceEvent,
    TaskFunctions,
    Trial,
)
from tilewright.verify.verdict import Outcome, Verdict

__all__ = ["HOSTILE", "make_plan", "make_run", "make_training"]

#: A name that is HTML, quotes, a template, a spec's expression, and long.
HOSTILE = "</script><img src=x onerror=alert(1)>\"'{{7*7}}<!--" + "W" * 400
_KNOBS = ("tile_oc", "tile_h", "tile_w", "order", "unroll", "parallel", "fuse")


def make_run(tasks: int = 24, trials: int = 16, name: str = "a_network", task_name: str = "conv2d_add_relu") -> Run:
    """A run of a network that is a chain with branches.

    Args:
        tasks: how many tasks it has; each is called once.
        trials: of each task.
        name: of the network.
        task_name: with which the names of tasks begin.
    """
    rng = np.random.default_rng(0)
    reports = tuple(_task(n, f"{task_name} {n} 1x{n}x56x56x16", trials, rng) for n in range(tasks))
    functions = tuple(TaskFunctions(each.key, each.name, (f"fused_{each.key}",)) for each in reports)
    history = _history(reports, functions, trials, rng)
    plan = make_plan(tasks)
    before = 1.8 * sum(each.best_seconds or 0.0 for each in reports)
    now = before / 1.8
    report = TuneReport(
        model=name,
        target="emeraldrapids-2x-0000",
        machine=f"A processor of {name}",
        cores=2,
        date="2026-11-30",
        budget_seconds=300.0,
        wall_seconds=301.2,
        notes=(f"a note about {name}",),
        method="bayesian+xgb_reg",
        tasks=reports,
        trials=tasks * trials,
        trials_per_second=7.5,
        failures={"run_timed_out": 3},
        roofline={"peak": 3.8e11, "innermost_bandwidth": 6e11, "cache_bandwidth": 2.9e11, "memory_bandwidth": 1.2e10},
        budget_plan={"rounds": {"seconds": 200.0, "why": f"what the other steps leave of {name}"}},
        published="tuned",
        algorithms=(AlgorithmReport("1x64x56x56 64x64x3x3", 2, "winograd4", {"direct": 0.21, "winograd4": 0.14}),),
        segments=(SegmentReport(("If",), 3, (f"If ({name}): a subgraph",)),),
        worker_peak_bytes=250_000_000,
        caches="warm",
        disturbance=DisturbanceReport(7, 4, {"preemption": 7}),
        before_seconds=before,
        after_seconds=now,
        final_race=RaceReport("tuned", 1e3 * now, 1e3 * before, 1 / 1.8, 0.53, 0.58),
        runtime_race=RuntimeRaceReport("executable", 1e3 * now, 1.3e3 * now, 1 / 1.3, 0.75, 0.8),
    )
    return Run(
        name=name,
        place=f"/models/{name}",
        report=report,
        history=history,
        plan=plan,
        nodes=tuple(draw_network(plan, functions)),
        verdict=Verdict(Outcome.RIGHT, 2.1e-6, 2, "float64", f"the outputs of {name} agree with the reference"),
        features=("avx2", "avx512f"),
        bytes={"kernels.so": 400_000, "weights.npz": 5_000_000},
        bench=Bench(1e3 * now, (PeerTime("openvino", 1.2e3 * now, 0.83, 0.8, 0.86), PeerTime(name, problem="missing"))),
    )


def _task(number: int, name: str, trials: int, rng: np.random.Generator) -> TaskReport:
    best = float(rng.lognormal(-9.0, 1.0))
    return TaskReport(
        name=name,
        kind="contraction",
        key=f"{number:016x}",
        weight=1,
        flop=best * 1.5e11,
        best_seconds=best,
        possible_seconds=best / float(rng.uniform(1.2, 6.0)),
        touched_bytes=best * 1.5e11 / float(rng.uniform(1.0, 60.0)),
        trials=trials,
        recorded=0,
        rounds=2,
        failures={},
        exhausted=False,
        done=False,
        problem="",
    )


def _history(
    reports: tuple[TaskReport, ...], functions: tuple[TaskFunctions, ...], trials: int, rng: np.random.Generator
) -> History:
    """Phases, rounds and samples, as a session logs them."""
    history = History()
    for t, phase in ((0.0, "reading"), (8.0, "incumbent"), (21.0, "design spaces"), (24.0, "rounds")):
        history.add(PhaseEvent(t, phase))
    history.add(NetworkEvent(21.0, functions))
    for each in reports:
        knobs = tuple(KnobText(knob, 8, tuple(map(str, range(8)))) for knob in _KNOBS)
        history.add(SpaceEvent(22.0, each.key, "contraction/1", knobs, 0))
    step = 200.0 / max(1, len(reports))
    total = sum(each.best_seconds or 0.0 for each in reports)
    for n, each in enumerate(reports):
        t, best = 24.0 + n * step, each.best_seconds or 1e-3
        made = []
        for k in range(trials):
            seconds = best * (1.0 + 3.0 * math.exp(-k / 5) * float(rng.random()))
            config = tuple(int(index) for index in rng.integers(0, 8, len(_KNOBS)))
            failed = bool(rng.random() < 0.04)
            made.append(Trial(config, None if failed else seconds, "run_timed_out" if failed else "ok"))
        history.add(RoundEvent(t, each.key, step, trials, best, {knob: "4" for knob in _KNOBS}, tuple(made)))
        history.add(LatencyEvent(t, total * (1.8 - 0.8 * (n + 1) / len(reports))))
        history.add(MachineEvent(t, n // 4, {"preemption": n // 4}, 0, 600_000_000 + n * 1_000_000, 250_000_000))
    for t, phase in (
        (226.0, "finalists"),
        (240.0, "building"),
        (262.0, "final race"),
        (290.0, "publishing"),
        (301.0, "end"),
    ):
        history.add(PhaseEvent(t, phase))
    placed = tuple(each.best_seconds or 0.0 for each in reports)
    history.add(
        KernelsEvent(300.0, tuple(f"fused_{each.key}_0000000{n % 10}" for n, each in enumerate(reports)), placed)
    )
    return history


def make_plan(calls: int) -> Plan:
    """A chain in which every fourth call has a twin beside it."""
    tensors, made, last = [Tensor("arena", 0, (1, 16), "float32")], [], [0]
    for number in range(calls):
        place = 64 * (number + 1)
        tensors.append(Tensor("arena", place, (1, 4, 28, 28, 16)[:2], "float32"))
        reads = tuple(last)
        made.append(Call(f"fused_{number:016x}_0000000{number % 10}", (*reads, number + 1), 1))
        last = (
            [last[0], number + 1][-2:]
            if number % 4 == 2
            else [*last[1:], number + 1]
            if number % 4 == 3
            else [number + 1]
        )
    return Plan(64 * (calls + 2), tuple(tensors), tuple(made), (0,), (calls,), vector=64)


def make_training(parts: int = 2, kernels: int = 30, pieces: int = 200, name: str = "ResNet") -> TrainingReport:
    """The report of a training: steps become shorter when the parts of each pass begin to run in our kernels.

    Args:
        parts: of each pass.
        kernels: of each part.
        pieces: of the course of its steps.
        name: of the model's class, and of what kernels compute.
    """
    rng = np.random.default_rng(0)
    forward, backward = (
        tuple(_part(kind, number, kernels, name, rng) for number in range(parts)) for kind in ("forward", "backward")
    )
    course, t = [], 0.0
    for n in range(pieces):
        ours = 0 if n < 0.15 * pieces else parts if n < 0.4 * pieces else 2 * parts
        seconds = (0.6 - 0.3 * ours / (2 * parts)) * float(rng.uniform(0.97, 1.05))
        course.append(StepsReport(t, t + 2 * seconds, 2, seconds, 0.96 * seconds, 1.3 * seconds, ours, 0.05 * t))
        t += 2 * seconds
    changes = [
        ChangeReport(course[int(share * pieces)].begin, part.name, "left" if part.state == "left" else "running")
        for share, its in ((0.15, forward), (0.4, backward))
        for part in its
    ]
    rest = {"max_pool2d_with_indices.default": 1, "native_batch_norm_backward.default": 3, f"{name}.default": 2}
    return TrainingReport(
        graphs=(
            GraphReport("forward", 2 * pieces, forward, 6, rest, tuple(course), tuple(changes)),
            GraphReport("backward", 2 * pieces, backward, 0),
        ),
        model=name,
        machine=f"A processor of {name}",
        cores=2,
        date="2026-11-30",
        versions={"tilewright": "0.1", "torch": "2.13"},
        options={"budget": "5m", "mode": "background"},
        before_seconds=0.6,
        now_seconds=0.3,
        slots=SlotReport(0.05 * t, 80, 120, 9, ended=True),
        roofline={"peak": 3.8e11, "innermost_bandwidth": 6e11, "cache_bandwidth": 2.9e11, "memory_bandwidth": 1.2e10},
    )


def _part(kind: Kind, number: int, kernels: int, name: str, rng: np.random.Generator) -> PartReport:
    seconds = sorted(rng.lognormal(-8.0, 1.0, kernels).tolist(), reverse=True)
    shares = tuple(
        KernelShare(
            name=f"fused_{name}_{kind}_{number}_{n}" if n % 9 else "",
            seconds=each,
            share=each / sum(seconds),
            task=f"{name} conv2d 8x64x56x56 {n}" if n % 9 else "",
            flop=each * 1.5e11 if n % 9 else 0.0,
            touched_bytes=each * 1.5e11 / float(rng.uniform(1.0, 60.0)),
            possible_seconds=each / float(rng.uniform(1.1, 6.0)),
        )
        for n, each in enumerate(seconds)
    )
    title = f"{kind} part {number}"
    if number == 1 and kind == "backward":
        reason = f"its results differ from PyTorch's by 2.0e-02 of their largest number ({name})"
        return PartReport(
            title, "left", reason, ("mm.default",), 0, 400, 0, their_seconds=0.05, proof=ProofReport(False, 2e-2)
        )
    total = sum(seconds)
    operators = ("convolution.default", "relu.default") * 9
    proof = ProofReport(True, 3e-6, number)
    return PartReport(title, "running", "", operators, 300, 100, 2, total, 2.1 * total, False, shares, proof)
