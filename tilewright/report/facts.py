"""What follows from a report: shares of the time, the distance from the roofline, what more budget is worth."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.report.run import PeerTime, Run
from tilewright.tuning.learning_curve import expected_saving
from tilewright.tuning.report import TaskReport

__all__ = ["TaskFacts", "call_seconds", "copies", "describe_tasks", "find_gain", "find_peers", "latency"]


@dataclass(frozen=True)
class TaskFacts:
    """A task, as pages show it.

    Attributes:
        report: of the task.
        seconds: of all its calls in a run of the network: measured in their places, or else alone; None: not known.
        share: of the network's time; None: not known.
        bound: seconds that all its calls need at least, by the roofline; None: not known.
        saving: seconds of a run that twice as many trials are expected to save.
        in_place: whether ``seconds`` were measured in the running network.
    """

    report: TaskReport
    seconds: float | None
    share: float | None
    bound: float | None
    saving: float
    in_place: bool

    @property
    def distance(self) -> float | None:
        """How many times as long as the roofline allows."""
        return self.seconds / self.bound if self.seconds and self.bound else None

    @property
    def reached(self) -> float | None:
        """The share of the roofline that it reaches."""
        return self.bound / self.seconds if self.seconds and self.bound else None

    @property
    def intensity(self) -> float | None:
        """Operations for each byte that is touched."""
        task = self.report
        return task.flop / task.touched_bytes if task.touched_bytes and task.flop else None

    @property
    def throughput(self) -> float | None:
        """Operations per second."""
        return self.report.flop * self.report.weight / self.seconds if self.seconds else None


def describe_tasks(run: Run) -> list[TaskFacts]:
    """The tasks, those that take the most time first."""
    placed = _in_place(run)
    found = []
    for task in run.tasks:
        alone = None if task.best_seconds is None else task.weight * task.best_seconds
        found.append((task, placed.get(task.key, alone), task.key in placed))
    total = sum(seconds or 0.0 for _, seconds, _ in found)
    described = [
        TaskFacts(
            report=task,
            seconds=seconds,
            share=seconds / total if seconds and total else None,
            bound=task.weight * task.possible_seconds if task.possible_seconds else None,
            saving=_saving(task, seconds),
            in_place=in_place,
        )
        for task, seconds, in_place in found
    ]
    return sorted(described, key=lambda each: -(each.seconds or 0.0))


def latency(run: Run) -> float | None:
    """Seconds of a run of the published executable, by the best measurement that there is; None: not known."""
    report = run.report
    if run.bench is not None and run.bench.milliseconds:
        return run.bench.milliseconds / 1e3
    runtime, race = report.runtime_race, report.final_race
    if runtime is not None:
        return (runtime.onnxruntime_ms if runtime.kept == "onnxruntime" else runtime.executable_ms) / 1e3
    if race is not None:
        return (race.incumbent_ms if race.kept == "incumbent" else race.tuned_ms) / 1e3
    if run.history.kernels is not None:
        return sum(run.history.kernels.seconds)
    return report.after_seconds


def find_peers(run: Run) -> list[PeerTime]:
    """What the executable was raced against, with the ratio of its median to theirs."""
    report, peers = run.report, []
    race, runtime = report.final_race, report.runtime_race
    if race is not None and race.kept == "tuned":
        peers.append(PeerTime("before tuning", race.incumbent_ms, race.ratio, race.ratio_low, race.ratio_high))
    if runtime is not None and runtime.kept == "executable":
        peers.append(
            PeerTime("onnxruntime", runtime.onnxruntime_ms, runtime.ratio, runtime.ratio_low, runtime.ratio_high)
        )
    benched = () if run.bench is None else run.bench.peers
    names = {peer.name for peer in benched}
    return [*(peer for peer in peers if peer.name not in names), *benched]


def find_gain(run: Run) -> PeerTime | None:
    """The comparison with the executable before tuning, or as TVM builds it; None: there was none."""
    peers = {peer.name: peer for peer in find_peers(run) if peer.ratio}
    return peers.get("before tuning") or peers.get("untuned")


def call_seconds(run: Run) -> tuple[float, ...] | None:
    """Seconds of each call of the plan, measured in the running network; None: not known."""
    kernels = run.history.kernels
    return None if kernels is None or len(kernels.seconds) != len(run.nodes) else kernels.seconds


def copies(run: Run) -> float:
    """Seconds of the calls that belong to no task: copies and segments."""
    timed = zip(run.nodes, call_seconds(run) or (), strict=False)
    return sum(seconds for node, seconds in timed if not node.task)


def _in_place(run: Run) -> dict[str, float]:
    """Seconds of all calls of each task in the running network."""
    found: dict[str, float] = {}
    for node, seconds in zip(run.nodes, call_seconds(run) or (), strict=False):
        if node.task:
            found[node.task] = found.get(node.task, 0.0) + seconds
    return found


def _saving(task: TaskReport, seconds: float | None) -> float:
    """Seconds that twice as many trials are expected to save: by the mean learning curve, within the roofline."""
    known = task.trials + task.recorded
    if not seconds or known <= 0 or task.exhausted or task.best_seconds is None:
        return 0.0
    room = 1.0 - (task.possible_seconds or 0.0) / task.best_seconds
    return seconds * min(expected_saving(known, known), max(0.0, room))
