"""One network of ``bench.verdict``: its right models, its mutants, and the verdicts on them."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from bench._built_mutants import Default, built_mutants
from bench._mutators import Mutant, mutants
from bench._runs import Runs, executable, onnxruntime, pytorch
from tilewright.errors import MeasureError, TilewrightError, UnsupportedOperatorError
from tilewright.measure.peers import Array
from tilewright.network.convolution import Algorithm
from tilewright.network.load import load
from tilewright.network.network import Network, TensorSpec
from tilewright.network.onnx_model import read_onnx
from tilewright.target import Target
from tilewright.verify.inputs import Trials, find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import Reference, open_reference
from tilewright.verify.verdict import Outcome, Verdict

__all__ = ["Judged", "NetworkReport", "Subject", "judge_network"]

Run: TypeAlias = Callable[[Sequence[Array]], list[Array]]
#: Float64 outputs of a mutant must differ by so many times what correct programs differ by; else it is equivalent.
_BEYOND_ROUNDING = 10.0
#: Last digits of float32 that correct programs always differ by, relative to an element.
_LAST_DIGITS = 4 * 2.0**-23
#: What normal inputs are multiplied with where equivalence is looked at, and how often each for a small network.
_OWN_SCALES, _OWN_SEEDS = (1.0, 0.3, 3.0, 10.0), 6


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
        verdict: the verdict; None where the program ended or refused to run.
        evidence: the verdict's, or how the program ended.
        equivalent: whether the mutant computes the same function.
        imprecise: whether the runtime is known to be imprecise here.
    """

    runtime: str
    kind: str
    site: str
    verdict: Verdict | None
    evidence: str
    equivalent: bool = False
    imprecise: bool = False

    @property
    def accepted(self) -> bool:
        """Whether it was judged right."""
        return self.verdict is not None and self.verdict.outcome is Outcome.RIGHT

    @property
    def refused(self) -> bool:
        """Whether it was judged wrong, or did not run."""
        return self.verdict is None or self.verdict.outcome is Outcome.WRONG

    caught = refused

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        outcome = "ended" if self.verdict is None else self.verdict.outcome.value
        error = None if self.verdict is None or self.verdict.error is None else float(self.verdict.error)
        told = {"runtime": self.runtime, "outcome": outcome, "error": error, "evidence": self.evidence}
        if not self.kind:
            return {**told, "imprecise": self.imprecise}
        return {"kind": self.kind, "site": self.site, **told, "caught": self.caught, "equivalent": self.equivalent}


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
        """Mutants that are not equivalent."""
        return [m for m in self.mutants if not m.equivalent]

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
    begin = time.monotonic()
    with open_reference(network) as reference, Runs(target.cores) as runs:
        reference.outputs(network.random_inputs(0))
        opened = time.monotonic()
        trials = find_trials(network, reference)
        found = time.monotonic()
        report.precision, report.inputs = reference.precision, sum(trial.conclusive for trial in trials.trials)
        bench = _Bench(subject, network, target, folder, reference, trials, runs)
        default = bench.build_default(report) if executables and not report.problem else None
        built = time.monotonic()
        if default is not None:
            report.rights.append(bench.judged(partial(runs.load, executable, default.path), "tilewright"))
            seconds = {
                "reference": opened - begin,
                "inputs": found - opened,
                "incumbent": built - found,
                "judging": time.monotonic() - built,
            }
            total = sum(seconds.values())
            within = total <= min(15.0, 0.05 * 300.0)
            about = {"network": subject.name, "tasks": default.tasks}
            report.first_check = {**about, **seconds, "total": total, "within": within}
            report.rights += bench.winograd()
        report.rights += bench.runtimes()
        report.mutants += bench.graph_mutants()
        if default is not None:
            report.mutants += bench.executable_mutants(default)
    return report


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
    """What all judgements of one network share."""

    subject: Subject
    network: Network
    target: Target
    folder: Path
    reference: Reference
    trials: Trials
    runs: Runs

    def judged(
        self,
        load_it: Callable[[], Run],
        runtime: str,
        kind: str = "",
        site: str = "",
    ) -> Judged:
        """The verdict on what ``load_it`` gives."""
        try:
            verdict = judge(load_it(), self.trials)
        except MeasureError as error:
            return Judged(runtime, kind, site, None, str(error))
        return Judged(runtime, kind, site, verdict, verdict.evidence)

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
            path = built.path
            yield self.judged(partial(self.runs.load, executable, path), f"tilewright, {algorithm}")

    def runtimes(self) -> Iterator[Judged]:
        """The model's own runtime."""
        if self.network.onnx is None:
            yield self.judged(partial(self.runs.load, pytorch, self.subject.path), "pytorch")
            return
        path = self._saved(self.network.onnx, "original")
        for optimised, name in ((True, "onnxruntime"), (False, "onnxruntime, not optimised")):
            found = self.judged(partial(self.runs.load, onnxruntime, path, optimised), name)
            yield dataclasses.replace(found, imprecise=bool(self.subject.imprecise))

    def graph_mutants(self) -> Iterator[Judged]:
        """Mutants of the ONNX graph."""
        if self.network.onnx is None:
            return
        kinds = [mutant.kind for mutant in mutants(self.network.onnx)] if self.subject.most else []
        for mutant in mutants(self.network.onnx, self.subject.seed, _spread(kinds, self.subject.most)):
            if self.subject.imprecise:
                found = self._in_float64(mutant)
            else:
                path = self._saved(mutant.model, "mutant")
                found = self.judged(partial(self.runs.load, onnxruntime, path), "onnxruntime", mutant.kind, mutant.site)
            if not found.caught and self._equivalent(mutant):
                found = dataclasses.replace(found, equivalent=True)
            yield found

    def executable_mutants(self, default: Default) -> Iterator[Judged]:
        """Mutants of the executable."""
        folder = self.folder / "mutants"
        folder.mkdir()
        for built in itertools.islice(built_mutants(default, folder, self.subject.seed), self.subject.most or None):
            path = built.path
            found = self.judged(partial(self.runs.load, executable, path), "tilewright", built.kind, built.site)
            if not found.caught and self._alike(path, default.path):
                found = dataclasses.replace(found, equivalent=True)
            yield found

    def _saved(self, model: onnx.ModelProto, name: str) -> Path:
        path = self.folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def _in_float64(self, mutant: Mutant) -> Judged:
        """The verdict on a mutant that is evaluated in float64 and rounded once."""
        dtypes = [onnx.helper.tensor_dtype_to_np_dtype(o.type.tensor_type.elem_type) for o in mutant.model.graph.output]
        with open_reference(dataclasses.replace(self.network, onnx=mutant.model)) as exact:

            def run(arrays: Sequence[Array]) -> list[Array]:
                outputs = exact.outputs(list(arrays))
                with np.errstate(all="ignore"):
                    return [o.astype(d) for o, d in zip(outputs, dtypes, strict=True)]

            return self.judged(lambda: run, exact.precision, mutant.kind, mutant.site)

    def _equivalent(self, mutant: Mutant) -> bool:
        """Whether a mutant's float64 outputs are the original's, on inputs of our own.

        What correct programs differ by is measured by ONNX Runtime in float32 on the same inputs.
        """
        assert self.network.onnx is not None
        own = self.runs.load(onnxruntime, self._saved(self.network.onnx, "original"))
        with open_reference(dataclasses.replace(self.network, onnx=mutant.model)) as other:
            return not any(_differ(exact, other.outputs(inputs), own(inputs)) for inputs, exact in self._own_trials())

    def _alike(self, built: Path, default: Path) -> bool:
        """Likewise of an executable with a mistake; the right executable tells what correct programs differ by."""
        trials = list(self._own_trials())
        own = self.runs.load(executable, default)
        right = [own(inputs) for inputs, _ in trials]
        changed = self.runs.load(executable, built)
        found = [changed(inputs) for inputs, _ in trials]
        return not any(_differ(exact, c, r) for (_, exact), c, r in zip(trials, found, right, strict=True))

    def _own_trials(self) -> Iterator[tuple[list[Array], list[Array]]]:
        """Inputs of our own, and what the reference gives for them: normal floats, a trial's integers shuffled."""
        for seed in range(1 if self.subject.most else _OWN_SEEDS):
            for number, scale in enumerate(_OWN_SCALES):
                rng = np.random.default_rng((1_000_003, seed, number))
                made: list[Array] = []
                for place, spec in enumerate(self.network.inputs):
                    if np.issubdtype(np.dtype(spec.dtype), np.floating):
                        made.append((scale * rng.standard_normal(spec.shape)).astype(spec.dtype))
                    else:  # not all integers are accepted
                        known = self.trials.trials[0].inputs[place]
                        made.append(rng.permutation(known.reshape(-1)).reshape(known.shape))
                yield made, self.reference.outputs(made)


