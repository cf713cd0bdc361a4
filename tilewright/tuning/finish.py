"""From the best schedules to the published executable: built aside, judged, and never slower than the incumbent.

Executables are built in directories of their own. The directory of ``--out`` is written once, in the end, with an
executable that was judged. A refused executable is never written there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tilewright.compare import peers
from tilewright.compiling.build import build, replace_kernels
from tilewright.compiling.kernels import Kernels
from tilewright.compiling.kernels_check import KernelCheck
from tilewright.errors import CheckError, CompilerError, MeasureError, OutputError, SpaceError
from tilewright.graph.tasks import Extraction
from tilewright.measure.compare import compare, latency
from tilewright.measure.peers import Entrant, Peer, race, turn_runs
from tilewright.ops.registry import make_space
from tilewright.tuning.choice import Choice, checked, chosen
from tilewright.tuning.in_place import Contest, contest
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome, Verdict

__all__ = [
    "Candidate",
    "FinishTimes",
    "Finishing",
    "RaceResult",
    "Workshop",
    "race_against",
    "race_seconds",
    "undecided",
]

#: Turns of the final race; the fewest turns; about how many seconds one lasts; and the seconds that two processes take
#: to start.
_BLOCKS, _LEAST_BLOCKS, _BLOCK_SECONDS, _STARTING = 10, 3, 0.08, 3.0
#: An undecided race goes on for this many turns at a time while there is time; and the most turns in all.
_MORE_BLOCKS, _MOST_BLOCKS = 5, 40
#: Seconds that an executable has run after which the race is over, decided or not.
_MOST_SECONDS = 60.0
#: A race is decided if equal executables would differ as much with less than this probability.
_DECIDED = 0.05


@dataclass(frozen=True)
class Candidate:
    """An executable that could be published: built, judged, and not wrong.

    Attributes:
        folder: its directory.
        extraction: the network as it was rewritten for it.
        choice: the schedule of each task.
        verdict: right, or not decidable.
        replaced: keys of tasks that had spoiled the outputs and were given their default schedules.
        seconds: that compiling and writing it took.
    """

    folder: Path
    extraction: Extraction
    choice: Choice
    verdict: Verdict
    replaced: tuple[str, ...] = ()
    seconds: float = 0.0


class Workshop:
    """Builds executables of one network, and has each of them judged.

    Args:
        extraction: the network.
        checker: judges the executables.
        aside: a directory for files, which outlives the candidates.
        name: of this workshop's files; two in one directory have two names.
    """

    def __init__(self, extraction: Extraction, checker: Checker, aside: Path, name: str) -> None:
        self.extraction = extraction
        self.kernels = Kernels(extraction, aside / f"{name}-kernels")
        self._checker, self._aside, self._name = checker, aside, name
        self._count = 0
        self._first: Path | None = None

    def build(self, choice: Choice) -> Candidate:
        """Build an executable of a choice; tasks that spoil the outputs are given their defaults, then TVM's programs.

        Raises:
            CompilerError: compiling or linking failed.
            OutputError: the directory for files cannot be written.
            CheckError: the outputs are still wrong after that.
        """
        began = time.monotonic()
        folder = self._made(choice)
        seconds = time.monotonic() - began
        verdict = self._checker.judge(folder)
        replaced: list[str] = []
        stage = "it was not looked for"
        for repair in (self._defaults, self._untuned):
            if verdict.outcome is not Outcome.WRONG:
                break
            guilty = self._checker.find_culprits(folder, self.extraction)
            stage, repaired = guilty.stage, repair(choice, guilty.tasks)
            if repaired is None:
                break
            choice = repaired
            replaced += [key for key in guilty.tasks if key not in replaced]
            folder = self._made(choice)
            verdict = self._checker.judge(folder)
        if verdict.outcome is Outcome.WRONG:
            raise CheckError(self._complaint(verdict, replaced, stage), report={"verdict": verdict.report()})
        return Candidate(folder, self.extraction, choice, verdict, tuple(replaced), seconds)

    def _made(self, choice: Choice) -> Path:
        """The directory of an executable of a choice. All of this workshop share one copy of the weights."""
        folder = self._folder()
        if self._first is None:
            build(self.extraction, choice.functions, folder, {}, self.kernels)
            self._first = folder
        else:
            library = self.kernels.library(choice.functions, self._aside / f"{folder.name}.so")
            replace_kernels(self._first, library, folder)
        return folder

    def exchange(self, candidate: Candidate, choice: Choice) -> Candidate | None:
        """The candidate with the kernels of another choice; None where that cannot be built, or is wrong."""
        began = time.monotonic()
        try:
            folder = self._made(choice)
        except (CompilerError, OutputError):
            return None
        seconds = time.monotonic() - began
        verdict = self._checker.judge(folder)
        if verdict.outcome is Outcome.WRONG:
            return None
        return Candidate(folder, self.extraction, choice, verdict, candidate.replaced, seconds)

    def _folder(self) -> Path:
        self._count += 1
        return self._aside / f"{self._name}-{self._count}"

    def _names(self, keys: Sequence[str]) -> list[str]:
        names = {use.task.key: use.task.name for use in self.extraction.uses}
        return [names[key] for key in keys]

    def _defaults(self, choice: Choice, keys: Sequence[str]) -> Choice | None:
        """The choice with the default schedules of some tasks; None where these are what it has already."""
        tasks = {use.task.key: use.task for use in self.extraction.uses}
        functions = dict(choice.functions)
        for key in set(keys) & set(choice.tuned):
            space = make_space(tasks[key], self.extraction.target)
            try:
                functions[key] = space.schedule(space.default()).mod["main"]
            except SpaceError:
                functions.pop(key, None)
        changed = replace(choice, functions=functions).without(keys)
        return changed if set(keys) & set(choice.tuned) else self._untuned(choice, keys)

    def _untuned(self, choice: Choice, keys: Sequence[str]) -> Choice | None:
        """The choice with TVM's own programs for some tasks; None where these are what it has already."""
        functions = {key: function for key, function in choice.functions.items() if key not in keys}
        if len(functions) == len(choice.functions):
            return None
        return replace(choice, functions=functions).without(keys)

    def _complaint(self, verdict: Verdict, replaced: Sequence[str], stage: str) -> str:
        blamed = f", also with the default schedules of {', '.join(self._names(replaced))}" if replaced else ""
        return (
            f"an executable computes what its model computes, but these outputs are wrong{blamed}: "
            f"{verdict.evidence}; cause: {stage}; this is a bug in Tilewright, please report it with the model"
        )


