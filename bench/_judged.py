"""One network of ``bench.verdict``: its right models, its mutants, and the verdicts on them."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from bench._built_mutants import Default, built_mutants
from bench._equivalence import BEYOND_ROUNDING, inputs_of_our_own, times_rounding
from bench._mutators import Mutant, mutants
from bench._runs import Runs, executable, onnxruntime, processor_seconds, pytorch
from tilewright.errors import MeasureError, TilewrightError, UnsupportedOperatorError
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.reading import read_onnx
from tilewright.graph.convolution import Algorithm
from tilewright.target import Target
from tilewright.tensor import Array, TensorSpec
from tilewright.tuning.budget import Budget
from tilewright.tuning.budget_plan import reference_seconds
from tilewright.verify.inputs import Trials, find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import Reference, open_reference
from tilewright.verify.verdict import Outcome, Verdict

__all__ = ["Judged", "NetworkReport", "Subject", "judge_network"]

Run: TypeAlias = Callable[[Sequence[Array]], list[Array]]
Load: TypeAlias = Callable[[], Run]
#: On how many inputs of our own a mutant that was not caught is compared with the original: of a large network, or not.
_FEW, _MANY = 4, 24
NO_TRIALS = Trials((), "")


@dataclass(frozen=True)
class Subject:
    """A network to be judged.

    Attributes:
        name: for people.
        path: an ONNX or ``.pt2`` file.
        most: how many mutants of each sort there are at most; 0 for all.
        imprecise: why ONNX Runtime is no right model of it; empty where it is one.
        seed: of the places where mutants have their mistakes.
    """

    name: str
    path: Path
    most: int = 0
    imprecise: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """A verdict on one program.

    Attributes:
        runtime: what ran it.
        kind: the mistake; empty for a right model.
        site: where it is.
        verdict: the verdict; None where the program could not be loaded.
        evidence: the verdict's, or why the program could not be loaded.
        ran: whether it gave outputs.
        factor: of a mutant that was not caught: by how many times the error of right programs it differs.
        imprecise: whether the runtime is known to be imprecise here.
    """

    runtime: str
    kind: str
    site: str
    verdict: Verdict | None
    evidence: str
    ran: bool = True
    factor: float | None = None
    imprecise: bool = False

    @property
    def accepted(self) -> bool:
        """Whether it was judged right."""
        return self.verdict is not None and self.verdict.outcome is Outcome.RIGHT

    @property
    def refused(self) -> bool:
        """Whether it was judged wrong, or could not be loaded."""
        return self.verdict is None or self.verdict.outcome is Outcome.WRONG

    caught = refused

    @property
    def equivalent(self) -> bool:
        """Whether the mutant differs by no more than rounding explains."""
        return self.factor is not None and self.factor <= BEYOND_ROUNDING

    @property
    def invalid(self) -> bool:
        """Whether it is a mutant that its runtime refuses: that is a mistake of the mutator's."""
        return bool(self.kind) and self.runtime != "tilewright" and not self.ran

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        outcome = "not loaded" if self.verdict is None else self.verdict.outcome.value
        error = None if self.verdict is None or self.verdict.error is None else float(self.verdict.error)
        told = {"runtime": self.runtime, "outcome": outcome, "error": error, "evidence": self.evidence}
        if not self.kind:
            return {**told, "imprecise": self.imprecise}
        mutant: dict[str, Any] = {"caught": self.caught, "invalid": self.invalid}
        mutant |= {"equivalent": self.equivalent, "times_rounding": self.factor}
        return {"kind": self.kind, "site": self.site, **told, **mutant}


@dataclass
class NetworkReport:
    """What was found about one network.

    Attributes:
        name: of the network.
        precision: of its reference.
        inputs: how many conclusive inputs it was judged on.
        problem: why Tilewright cannot build it; empty where it can.
        rights: right models.
        mutants: wrong ones.
        first_check: what checking the incumbent took, in seconds.
    """

    name: str
    precision: str = ""
    inputs: int = 0
    problem: str = ""
    rights: list[Judged] = field(default_factory=list)
    mutants: list[Judged] = field(default_factory=list)
    first_check: dict[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> list[Judged]:
        """Mutants that compute something else."""
        return [m for m in self.mutants if not m.equivalent and not m.invalid]

    @property
    def counted_rights(self) -> list[Judged]:
        """Right models whose runtime is precise."""
        return [r for r in self.rights if not r.imprecise]

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "precision": self.precision,
            "inputs": self.inputs,
            "problem": self.problem,
            "first_check": self.first_check,
            "right": [r.describe() for r in self.rights],
            "mutants": [m.describe() for m in self.mutants],
        }


