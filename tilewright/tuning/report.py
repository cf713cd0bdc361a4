"""What a tuning reports: frozen dataclasses, whose fields are the keys of ``tilewright tune --json``.

``docs/reference/command-line.md`` explains each key. Durations are in seconds unless the name says ``_ms``; None stands
for what is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.difference import OutputAccuracy
from tilewright.jsonable import JsonObject
from tilewright.verify.verdict import Verdict

__all__ = [
    "AlgorithmReport",
    "BorrowedReport",
    "BucketReport",
    "CheckReport",
    "ClusterReport",
    "ContestReport",
    "DisturbanceReport",
    "NetworkReport",
    "NodeReport",
    "PrecisionReport",
    "RaceReport",
    "ReferenceReport",
    "RuntimeRaceReport",
    "SegmentReport",
    "SharingReport",
    "StartReport",
    "TaskReport",
    "TuneReport",
]


@dataclass(frozen=True)
class TaskReport:
    """One task: what it is, its best latency, and what was spent on it.

    Attributes:
        possible_seconds: the latency that the machine's roofline allows.
        touched_bytes: bytes that a call reads or writes, each once.
        recorded: measurements that were known before its first round.
        failures: failed trials, by outcome.
        exhausted: whether every config was measured.
        done: whether more rounds were not worth their time.
        problem: why it was not tuned; empty: it was.
        instruction: for dot products, which its programs use, or ``plain code``; empty: it has no such products.
    """

    name: str
    kind: str
    key: str
    weight: float
    flop: float
    best_seconds: float | None
    possible_seconds: float | None
    touched_bytes: float | None
    trials: int
    recorded: int
    rounds: int
    failures: Mapping[str, int]
    exhausted: bool
    done: bool
    problem: str
    instruction: str = ""


@dataclass(frozen=True)
class ClusterReport:
    """Similar tasks, by their names, and which of them represents the others."""

    representative: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class BorrowedReport:
    """What one task borrowed.

    Attributes:
        task: its name.
        lender: the name of its representative.
        similarity: of the two, 0 to 1.
        configs: how many configs it was lent.
        lost: whether they were slower than its own, so that it borrowed no more.
        best: whether its best config is a borrowed one.
    """

    task: str
    lender: str
    similarity: float
    configs: int
    lost: bool
    best: bool


@dataclass(frozen=True)
class SharingReport:
    """What the tasks of the network lent each other.

    Attributes:
        compared: rounds in which borrowed configs ran beside a task's own.
        won: those of them in which a borrowed config was the fastest; a tie counts by half.
    """

    clusters: tuple[ClusterReport, ...]
    borrowed: tuple[BorrowedReport, ...]
    compared: int
    won: float


@dataclass(frozen=True)
class AlgorithmReport:
    """Which algorithm computes a convolution, an attention, or a 1x1 convolution and the depthwise one that follows.

    Attributes:
        conv: its shape, for people. That of the others begins with the word "attention" or "expansion".
        count: how often the network computes it.
        chosen: the algorithm.
        milliseconds: of each algorithm that was measured.
    """

    conv: str
    count: int
    chosen: str
    milliseconds: Mapping[str, float]


@dataclass(frozen=True)
class PrecisionReport:
    """In which precision a product of few rows reads its weights, by ``--precision auto``.

    Attributes:
        task: the product: rows, inputs and outputs.
        products: how many products of this form the network has.
        chosen: ``float32`` or ``bf16``.
        float32_ms, bf16_ms: milliseconds of a call with weights of each; None: not measured.
        error: the largest error of an output, relative to the output's largest number, if only these weights are
            bfloat16; None: they are not faster, so that it was not computed.
    """

    task: str
    products: int
    chosen: str
    float32_ms: float | None
    bf16_ms: float | None
    error: float | None


@dataclass(frozen=True)
class ReferenceReport:
    """The executable's outputs against those of another model, which ``--reference`` names.

    Attributes:
        model: the name of the other model's file.
        samples: the number of samples.
        random: whether these are random.
        outputs: the comparison.
    """

    model: str
    samples: int
    random: bool
    outputs: tuple[OutputAccuracy, ...]


@dataclass(frozen=True)
class ContestReport:
    """The contest of the best schedules inside the running network.

    Attributes:
        tasks: how many took part.
        variants: their schedules, summed up.
        seconds: that it took, compiling included.
        rounds: in which every variant ran once, at least.
        exchanged: names of the tasks for which another schedule won.
        before_ms: milliseconds of a run that these tasks took before.
        after_ms: likewise with the winners.
    """

    tasks: int
    variants: int
    seconds: float
    rounds: int
    exchanged: tuple[str, ...]
    before_ms: float
    after_ms: float


@dataclass(frozen=True)
class RaceReport:
    """The final race of two executables.

    Attributes:
        kept: "tuned" or "incumbent".
        tuned_ms: the median run of the tuned executable.
        incumbent_ms: of the incumbent.
        ratio: the tuned one's median over the incumbent's.
        ratio_low: the lower end of the ratio's 95 % interval.
        ratio_high: the upper end.
    """

    kept: str
    tuned_ms: float
    incumbent_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True)
class RuntimeRaceReport:
    """The race of the executable against ONNX Runtime on the whole model.

    Attributes:
        kept: ``executable`` or ``onnxruntime``: the one that was published.
        executable_ms: the executable's median latency in milliseconds.
        onnxruntime_ms: ONNX Runtime's.
        ratio: of the medians; above 1: ONNX Runtime is faster.
        ratio_low, ratio_high: the ends of its 95 % interval.
    """

    kept: str
    executable_ms: float
    onnxruntime_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True)
class BucketReport:
    """The network in one of several buckets.

    Attributes:
        shapes: of its inputs, for people.
        weight: the share of the tuning that it got, relative to those of the others.
        tasks: how many tasks it has.
        estimated_seconds: the sum of its calls x best latency; None: a task has no latency.
    """

    shapes: str
    weight: float
    tasks: int
    estimated_seconds: float | None


@dataclass(frozen=True)
class SegmentReport:
    """A part of the network that ONNX Runtime runs.

    Attributes:
        operators: the types of its operators, each once.
        nodes: how many operators it has.
        reasons: why operators are in it, each ``operator (node): reason``. Others only lie between these.
    """

    operators: tuple[str, ...]
    nodes: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """The check of the incumbent: seconds that building and judging it took, and the verdict."""

    seconds: float
    verdict: Verdict


@dataclass(frozen=True)
class DisturbanceReport:
    """Candidates that something else on the machine disturbed, those of them that were timed again, and the causes."""

    disturbed: int = 0
    remeasured: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeReport:
    """A node of a fleet.

    Attributes:
        name: of the machine.
        kind: of the machine: the key of its target.
        cores: that kernels run on.
        state: "measuring", "building", "lost" or "excluded".
        reason: why it is lost or excluded; otherwise empty.
        trials: candidates that it measured.
        built: candidates that it compiled for other nodes to measure.
    """

    name: str
    kind: str
    cores: int
    state: str
    reason: str
    trials: int
    built: int = 0


@dataclass(frozen=True, kw_only=True)
class NetworkReport:
    """What :class:`~tilewright.tuning.scheduler.NetworkTuner` did.

    Attributes:
        method: the name of the method.
        remeasured: measurements of final races of tasks, which are no trials.
        failures: failed trials, by outcome.
        estimated_latency: the sum of weight x best latency.
        thinking_seconds: for refitting and searching.
        curve: pairs of seconds since the start and the estimated latency then, where it changed.
    """

    method: str = ""
    tasks: tuple[TaskReport, ...] = ()
    trials: int = 0
    trials_per_second: float = 0.0
    remeasured: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    estimated_latency: float | None = None
    tasks_without_success: int = 0
    thinking_seconds: float = 0.0
    interrupted: bool = False
    roofline: JsonObject | None = None
    curve: tuple[tuple[float, float], ...] = ()
    sharing: SharingReport | None = None


@dataclass(frozen=True, kw_only=True)
class StartReport:
    """What is known before anything is tuned."""

    model: str | None = None
    target: str = ""
    machine: str = ""
    cores: int = 0
    date: str = ""
    budget_seconds: float | None = None
    wall_seconds: float = 0.0
    load_seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TuneReport(StartReport, NetworkReport):
    """What ``tilewright tune`` reports.

    Attributes:
        published: which executable is in the output directory: "tuned", "incumbent", or an "earlier" one.
        segments: the parts of the network that ONNX Runtime runs, in order.
        verdict: on the best executable.
        buckets: of an executable with several; empty for one.
        nodes: of the fleet that measured; empty: this machine did.
        precisions: what ``--precision auto`` has chosen for each product of few rows.
        precision_trials: the measurements that chose them.
        reference: the outputs against those of the model that ``--reference`` names.
        budget_plan: the seconds of each step, as planned; see :class:`tilewright.tuning.budget_plan.BudgetPlan`.
    """

    published: str = "tuned"
    verdict: Verdict | None = None
    first_check: CheckReport | None = None
    budget_plan: JsonObject | None = None
    algorithm_trials: int = 0
    build_seconds: float = 0.0
    relative_error: float | None = None
    replaced_tasks: tuple[str, ...] = ()
    wrong_kernels: Mapping[str, str] = field(default_factory=dict)
    unchecked_kernels: tuple[str, ...] = ()
    default_tasks: tuple[str, ...] = ()
    algorithms: tuple[AlgorithmReport, ...] = ()
    precisions: tuple[PrecisionReport, ...] = ()
    precision_trials: int = 0
    reference: ReferenceReport | None = None
    unrecorded: int = 0
    plain_operators: tuple[str, ...] = ()
    segments: tuple[SegmentReport, ...] = ()
    worker_peak_bytes: int = 0
    caches: str = ""
    disturbance: DisturbanceReport = field(default_factory=DisturbanceReport)
    before_seconds: float | None = None
    after_seconds: float | None = None
    in_place: ContestReport | None = None
    final_race: RaceReport | None = None
    runtime_race: RuntimeRaceReport | None = None
    buckets: tuple[BucketReport, ...] = ()
    nodes: tuple[NodeReport, ...] = ()