def _differ(exact: Sequence[Array], changed: Sequence[Array], rounded: Sequence[Array]) -> bool:
    """Whether outputs differ by more than rounding explains, or in shape or kind."""
    return any(
        e.shape != c.shape or e.dtype.kind != c.dtype.kind or _apart(e, c, r)
        for e, c, r in zip(exact, changed, rounded, strict=True)
    )


def _apart(exact: Array, changed: Array, rounded: Array) -> bool:
    """Whether an output differs by more than rounding explains."""
    if exact.dtype.kind != "f":
        return not np.array_equal(exact, changed)
    with np.errstate(all="ignore"):
        if not np.array_equal(np.isfinite(exact), np.isfinite(changed)):
            return True
        finite = np.isfinite(exact)
        error = np.abs(rounded[finite].astype(np.float64) - exact[finite])
        limit = _BEYOND_ROUNDING * float(error.max(initial=0.0)) + _LAST_DIGITS * np.abs(exact[finite])
        return bool(np.any(np.abs(changed[finite].astype(np.float64) - exact[finite]) > limit))


def _spread(kinds: list[str], most: int) -> list[str]:
    """At most so many of all kinds, drawn evenly."""
    return [kinds[i] for i in np.linspace(0, len(kinds) - 1, most).round().astype(int)] if len(kinds) > most else kinds
