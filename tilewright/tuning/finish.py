"""Makes the executable that will be published from the best schedules.

Executables are built in directories of their own, and judged. The tuned executable races against the incumbent, then
the faster one against ONNX Runtime. The directory of ``--out`` is written once, at the end. A refused executable is
never written there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from tilewright.errors import CheckError, CompilerError, TilewrightError
from tilewright.tuning.final_race import compare_executables, compare_runtime
from tilewright.tuning.in_place import ContestResult, contest
from tilewright.tuning.report import RaceReport, RuntimeRaceReport
from tilewright.tuning.run_log import RunLog
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.selection import Selection, check_selection, select_best
from tilewright.tuning.workshop import JudgedExecutable, Workshop
from tilewright.verify.kernels_check import KernelCheck
from tilewright.wording import counted

__all__ = ["FinishTimes", "Finishing"]


@dataclass(frozen=True)
class FinishTimes:
    """The time limits of finishing.

    Attributes:
        checking: seconds for comparing winners with their defaults on several kinds of data.
        placing: seconds for timing the best schedules inside the network; 0: none are timed.
        until: ``time.monotonic()`` value after which an undecided race ends.
        racing: whether there is time for a race against the incumbent.
        runtime: seconds that are kept for the race against ONNX Runtime; 0: there is none.
    """

    checking: float = 0.0
    placing: float = 0.0
    until: float = -math.inf
    racing: bool = True
    runtime: float = 0.0


@dataclass
class Finishing:
    """The steps from the end of tuning to the executable that will be published.

    ``best`` is always the best executable that may be published, so an interrupt can publish it.

    Attributes:
        workshop: builds and judges executables.
        incumbent: the executable without tuning.
        best: the executable that would be published now; the incumbent at first.
        check: the result of comparing the winners with their defaults on several kinds of data.
        contest: the timing of the best schedules inside the network; None: there was none.
        race: the race of the tuned executable against the incumbent; None: there was none.
        runtime_race: the race of ``best`` against ONNX Runtime on the whole model; None: there was none.
        notes: messages for users about failures and decisions.
        log: is told which step begins.
    """

    workshop: Workshop
    incumbent: JudgedExecutable
    best: JudgedExecutable = field(init=False)
    check: KernelCheck = field(default_factory=lambda: KernelCheck({}, (), 0.0))
    contest: ContestResult | None = None
    race: RaceReport | None = None
    runtime_race: RuntimeRaceReport | None = None
    notes: list[str] = field(default_factory=list)
    log: RunLog = field(default_factory=RunLog)

    def __post_init__(self) -> None:
        self.best = self.incumbent

    def run(self, tuner: NetworkTuner, times: FinishTimes, short: bool = False) -> None:
        """Build the tuned executable, improve it, and race it.

        Args:
            tuner: the tuner of the network, after tuning.
            times: the time limits.
            short: only build and judge the tuned executable.

        Raises:
            KeyboardInterrupt: ``best`` is what may be published.
        """
        self._finish(tuner, times, short)
        if times.runtime and not short:
            self._race_runtime(times)

    def _finish(self, tuner: NetworkTuner, times: FinishTimes, short: bool) -> None:
        selection = select_best(self.workshop.extraction, tuner)
        if self._is_incumbent(selection):
            return
        tuned = self._built(selection)
        if tuned is None:
            return
        self.best = tuned
        if not short:
            tuned = self._improved(tuner, tuned, times)
        if tuned is not None and times.racing and not short:
            self._race(tuned, times)

    def _is_incumbent(self, selection: Selection) -> bool:
        """Whether the incumbent has this selection of configs. With other algorithms, the network has other tasks."""
        same = self.incumbent.extraction is self.workshop.extraction
        return same and selection.configs == self.incumbent.selection.configs

    def _built(self, selection: Selection) -> JudgedExecutable | None:
        """The executable of a selection; None if it is wrong or cannot be built. Then the incumbent stays."""
        self.log.phase("building")
        try:
            return self.workshop.build(selection)
        except (CheckError, CompilerError) as error:
            self.notes.append(f"the tuned executable was refused, so the incumbent stays: {error}")
            return None

    def _improved(self, tuner: NetworkTuner, tuned: JudgedExecutable, times: FinishTimes) -> JudgedExecutable | None:
        """Time schedules inside the running network, and replace those that are wrong on some kind of data."""
        extraction = self.workshop.extraction
        found = None
        if times.placing and extraction.uses and not tuned.replaced:
            self.log.phase("contest in place")
            found = contest(self.workshop.kernels, tuner, tuned, self.incumbent, times.placing)
        best = tuned.selection if found is None else found.selection
        self.log.phase("checking kernels")
        wanted, self.check = check_selection(extraction, best, times.checking)
        if wanted.configs == tuned.selection.configs:
            self.contest = found
            return tuned
        if not self.check.wrong.keys().isdisjoint(tuned.selection.tuned):
            self.best = self.incumbent  # until the wrong kernels are replaced
        other = self.workshop.exchange(tuned, wanted)
        if other is not None:
            self.best, self.contest = other, found
            return other
        # The exchange failed, perhaps because of schedules from the contest. So keep the schedules from before it.
        wanted, self.check = check_selection(extraction, tuned.selection, times.checking)
        if wanted.configs == tuned.selection.configs:
            self.best = tuned
            return tuned
        self.best = self.incumbent
        rebuilt = self._built(wanted)
        if rebuilt is not None:
            self.best = rebuilt
        return rebuilt

    def _race(self, tuned: JudgedExecutable, times: FinishTimes) -> None:
        """Keep the faster one of the tuned executable and the incumbent."""
        if self._is_incumbent(tuned.selection):
            return
        self.log.phase("final race")
        cores = self.workshop.extraction.target.cores
        shares = self.workshop.extraction.shares
        until = times.until - times.runtime
        result = compare_executables(tuned.folder, self.incumbent.folder, cores, until, shares)
        if result is not None and result.kept == "incumbent":
            # The incumbent's schedules, from earlier records, have not been checked on several kinds of data yet.
            if check_selection(self.incumbent.extraction, self.incumbent.selection, times.checking)[1].wrong:
                result = replace(result, kept="tuned")
            else:
                self.best = self.incumbent
        self.race = result

    def _race_runtime(self, times: FinishTimes) -> None:
        """Run the whole model with ONNX Runtime in those buckets in which it is faster beyond doubt."""
        self.log.phase("race with ONNX Runtime")
        extraction = self.best.extraction
        try:
            whole = self.workshop.build_runtime()
        except TilewrightError as error:
            self.notes.append(f"the executable was not raced against ONNX Runtime: {error}")
            return
        if whole is None:
            return
        cores = extraction.target.cores
        raced = compare_runtime(self.best.folder, whole.folder, cores, times.until, extraction.shares)
        if raced is None:
            self.notes.append("the race against ONNX Runtime on the whole model failed, so the executable stays")
            return
        self.runtime_race, slower = raced
        if not slower:
            return
        if len(slower) < len(extraction.parts):
            mixed = self.workshop.mix(self.best, whole, slower)
            if mixed is None:
                return
            whole = mixed
        self.best = whole
        where = "" if len(extraction.parts) == 1 else f" in {counted(len(slower), 'bucket')}"
        self.notes.append(
            f"ONNX Runtime is {self.runtime_race.ratio:.2f} times as fast on the whole model{where}, so the executable "
            "runs the model with it, and needs the package onnxruntime"
        )