def judge_network(subject: Subject, target: Target, folder: Path, executables: bool = True) -> NetworkReport:
    """Judge a network's right models and mutants.

    Args:
        subject: the network.
        target: what executables are built for.
        folder: for files.
        executables: whether executables are built.
    """
    report = NetworkReport(subject.name)
    network, report.problem = _read(subject)
    begin, used = time.monotonic(), processor_seconds()
    with open_reference(network) as opened, Runs(target.cores) as runs, ThreadPoolExecutor(1) as beside:
        reference = _Timed(opened)
        # At the same time, as the command does.
        finding = beside.submit(find_trials, network, reference, seconds=reference_seconds(Budget(300.0)))
        bench = _Bench(subject, network, target, folder, reference, NO_TRIALS, runs)
        default = bench.build_default(report) if executables and not report.problem else None
        built = time.monotonic()
        trials = finding.result()
        found = time.monotonic()
        bench = replace(bench, trials=trials)
        report.precision, report.inputs = reference.precision, sum(trial.conclusive for trial in trials.trials)
        if default is not None:
            report.rights.append(bench.right(partial(runs.load, executable, default.path), "tilewright"))
            extracted = begin + default.extracting  # which tuning needs as well
            seconds = {
                "reference": reference.seconds,
                "incumbent": built - extracted,
                "judging": time.monotonic() - found,
            }
            about = {"network": subject.name, "tasks": default.tasks, "evaluations": reference.evaluations}
            report.first_check = {**about, **seconds, "total": time.monotonic() - extracted}
            report.first_check["processor"] = processor_seconds() - used
            report.rights += bench.winograd()
        report.rights += bench.runtimes()
        report.mutants += bench.graph_mutants()
        if default is not None:
            report.mutants += bench.executable_mutants(default)
    return report


