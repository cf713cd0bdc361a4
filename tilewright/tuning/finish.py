"""From what tuning found to the executable that is written: built, checked, and never slower than what there was."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tilewright.errors import CheckError, CompilerError, MeasureError, OutputError
from tilewright.measure.compare import compare, latency
from tilewright.measure.peers import Entrant, Peer, race, turn_runs
from tilewright.network import peers
from tilewright.network.build import build, replace_kernels
from tilewright.network.check import TOLERANCE, blame, network_error
from tilewright.network.executable import Executable, load_executable
from tilewright.network.kernels import Kernels, Library
from tilewright.network.kernels_check import KernelCheck
from tilewright.network.tasks import Extraction
from tilewright.space.registry import make_space
from tilewright.tuning.choice import Choice, checked, chosen
from tilewright.tuning.in_place import Contest, contest
from tilewright.tuning.scheduler import NetworkTuner

__all__ = [
    "Finished",
    "Incumbent",
    "Verdict",
    "exchanged",
    "finished",
    "never_slower",
    "race_seconds",
    "written",
]

#: Turns of the final race, and those that it has in any case; about how long one lasts in seconds; and what two
#: processes take to start.
_BLOCKS, _LEAST_BLOCKS, _BLOCK_SECONDS, _STARTING = 10, 3, 0.08, 3.0
#: A race that has decided nothing goes on for so many turns at a time, where there is time, and for so many in all.
_MORE_BLOCKS, _MOST_BLOCKS = 5, 40
#: Seconds that an executable has run after which the race is over, decided or not.
_MOST_SECONDS = 60.0
#: It is decided where equals would come out so unequal with less than this probability.
_DECIDED = 0.05


@dataclass(frozen=True)
class Incumbent:
    """What the network runs with if tuning brings nothing: the best of earlier records, or else the defaults.

    Attributes:
        choice: of each task.
        library: its kernels.
        seconds: what compiling it took.
    """

    choice: Choice
    library: Library
    seconds: float

    @classmethod
    def compiled(cls, kernels: Kernels, choice: Choice, folder: Path) -> Incumbent | None:
        """Compile it into a file of ``folder``; None where that fails, which then is no reason to stop."""
        began = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            library = kernels.library(choice.functions, folder / "kernels.so")
        except (CompilerError, OSError):
            return None
        return cls(choice, library, time.monotonic() - began)


@dataclass(frozen=True)
class Verdict:
    """How the final race of whole executables ended.

    Attributes:
        kept: whether the tuned executable was kept.
        report: JSON-able: ``kept`` ("tuned" or "incumbent"), medians in milliseconds, and ``ratio`` of the tuned one's
            to the incumbent's with its 95 % interval.
        error: the relative error of the incumbent's outputs, where it was kept; None: not known.
    """

    kept: bool
    report: dict[str, Any]
    error: float | None = None


def race_seconds(run: float) -> tuple[float, float]:
    """About how long the final race takes for a network of which a run takes ``run`` seconds: at least, and fully."""
    turn = run * sum(turn_runs(run, _BLOCK_SECONDS))
    least, full = (_STARTING + 2 * blocks * turn for blocks in (_LEAST_BLOCKS, _BLOCKS))
    return least, full


def never_slower(
    extraction: Extraction, out: Path, incumbent: Incumbent, until: float = math.inf, checking: float = 0.0
) -> Verdict | None:
    """Race the executable in ``out`` against the incumbent, by turns in processes of their own; the faster one stays.

    None where there was no race, since one of them cannot be timed: then the tuned one stays, which was checked.

    Args:
        extraction: the network.
        out: the executable's directory.
        incumbent: the other one.
        until: ``time.monotonic()`` value after which the race has no more than three turns, and one that is not decided
            does not go on.
        checking: seconds for comparing an incumbent that has won with its defaults, if it is earlier records.

    Raises:
        OutputError: ``out`` cannot be written.
    """
    other = incumbent.library.path.parent / "executable"
    try:
        replace_kernels(out, incumbent.library, other)
        entrants = [Entrant(str(path), peers.executable, (str(path.absolute()),)) for path in (out, other)]
        more = partial(_undecided, until)
        ours, theirs = race(entrants, _LEAST_BLOCKS, _BLOCK_SECONDS, extraction.target.cores, more=more)
    except (MeasureError, OutputError):
        return None
    found = compare(ours, theirs)
    if ours.error or theirs.error or not found["ratio"] > 0:
        return None
    kept, error = found["ratio"] <= 1.0, None
    if not kept:
        error = network_error(load_executable(other), extraction.network)
        kept = error is not None and not error <= TOLERANCE
    if not kept:
        # What nothing has shown to be wrong so far; it was recorded, not checked on several kinds of data.
        kept = bool(checked(extraction, incumbent.choice, checking)[1].wrong)
    if not kept:
        replace_kernels(out, incumbent.library, out)
    report = {
        "kept": "tuned" if kept else "incumbent",
        "tuned_ms": latency(ours)["median_ms"],
        "incumbent_ms": latency(theirs)["median_ms"],
        **found,
    }
    return Verdict(kept, report, None if kept else error)


def _undecided(until: float, peers: Sequence[Peer]) -> bool:
    """Whether a race of two is to go on: it is short, or none of them is surely the faster one; and there is time."""
    ours, theirs = (peer.blocks for peer in peers)
    turns = ours.keys() & theirs.keys()
    if len(turns) >= _MOST_BLOCKS or time.monotonic() >= until or any(peer.error for peer in peers):
        return False
    if max(sum(map(sum, runs.values())) for runs in (ours, theirs)) >= _MOST_SECONDS:
        return False
    if len(turns) < _BLOCKS or len(turns) % _MORE_BLOCKS:
        return True
    # A sign test, for turns of a network of microseconds have thousands of runs.
    faster = sum(bool(np.median(ours[turn]) < np.median(theirs[turn])) for turn in turns)
    return bool(binomtest(faster, len(turns)).pvalue >= _DECIDED)


def exchanged(
    extraction: Extraction, kernels: Kernels, choice: Choice, out: Path, aside: Path
) -> tuple[Executable, float | None] | None:
    """Give the executable in ``out`` the kernels of another choice, if they are right; returns what is there then.

    Args:
        extraction: the network.
        kernels: its kernels.
        choice: of each task.
        out: the executable's directory.
        aside: a directory for files.

    Returns:
        the executable and its relative error (None without a reference); None where it stayed as it was.

    Raises:
        OutputError: ``out`` cannot be written.
    """
    try:
        library = kernels.library(choice.functions, aside / "exchanged.so")
        replace_kernels(out, library, aside / "exchanged")
    except (CompilerError, OutputError):
        return None
    error = network_error(load_executable(aside / "exchanged"), extraction.network)
    if error is not None and not error <= TOLERANCE:
        return None
    replace_kernels(out, library, out)
    return load_executable(out), error


def written(
    extraction: Extraction, functions: dict[str, Any], out: Path, kernels: Kernels | None = None
) -> tuple[Executable, float | None, list[str]]:
    """Build into ``out`` and compare with the reference; tasks that spoil the result are replaced by their defaults.

    Args:
        extraction: the network.
        functions: scheduled, by ``Task.key``; those of replaced tasks are exchanged here.
        out: the directory to write.
        kernels: the network's, where they may be compiled already.

    Returns:
        the executable, its relative error (None without a reference), and the keys of replaced tasks.

    Raises:
        CompilerError: as :func:`tilewright.network.build.build`.
        OutputError: likewise.
        CheckError: the outputs are wrong, and replacing the tasks to blame did not help.
    """
    tasks = {use.task.key: use.task for use in extraction.uses}
    executable = build(extraction, functions, out, {}, kernels)
    error = network_error(executable, extraction.network)
    blamed: list[str] = []
    if error is not None and not error <= TOLERANCE:
        blamed = list(blame(extraction, functions))
        for key in blamed:
            space = make_space(tasks[key], extraction.target)
            functions[key] = space.schedule(space.default()).mod["main"]
        guilty_still = blame(extraction, {key: functions[key] for key in functions if key in blamed})
        for key in guilty_still:
            del functions[key]  # not even its default is right: TVM's own
        replaced = [tasks[key].name for key in blamed]
        executable = build(extraction, functions, out, {"replaced": replaced}, kernels)
        error = network_error(executable, extraction.network)
        if error is None or not error <= TOLERANCE:
            raise CheckError(
                f"outputs agree with the model's own to {TOLERANCE:g} of the largest, but these differ by {error:.3g} "
                f"also with the defaults of the tasks to blame ({', '.join(replaced) or 'none found'}); "
                f"do not use what is in {out}, and report the model"
            )
    return executable, error, blamed


@dataclass(frozen=True)
class Finished:
    """What was written, and how it came about.

    Attributes:
        executable: the executable.
        choice: of each task.
        error: the relative error of its outputs; None without a reference.
        blamed: keys of tasks that had spoiled the outputs, and were replaced.
        check: of the winners, on several kinds of data.
        contest: of a task's best in their places.
        verdict: of the race against the incumbent.
    """

    executable: Executable
    choice: Choice
    error: float | None
    blamed: list[str]
    check: KernelCheck
    contest: Contest | None
    verdict: Verdict | None


def finished(
    extraction: Extraction,
    tuner: NetworkTuner,
    kernels: Kernels,
    incumbent: Incumbent | None,
    out: Path,
    aside: Path,
    checking: float,
    placing: float,
    until: float = -math.inf,
) -> Finished:
    """Write the executable that tuning has led to.

    Args:
        extraction: the network.
        tuner: has tuned it.
        kernels: the network's kernels.
        incumbent: what it runs with if tuning brings nothing; None: there is none to race.
        out: the directory to write.
        aside: a directory for files.
        checking: seconds for comparing winners with their defaults.
        placing: seconds for timing them in their places; 0: that is left out.
        until: see :func:`never_slower`.

    A KeyboardInterrupt, if it is the first one, ends what comes after the executable was written and checked.

    Raises:
        CompilerError, OutputError, CheckError: as :func:`written`.
    """
    choice = chosen(extraction, tuner)
    executable, error, blamed = written(extraction, choice.functions, out, kernels)
    choice = choice.without(blamed)
    final, check, place, verdict = choice, KernelCheck({}, choice.tuned, 0.0), None, None
    try:
        found = None
        if incumbent is not None and placing and extraction.uses and not blamed and not tuner.interrupted:
            compiling = incumbent.seconds / len(extraction.uses)
            found = contest(extraction, tuner, kernels, out, choice, incumbent.choice, aside, placing, compiling)
        wanted, check = checked(extraction, choice if found is None else found.choice, checking)
        if wanted.configs != choice.configs:
            other = exchanged(extraction, kernels, wanted, out, aside)
            if other is None:  # nobody is to blame among those that ran before
                found = None
                wanted, check = checked(extraction, choice, checking)
                executable, error, more = written(extraction, wanted.functions, out, kernels)
                wanted, blamed = wanted.without(more), blamed + more
            else:
                executable, error = other
        final, place = wanted, found
        if incumbent is not None and not tuner.interrupted and final.configs != incumbent.choice.configs:
            verdict = never_slower(extraction, out, incumbent, until, checking)
            if verdict is not None and not verdict.kept:
                executable, final, error = load_executable(out), incumbent.choice, verdict.error
    except KeyboardInterrupt:
        if tuner.interrupted or not check.wrong.keys().isdisjoint(final.tuned):
            raise
        tuner.interrupted = True
        executable = load_executable(out)
    return Finished(executable, final, error, blamed, check, place, verdict)