@dataclass(frozen=True)
class RaceResult:
    """How a race of the tuned executable against the incumbent ended.

    Attributes:
        kept: whether the tuned executable was not the slower one.
        report: JSON-able: ``kept`` ("tuned" or "incumbent"), medians in milliseconds, and ``ratio`` of the tuned one's
            to the incumbent's with its 95 % interval.
    """

    kept: bool
    report: dict[str, Any]


def race_seconds(run: float) -> tuple[float, float]:
    """About how many seconds the final race takes, if one run takes ``run`` seconds: the least, and in full."""
    turn = run * sum(turn_runs(run, _BLOCK_SECONDS))
    least, full = (_STARTING + 2 * blocks * turn for blocks in (_LEAST_BLOCKS, _BLOCKS))
    return least, full


def race_against(tuned: Path, incumbent: Path, threads: int, until: float = math.inf) -> RaceResult | None:
    """Race two executables by turns, in processes of their own; None where one of them cannot be timed.

    Args:
        tuned: the directory of the one.
        incumbent: the directory of the other.
        threads: how many each may use.
        until: ``time.monotonic()`` value. After it the race has three turns at most, and an undecided race ends.
    """
    try:
        entrants = [Entrant(str(path), peers.executable, (str(path.absolute()),)) for path in (tuned, incumbent)]
        ours, theirs = race(entrants, _LEAST_BLOCKS, _BLOCK_SECONDS, threads, more=partial(undecided, until))
    except (MeasureError, OutputError):
        return None
    found = compare(ours, theirs)
    if ours.error or theirs.error or not found["ratio"] > 0:
        return None
    kept = bool(found["ratio"] <= 1.0)
    report = {
        "kept": "tuned" if kept else "incumbent",
        "tuned_ms": latency(ours)["median_ms"],
        "incumbent_ms": latency(theirs)["median_ms"],
        **found,
    }
    return RaceResult(kept, report)


def undecided(until: float, peers: Sequence[Peer]) -> bool:
    """Whether a race of two goes on: it is short, or neither is surely faster; and there is time."""
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


