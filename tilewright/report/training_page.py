"""The page of a training: how long a step takes, where its time goes, what PyTorch still runs, whether to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tilewright.errors import OutputError
from tilewright.reading import parse_json, read_file
from tilewright.report import figures as fmt
from tilewright.report.content import Headline, Page, Section, Table
from tilewright.report.decoding import decode
from tilewright.report.html import render
from tilewright.report.machine import roofline_facts
from tilewright.report.task_charts import roofline_chart, time_chart
from tilewright.report.training_charts import parts_chart, slots_chart, steps_chart
from tilewright.report.training_facts import KernelFacts, describe_kernels, find_main, gain, known, rest_seconds
from tilewright.training.results import FORMAT, TOLERANCE, PartReport, TrainingReport
from tilewright.wording import counted

__all__ = ["read_training", "render_training", "training_page"]

#: The most bytes of a report that are read: many times what the largest have.
_MOST = 64 << 20
#: Kernels in tables and in the roofline plot, and operators of a pass. The others are counted.
_KERNELS, _OPERATORS = 200, 60
_MEANINGS = {
    "running": "runs in our kernels",
    "slower": "runs in PyTorch's, which are faster",
    "left": "is left to PyTorch",
}


def read_training(path: Path) -> TrainingReport:
    """Read what :meth:`TrainingReport.write_json` wrote. What a report of another version lacks is empty.

    Raises:
        OutputError: the file cannot be read, or is no such report.
    """
    try:
        content = parse_json(read_file(path, _MOST))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"a report of a training is a JSON file, but {path} cannot be read as one: "
            f"{getattr(error, 'strerror', None) or error}; name another"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise OutputError(
            f"a file that `report` takes was written by tilewright.training.report(model).write_json, but {path} was "
            "not; name such a file, or the directory of an executable"
        )
    return decode(TrainingReport, content)


def render_training(report: TrainingReport) -> str:
    """The page of a training as HTML."""
    return render(training_page(report))


def training_page(report: TrainingReport) -> Page:
    """The page of a training."""
    kernels = describe_kernels(report)
    sections = (
        _gain(report),
        _time(report, kernels),
        _rest(report),
        _trust(report),
        _course(report),
        _machine(report),
    )
    cores = counted(report.cores, "thread") if report.cores else ""
    about = [part for part in ("training", report.machine, cores, report.date) if part]
    return Page(
        title=report.model or "a training",
        subtitle=", ".join(about),
        headlines=_headlines(report, kernels),
        sections=tuple(s for s in sections if s.lead or s.charts or s.tables or s.facts or s.points),
        footer="Made by tilewright.training.report.",
    )


def _headlines(report: TrainingReport, kernels: Sequence[KernelFacts]) -> tuple[Headline, ...]:
    found = []
    faster = gain(report)
    if faster is not None:
        found.append(
            Headline(
                fmt.significant(faster), "\u00d7", "as fast as in PyTorch's kernels", "usual steps, not a race", True
            )
        )
    if (now := known(report.now_seconds)) is not None:
        found.append(Headline(fmt.milliseconds(now), "ms", "a step takes", "median, without pauses"))
    ours, parts = sum(part.in_ours for part in report.parts), len(report.parts)
    if parts:
        found.append(Headline(f"{ours} of {parts}", "", "parts run in our kernels"))
    bounds = [(each.kernel.seconds, each.facts.bound) for each in kernels if each.facts.bound]
    if total := sum(seconds for seconds, _ in bounds):
        reached = min(1.0, sum(bound or 0.0 for _, bound in bounds) / total)
        found.append(Headline(f"{100 * reached:.0f}", "%", "of the roofline", "our kernels, weighted by time"))
    proofs = [part.proof for part in report.parts if part.proof is not None]
    if proofs:
        right = sum(proof.right for proof in proofs)
        found.append(Headline(f"{right} of {len(proofs)}", "", "compared parts agree with PyTorch"))
    return tuple(found)


def _gain(report: TrainingReport) -> Section:
    lead = []
    if not report.graphs:
        lead.append("Tilewright has no graph of this model: it has not run yet, or PyTorch compiles nothing of it.")
    before, now, faster = known(report.before_seconds), known(report.now_seconds), gain(report)
    if faster is not None:
        lead.append(
            f"A step took {fmt.milliseconds(before)} ms in PyTorch's kernels, and takes {fmt.milliseconds(now)} ms now."
        )
        lead.append("Both are medians of steps at different times, not a race.")
    elif now is not None:
        lead.append(f"A step takes {fmt.milliseconds(now)} ms.")
        if before is None:
            lead.append("No step ran in PyTorch's kernels alone, so the gain is not known.")
        elif not any(part.in_ours for part in report.parts):
            lead.append("None of it runs in our kernels.")
    elif report.graphs:
        lead.append("No step was timed yet: PyTorch traces the model in the first one.")
    main = find_main(report)
    if sum(bool(graph.course) for graph in report.graphs) > 1:
        lead.append("The model has several graphs; the steps are those of the one that trains, and ran most often.")
    chart = None if main is None else steps_chart(main, report.before_seconds)
    return Section("gain", "What did I gain?", tuple(lead), () if chart is None else (chart,))


def _time(report: TrainingReport, kernels: Sequence[KernelFacts]) -> Section:
    lead = []
    rest, now = rest_seconds(report), known(report.now_seconds)
    if rest is not None and now:
        lead.append(
            f"The usual step, less its parts at their fastest, leaves {fmt.milliseconds(rest)} ms "
            f"({fmt.percent(rest / now, 2)}): operators that PyTorch runs, the loss, the optimizer, waiting for data, "
            "and whatever else used the machine."
        )
    facts = [each.facts for each in kernels]
    if facts:
        lead.append("Kernels were timed in their places, in a real step.")
    charts = (
        parts_chart(report),
        time_chart(facts, _kernels_table(kernels), "kernel", "step"),
        roofline_chart(report.roofline, facts[:_KERNELS], "kernel"),
    )
    return Section("time", "Where does the time go?", tuple(lead), tuple(c for c in charts if c is not None))


def _kernels_table(kernels: Sequence[KernelFacts]) -> Table:
    more = f", the first {_KERNELS} of {len(kernels)}" if len(kernels) > _KERNELS else ""
    return Table(
        ("kernel", "computes", "calls", "ms of a step", "share", "roofline ms", "times the roofline", "GFLOP/s"),
        tuple(
            (
                each.kernel.name or "copies",
                f"{each.part}: {each.kernel.task or 'copies'}",
                fmt.count(each.kernel.calls),
                fmt.milliseconds(each.facts.seconds),
                fmt.percent(each.facts.share),
                fmt.milliseconds(each.facts.bound),
                fmt.factor(each.facts.distance),
                fmt.significant(_gigaflops(each)),
            )
            for each in kernels[:_KERNELS]
        ),
        2,
        f"Kernels, those that take the most time first{more}",
    )


def _gigaflops(each: KernelFacts) -> float | None:
    return each.kernel.flop / each.kernel.seconds / 1e9 if each.kernel.flop else None


def _rest(report: TrainingReport) -> Section:
    """What PyTorch still runs."""
    rows = [
        (graph.kind, name.removesuffix(".default"), fmt.count(count))
        for graph in report.graphs
        for name, count in sorted(graph.rest.items(), key=lambda item: -item[1])[:_OPERATORS]
    ]
    lead = []
    left = [part for part in report.parts if not part.in_ours]
    if report.parts and not left:
        lead.append("All parts run in our kernels.")
    total = sum(graph.operators for graph in report.graphs)
    if report.graphs:
        lead.append(f"Beside the parts, the passes have {counted(total, 'operator')}, which PyTorch runs.")
    table = Table(("pass", "operator", "times"), tuple(rows), 2, "Operators beside the parts")
    return Section(
        "rest",
        "What does PyTorch still run?",
        tuple(lead),
        (),
        (table,) if rows else (),
        points=tuple(f"{part.name}: {_why(part)}" for part in left),
    )


def _why(part: PartReport) -> str:
    if part.state == "left":
        return part.reason or "it was left to PyTorch"
    if part.state == "running":
        return "PyTorch's kernels are faster at present"
    return "its kernels are not ready yet" if part.state == "waiting" else "its kernels are compared with PyTorch's"


def _trust(report: TrainingReport) -> Section:
    rows = []
    for part in report.parts:
        proof = part.proof
        if proof is None:
            rows.append((part.name, "not compared yet", "", "", ""))
            continue
        worst = "no number" if math.isnan(proof.worst) else f"{proof.worst:.1e}"
        where = "in an earlier training" if proof.earlier else "in a step" if proof.in_step else "in another process"
        agrees = "agrees with PyTorch" if proof.worst <= TOLERANCE else "agrees as far as rounding allows"
        verdict = agrees if proof.right else "differs, and is not used"
        rows.append((part.name, verdict, where, worst, fmt.count(proof.passed_over)))
    if not rows:
        return Section("trust", "Can I trust it?")
    lead: tuple[str, ...] = (
        "Before our kernels compute a part, its results are compared with PyTorch's on what a real step takes: the "
        "outputs of the forward pass, and the gradients of the backward pass.",
        "They agree if they differ by at most 1e-4 of the largest number, or by no more than rounding errors explain.",
    )
    if any(part.proof is not None and part.proof.right and part.proof.worst > TOLERANCE for part in report.parts):
        lead += (
            "A larger difference that rounding explains is one of numbers that are themselves only rounding, such as "
            "the gradient of a bias before a batch norm, which is 0 in exact arithmetic.",
        )
    table = Table(
        ("part", "verdict", "compared", "largest difference", "steps passed over"),
        tuple(rows),
        3,
        "Results of our kernels against PyTorch's",
    )
    return Section("trust", "Can I trust the gradients?", lead, (), (table,))


def _course(report: TrainingReport) -> Section:
    main, slots = find_main(report), report.slots
    if main is None:
        return Section("course", "How the training went")
    end = main.course[-1].end
    state = "Tuning has ended" if slots.ended else "Tuning goes on"
    facts = (
        ("Steps", fmt.count(main.steps)),
        ("Since the first step", f"{fmt.seconds(end)} s"),
        ("Given to tuning", f"{fmt.seconds(slots.seconds)} s in {counted(slots.slots, 'pause')}"),
        ("Candidates timed", f"{fmt.count(slots.trials)} in {counted(slots.generations, 'generation')}"),
        ("State", state),
    )
    rows = tuple(
        (change.part, _MEANINGS.get(change.state, change.state), fmt.seconds(change.t)) for change in main.changes
    )
    table = Table(("part", "from then on", "s"), rows, 2, "When parts began to run in other kernels")
    chart = slots_chart(main)
    return Section(
        "course",
        "How the training went",
        (),
        () if chart is None else (chart,),
        (table,) if rows else (),
        facts,
    )


def _machine(report: TrainingReport) -> Section:
    facts = [("Processor", report.machine), ("Threads", str(report.cores or "")), ("Date", report.date)]
    names = {"tilewright": "Tilewright", "torch": "PyTorch"}
    facts += [(names.get(name, name), text) for name, text in report.versions.items()]
    facts += [(f"Option {name}", text) for name, text in report.options.items() if text != "None"]
    facts += roofline_facts(report.roofline or {})
    lead: tuple[str, ...] = ()
    if report.graphs and report.roofline is None:
        lead = ("The limits of the machine were not measured; report(model, limits=True) does that.",)
    return Section("machine", "The machine", lead, (), (), tuple((name, value) for name, value in facts if value))
