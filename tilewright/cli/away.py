"""A model that a node of another kind of machine tunes: what the command sends there, and what it hears."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tilewright.executable.replacing import replace_directory
from tilewright.fleet.away import Errand
from tilewright.fleet.head_store import note_records
from tilewright.frontend.file_kinds import is_program
from tilewright.interrupts import holding
from tilewright.tuning.budget import Budget
from tilewright.tuning.progress import TuneState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilewright.cli.fleet import Cluster
    from tilewright.cli.tuning import TuneOptions
    from tilewright.fleet.away import Away
    from tilewright.records.fallback import FallbackStore
    from tilewright.tuning.progress import Progress
    from tilewright.tuning.report import TuneReport

__all__ = ["tune_away"]

#: The module that runs on the node, and the words with which it ends.
_JOB = "tilewright.cli.away_job"
_DONE, _FAILED = "report", "error"
#: The least budget in seconds of a job that is begun again: what is on record is built.
_LEAST_SECONDS = 1.0


@dataclass
class _Listener:
    """Hears what a job says.

    Attributes:
        budget: what is left of the budget when the job begins, or begins again after a loss.
        trials: how many the lost jobs have measured.
    """

    budget: Budget
    store: FallbackStore
    progress: Progress
    display: ExitStack
    state: TuneState = field(default_factory=TuneState)
    report: TuneReport | None = None
    error: BaseException | None = None
    told: list[str] = field(default_factory=list)
    trials: int = 0

    def begin(self) -> Budget:
        """A job begins. Returns its budget."""
        self.budget, self.trials = _left(self.budget, self.state), self.trials + self.state.trials
        self.state = TuneState()
        return self.budget

    def hear(self, word: str, value: object) -> object | None:
        if word == "state":
            self.state = cast("TuneState", value)
            self.progress.update(self.state)
        elif word == "lines":
            lines, detail = cast("tuple[Sequence[str], bool]", value)
            self.progress.announce(lines, detail=detail)
        elif word == "display":
            self.display.close()
            if value:
                self.display.enter_context(self.progress)
        elif word == _DONE:
            self.report, self.told = cast("tuple[TuneReport, list[str]]", value)
        elif word == _FAILED:
            self.error = cast("BaseException", value)
        else:
            return note_records(self.store, word, value)
        return None


def tune_away(
    options: TuneOptions, cluster: Cluster, away: Away, store: FallbackStore, progress: Progress
) -> tuple[TuneReport, list[str]]:
    """Have a node tune a model, and write the executable that it sends.

    Args:
        options: what is asked for.
        cluster: how the job joins the connection to the cluster; its address is not known before the job is there.
        away: the nodes.
        store: gets the records.
        progress: is shown how tuning goes.

    Returns:
        the report, and the notes that were told already.

    Raises:
        KeyboardInterrupt: no executable was written.
        TilewrightError: as the parts do.
    """
    files = {f"model/{name}": options.model.parent / name for name in _model_files(options.model)}
    names = options.names
    if names.cost_model not in (None, "none"):
        path = Path(str(names.cost_model))
        files[f"cost_model/{path.name}"] = path
        names = replace(names, cost_model=f"cost_model/{path.name}")
    with ExitStack() as display, replace_directory(options.out) as part:
        listener = _Listener(options.budget, store, progress, display)

        def message(address: str) -> object:
            asked = replace(
                options,
                model=Path("model", options.model.name),
                out=Path("out"),
                records=None,
                names=names,
                budget=listener.begin(),
            )
            return asked, replace(cluster, address=address, kinds=(away.kind,))

        done = away.run(Errand(_JOB, files, message, listener.hear, _DONE, _FAILED, "out"), part)
        if not done:
            assert listener.error is not None
            raise listener.error
        report = listener.report
        assert report is not None
        with holding():
            store.settle()
        trials, notes = listener.trials + report.trials, (*report.notes, *store.notes)
        report = replace(report, trials=trials, unrecorded=store.kept, notes=notes)
        kept = report.interrupted and not report.trials and (options.out / "manifest.json").is_file()
        if kept:  # an earlier executable may have been tuned for long
            raise KeyboardInterrupt
    return report, [*listener.told, *store.notes]


def _left(budget: Budget, state: TuneState) -> Budget:
    """What is left of a budget after a job that has come so far."""
    seconds, trials = budget.seconds, budget.trials
    if seconds is not None and math.isfinite(state.remaining):
        seconds = max(_LEAST_SECONDS, state.remaining)
    if trials is not None and math.isfinite(state.trials_left):
        trials = max(1, int(state.trials_left))
    return Budget(seconds, trials)


def _model_files(model: Path) -> list[str]:
    """The names of a model's files, in its directory."""
    if is_program(model):
        return [model.name]
    from tilewright.frontend.onnx.data import list_files

    return list_files(model)