@dataclass(frozen=True)
class FinishTimes:
    """The time limits of finishing.

    Attributes:
        checking: seconds for comparing winners with their defaults on several kinds of data.
        placing: seconds for timing the best schedules inside the network; 0: none are timed.
        until: ``time.monotonic()`` value after which an undecided race ends.
        racing: whether there is time for a race against the incumbent.
    """

    checking: float = 0.0
    placing: float = 0.0
    until: float = -math.inf
    racing: bool = True


@dataclass
class Finishing:
    """The steps from the end of tuning to the executable that will be published.

    ``best`` is always the best executable that may be published, so an interrupt can publish it.

    Attributes:
        workshop: builds.
        incumbent: the executable without tuning.
        best: what would be published now; the incumbent at first.
        check: the result of comparing the winners with their defaults on several kinds of data.
        contest: the timing of the best schedules inside the network; None: there was none.
        race: of the tuned executable against the incumbent; None: there was none.
        notes: what went wrong, for people.
    """

    workshop: Workshop
    incumbent: Candidate
    best: Candidate = field(init=False)
    check: KernelCheck = field(default_factory=lambda: KernelCheck({}, (), 0.0))
    contest: Contest | None = None
    race: RaceResult | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.best = self.incumbent

    def run(self, tuner: NetworkTuner, times: FinishTimes, short: bool = False) -> None:
        """Take the steps.

        Args:
            tuner: the tuner of the network, when it is done.
            times: the time limits.
            short: only build and judge the tuned executable.

        Raises:
            KeyboardInterrupt: ``best`` is what may be published.
        """
        choice = chosen(self.workshop.extraction, tuner)
        if self._is_incumbent(choice):
            return
        tuned = self._built(choice)
        if tuned is None:
            return
        self.best = tuned
        if not short:
            tuned = self._improved(tuner, tuned, times)
        if tuned is not None and times.racing and not short:
            self._race(tuned, times)

    def _is_incumbent(self, choice: Choice) -> bool:
        """Whether the incumbent runs with this choice. With other algorithms the network has other tasks."""
        same = self.incumbent.extraction is self.workshop.extraction
        return same and choice.configs == self.incumbent.choice.configs

    def _built(self, choice: Choice) -> Candidate | None:
        """The executable of a choice; None where there is none that is right, and the incumbent stays."""
        try:
            return self.workshop.build(choice)
        except (CheckError, CompilerError) as error:
            self.notes.append(f"the tuned executable was refused, so the incumbent stays: {error}")
            return None

    def _improved(self, tuner: NetworkTuner, tuned: Candidate, times: FinishTimes) -> Candidate | None:
        """Time schedules in their places, and leave out those that are wrong on some kind of data."""
        extraction, kernels = self.workshop.extraction, self.workshop.kernels
        found = None
        if times.placing and extraction.uses and not tuned.replaced:
            compiling = self.incumbent.seconds / len(extraction.uses)
            known, aside = self.incumbent.choice, tuned.folder.parent
            found = contest(
                extraction, tuner, kernels, tuned.folder, tuned.choice, known, aside, times.placing, compiling
            )
        wanted, self.check = checked(extraction, tuned.choice if found is None else found.choice, times.checking)
        if wanted.configs == tuned.choice.configs:
            self.contest = found
            return tuned
        if not self.check.wrong.keys().isdisjoint(tuned.choice.tuned):
            self.best = self.incumbent  # until the wrong kernels are exchanged
        other = self.workshop.exchange(tuned, wanted)
        if other is not None:
            self.best, self.contest = other, found
            return other
        # Those that ran before the contest are not to blame for what the contest brought in.
        wanted, self.check = checked(extraction, tuned.choice, times.checking)
        if wanted.configs == tuned.choice.configs:
            self.best = tuned
            return tuned
        self.best = self.incumbent
        rebuilt = self._built(wanted)
        if rebuilt is not None:
            self.best = rebuilt
        return rebuilt

    def _race(self, tuned: Candidate, times: FinishTimes) -> None:
        """Keep the faster one of the tuned executable and the incumbent."""
        if self._is_incumbent(tuned.choice):
            return
        cores = self.workshop.extraction.target.cores
        result = race_against(tuned.folder, self.incumbent.folder, cores, times.until)
        if result is not None and not result.kept:
            # Nothing has shown it to be wrong so far, but earlier records were not checked on several kinds of data.
            if checked(self.incumbent.extraction, self.incumbent.choice, times.checking)[1].wrong:
                result = replace(result, kept=True, report={**result.report, "kept": "tuned"})
            else:
                self.best = self.incumbent
        self.race = result