class _Timed:
    """A reference whose evaluations are counted and timed: those at the same time count once.

    Args:
        reference: the reference.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.seconds = 0.0
        self.evaluations = 0
        self._running, self._since, self._lock = 0, 0.0, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reference, name)

    def outputs(self, inputs: Sequence[Array]) -> list[Array]:
        """Those of the reference."""
        return self._timed(lambda: self._reference.outputs(inputs))

    def rounded(self, inputs: Sequence[Array], seed: int, amplitude: float) -> list[Array]:
        """Those of the reference."""
        return self._timed(lambda: self._reference.rounded(inputs, seed, amplitude))

    def _timed(self, evaluate: Callable[[], list[Array]]) -> list[Array]:
        with self._lock:
            self.evaluations += 1
            self._since = self._since if self._running else time.monotonic()
            self._running += 1
        try:
            return evaluate()
        finally:
            with self._lock:
                self._running -= 1
                self.seconds += 0.0 if self._running else time.monotonic() - self._since


def _read(subject: Subject) -> tuple[Network, str]:
    """The network, and why Tilewright cannot import it: then it has no Relax module."""
    try:
        return load(str(subject.path)), ""
    except (UnsupportedOperatorError, AttributeError, NotImplementedError) as error:
        model, _ = read_onnx(subject.path, {})
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = tuple(_spec(v) for v in model.graph.input if v.name not in weights)
        outputs = tuple(_spec(v) for v in model.graph.output)
        problem = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return Network(subject.name, None, inputs, outputs, {}, model), problem


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return TensorSpec(value.name, tuple(d.dim_value for d in kind.shape.dim), str(dtype))


@dataclass(frozen=True)
class _Bench:
    """What all judgements of one network share.

    Attributes:
        accepted: loads each right program that was accepted.
    """

    subject: Subject
    network: Network
    target: Target
    folder: Path
    reference: Any
    trials: Trials
    runs: Runs
    accepted: list[Load] = field(default_factory=list)

    def judged(self, load_it: Load, runtime: str, kind: str = "", site: str = "") -> Judged:
        """The verdict on what ``load_it`` gives."""
        failed: list[MeasureError] = []
        try:
            loaded = load_it()
        except MeasureError as error:
            return Judged(runtime, kind, site, None, str(error), ran=False)

        def run(arrays: Sequence[Array]) -> list[Array]:
            try:
                return loaded(arrays)
            except MeasureError as error:
                failed.append(error)
                raise

        verdict = judge(run, self.trials)
        return Judged(runtime, kind, site, verdict, verdict.evidence, ran=not failed)

    def right(self, load_it: Load, runtime: str) -> Judged:
        """The verdict on a right program, which is remembered if it is accepted."""
        found = self.judged(load_it, runtime)
        if found.accepted:
            self.accepted.append(load_it)
        return found

    def build_default(self, report: NetworkReport) -> Default | None:
        """The incumbent; None, and why, where Tilewright cannot build the network."""
        try:
            return self.build("direct")
        except (TilewrightError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            report.problem = (str(error).splitlines() or [type(error).__name__])[0][:200]
            return None

    def build(self, algorithm: Algorithm) -> Default:
        """The network with default schedules."""
        folder = self.folder / algorithm
        folder.mkdir()
        return Default(self.network, self.target, folder, algorithm)

    def winograd(self) -> Iterator[Judged]:
        """Executables with Winograd's algorithms, which round more."""
        algorithms: tuple[Algorithm, ...] = ("fused_winograd4", "winograd4")
        # Compiling large networks once more costs more than it shows.
        for algorithm in algorithms[:1] if self.subject.most else algorithms:
            built = self.build(algorithm)
            if not built.convolutions:
                return
            yield self.right(partial(self.runs.load, executable, built.path), f"tilewright, {algorithm}")

    def runtimes(self) -> Iterator[Judged]:
        """The model's own runtime."""
        if self.network.onnx is None:
            yield self.right(partial(self.runs.load, pytorch, self.subject.path), "pytorch")
            return
        path = self._saved(self.network.onnx, "original")
        for optimised, name in ((True, "onnxruntime"), (False, "onnxruntime, not optimised")):
            found = self.right(partial(self.runs.load, onnxruntime, path, optimised), name)
            yield dataclasses.replace(found, imprecise=bool(self.subject.imprecise))

    def graph_mutants(self) -> Iterator[Judged]:
        """Mutants of the ONNX graph."""
        if self.network.onnx is None:
            return
        kinds = [mutant.kind for mutant in mutants(self.network.onnx)] if self.subject.most else []
        for mutant in mutants(self.network.onnx, self.subject.seed, _spread(kinds, self.subject.most)):
            changed = dataclasses.replace(self.network, onnx=mutant.model)
            if self.subject.imprecise:
                found = self._in_float64(changed, mutant)
            else:
                path = self._saved(mutant.model, "mutant")
                found = self.judged(partial(self.runs.load, onnxruntime, path), "onnxruntime", mutant.kind, mutant.site)
            if not found.caught:
                with open_reference(changed) as other:
                    found = dataclasses.replace(found, factor=self._factor(_given(other.outputs)))
            yield found

    def executable_mutants(self, default: Default) -> Iterator[Judged]:
        """Mutants of the executable."""
        folder = self.folder / "mutants"
        folder.mkdir()
        all_of_them = built_mutants(default, folder, self.subject.seed)
        for built in itertools.islice(all_of_them, self.subject.most or None):
            load_it = partial(self.runs.load, executable, built.path)
            found = self.judged(load_it, "tilewright", built.kind, built.site)
            yield found if found.caught else dataclasses.replace(found, factor=self._factor(load_it))

    def _saved(self, model: onnx.ModelProto, name: str) -> Path:
        path = self.folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def _in_float64(self, changed: Network, mutant: Mutant) -> Judged:
        """The verdict on a mutant that is evaluated in float64 and rounded once."""
        dtypes = [onnx.helper.tensor_dtype_to_np_dtype(o.type.tensor_type.elem_type) for o in mutant.model.graph.output]
        with open_reference(changed) as exact:

            def run(arrays: Sequence[Array]) -> list[Array]:
                outputs = exact.outputs(list(arrays))
                with np.errstate(all="ignore"):
                    return [o.astype(d) for o, d in zip(outputs, dtypes, strict=True)]

            return self.judged(_given(run), exact.precision, mutant.kind, mutant.site)

    def _factor(self, load_it: Load) -> float | None:
        """By how many times the error of the accepted right programs a mutant differs; None where there are none."""
        if not self.accepted:
            return None
        count = _FEW if self.subject.most else _MANY
        inputs = list(inputs_of_our_own(self.network, self.trials.trials[0].inputs, count))
        exact = [self.reference.outputs(arrays) for arrays in inputs]
        changed, *right = ([*map(load(), inputs)] for load in (load_it, *self.accepted))
        return times_rounding(exact, changed, right)


def _given(run: Run) -> Load:
    """Loads what is loaded already."""
    return lambda: run


def _spread(kinds: list[str], most: int) -> list[str]:
    """At most so many of all kinds, drawn evenly."""
    return [kinds[i] for i in np.linspace(0, len(kinds) - 1, most).round().astype(int)] if len(kinds) > most else kinds
