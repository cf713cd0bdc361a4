"""From what tuning found to the executable that is written: built, checked, and never slower than what there was."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilewright.errors import CheckError, CompilerError, MeasureError, OutputError, SpaceError
from tilewright.measure.compare import compare, latency
from tilewright.measure.peers import Entrant, race
from tilewright.network import peers
from tilewright.network.build import build, compile_kernels, replace_kernels
from tilewright.network.check import TOLERANCE, blame, network_error
from tilewright.network.executable import Executable
from tilewright.network.kernels_check import KernelCheck, check_kernels
from tilewright.network.tasks import Extraction
from tilewright.space.registry import make_space
from tilewright.tuning.scheduler import NetworkTuner

__all__ = ["Choice", "Incumbent", "Verdict", "checked", "chosen", "never_slower", "race_seconds", "written"]

#: Turns of the final race, and about how long one lasts in seconds; what two processes take to start; and runs that
#: warm each turn up.
_BLOCKS, _BLOCK_SECONDS, _STARTING, _WARM_UP = 10, 0.08, 3.0, 2


@dataclass(frozen=True)
class Choice:
    """What each task is to run with.

    Attributes:
        functions: scheduled functions by ``Task.key``; a task without one is built as TVM builds it, unscheduled.
        configs: the config of each, by ``Task.key``; None: the default.
        defaults: names of the tasks that have only their default.
    """

    functions: dict[str, Any] = field(default_factory=dict)
    configs: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    defaults: list[str] = field(default_factory=list)


def chosen(extraction: Extraction, tuner: NetworkTuner) -> Choice:
    """The best that the tuner knows of each task now: at first what the records hold, or the defaults."""
    found = Choice()
    for use in extraction.uses:
        key, known = use.task.key, tuner.tuners.get(use.task.key)
        try:
            space = known.space if known is not None else make_space(use.task, extraction.target)
            config = known.best_config if known is not None else None
            if config is None:
                found.defaults.append(use.task.name)
            found.configs[key] = None if config is None else tuple(int(index) for index in config)
            found.functions[key] = space.schedule(space.default() if config is None else config).mod["main"]
        except SpaceError:
            found.defaults.append(use.task.name)
    return found


def checked(extraction: Extraction, choice: Choice, seconds: float) -> tuple[Choice, KernelCheck]:
    """The choice without winners that compute something else than their defaults on some kind of data.

    Args:
        extraction: the network.
        choice: of each task.
        seconds: that checking may take, about; what there is no time for is taken as it is.
    """
    spaces = {use.task.key: use.task for use in extraction.uses if choice.configs.get(use.task.key) is not None}
    defaults: dict[str, Any] = {}
    for key, task in spaces.items():
        space = make_space(task, extraction.target)
        defaults[key] = space.schedule(space.default()).mod["main"]
    found = check_kernels(extraction, choice.functions, defaults, seconds)
    functions = choice.functions | {key: defaults[key] for key in found.wrong}
    configs = choice.configs | dict.fromkeys(found.wrong)
    names = [task.name for key, task in spaces.items() if key in found.wrong]
    return Choice(functions, configs, choice.defaults + names), found


@dataclass(frozen=True)
class Incumbent:
    """What the network runs with if tuning brings nothing: the best of earlier records, or else the defaults.

    Attributes:
        choice: of each task.
        library: its kernels.
        seconds: what compiling it took.
    """

    choice: Choice
    library: Path
    seconds: float

    @classmethod
    def compiled(cls, extraction: Extraction, choice: Choice, folder: Path) -> Incumbent | None:
        """Compile it into a file of ``folder``; None where that fails, which then is no reason to stop."""
        began = time.monotonic()
        library = folder / "kernels.so"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            compile_kernels(extraction, choice.functions, library)
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
    """

    kept: bool
    report: dict[str, Any]


def race_seconds(run: float) -> float:
    """About how long the final race takes for a network of which a run takes ``run`` seconds."""
    turn = max(_BLOCK_SECONDS, run) + _WARM_UP * run
    return _STARTING + 2 * _BLOCKS * turn


def never_slower(executable: Executable, extraction: Extraction, out: Path, incumbent: Incumbent) -> Verdict | None:
    """Race the executable in ``out`` against the incumbent, by turns in processes of their own; the faster one stays.

    None where there was no race, since one of them cannot be timed: then the tuned one stays, which was checked.

    Raises:
        OutputError: ``out`` cannot be written.
    """
    other = incumbent.library.parent / "executable"
    try:
        rival = replace_kernels(out, incumbent.library, other)
        entrants = [Entrant(str(path), peers.executable, (str(path.absolute()),)) for path in (out, other)]
        ours, theirs = race(entrants, _BLOCKS, _BLOCK_SECONDS, extraction.target.cores)
    except (MeasureError, OutputError):
        return None
    found = compare(ours, theirs)
    if ours.error or theirs.error or not found["ratio"] > 0:
        return None
    kept = found["ratio"] <= 1.0
    if not kept:
        error = network_error(rival, extraction.network)
        kept = error is not None and not error <= TOLERANCE
    if not kept:
        replace_kernels(out, incumbent.library, out)
    report = {
        "kept": "tuned" if kept else "incumbent",
        "tuned_ms": latency(ours)["median_ms"],
        "incumbent_ms": latency(theirs)["median_ms"],
        **found,
    }
    return Verdict(kept, report)


def written(extraction: Extraction, functions: dict[str, Any], out: Path) -> tuple[Executable, float | None, list[str]]:
    """Build into ``out`` and compare with the reference; tasks that spoil the result are replaced by their defaults.

    Returns:
        the executable, its relative error (None without a reference), and the names of replaced tasks.

    Raises:
        CompilerError: as :func:`tilewright.network.build.build`.
        OutputError: likewise.
        CheckError: the outputs are wrong, and replacing the tasks to blame did not help.
    """
    names = {use.task.key: use.task for use in extraction.uses}
    executable = build(extraction, functions, out, {})
    error = network_error(executable, extraction.network)
    blamed: list[str] = []
    if error is not None and not error <= TOLERANCE:
        for key in blame(extraction, functions):
            space = make_space(names[key], extraction.target)
            functions[key] = space.schedule(space.default()).mod["main"]
            blamed.append(names[key].name)
        guilty_still = blame(extraction, {key: functions[key] for key in functions if names[key].name in blamed})
        for key in guilty_still:
            del functions[key]  # not even its default is right: TVM's own
        executable = build(extraction, functions, out, {"replaced": blamed})
        error = network_error(executable, extraction.network)
        if error is None or not error <= TOLERANCE:
            raise CheckError(
                f"outputs agree with the model's own to {TOLERANCE:g} of the largest, but these differ by {error:.3g} "
                f"also with the defaults of the tasks to blame ({', '.join(blamed) or 'none found'}); "
                f"do not use what is in {out}, and report the model"
            )
    return executable, error, blamed
