"""The tuning of one model, as the command line asks for it."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.cli.options import begin_reading, records_place
from tilewright.cli.verbosity import Verbosity, detail, remark
from tilewright.errors import TilewrightError
from tilewright.frontend.shapes import ShapeRequest
from tilewright.tuning.budget import Budget
from tilewright.wording import did_you_mean

if TYPE_CHECKING:
    from tilewright.cli.fleet import Cluster
    from tilewright.methods.method import Method
    from tilewright.records.store import Store
    from tilewright.tuning.preparation import Preparation
    from tilewright.tuning.progress import Progress
    from tilewright.tuning.report import TuneReport

__all__ = ["GO_ON", "SHARING", "MethodNames", "TuneOptions", "check_sharing", "make_display", "run_tuning"]

#: The names of the policies of sharing.
SHARING = ("own", "published", "none")
GO_ON = "the measurements are in the records, and the same command goes on from them"


@dataclass(frozen=True)
class MethodNames:
    """How to search, by the names that the command was given; None: it was given none."""

    method: str | None = None
    searcher: str | None = None
    sampler: str | None = None
    cost_model: str | None = None
    sharing: str | None = None


@dataclass(frozen=True)
class TuneOptions:
    """What ``tilewright tune`` was asked for one model.

    Attributes:
        model: its file.
        out: the directory of the executable.
        budget: what may be spent.
        target: what is tuned for, as text.
        records: where the records are, as text; None: in the usual place.
        seed: of all random numbers.
        names: how to search.
        verbosity: how much is shown.
        request: what is asked of the inputs; None: nothing.
        page: whether a page about the run is written.
        live: whether it is served while the run goes on.
        precision: of weights that are read from memory: ``float32``, ``bf16`` or ``auto``.
        max_error: the largest error that ``auto`` may bring; None: none was given.
        preparation: what was done with the model before, for the report. Its notes were told already.
    """

    model: Path
    out: Path
    budget: Budget
    target: str
    records: str | None
    seed: int
    names: MethodNames
    verbosity: Verbosity
    request: ShapeRequest | None = None
    page: bool = True
    live: bool = False
    precision: str = "float32"
    max_error: float | None = None
    preparation: Preparation | None = None


def check_sharing(name: str | None) -> None:
    """Refuse a name that is no policy of sharing.

    Raises:
        TilewrightError: it is none.
    """
    if name is not None and name not in SHARING:
        correct = did_you_mean(name, SHARING) or "; correct it"
        raise TilewrightError(f"--sharing is one of {', '.join(SHARING)}, but this is {name!r}{correct}")


def run_tuning(
    options: TuneOptions,
    cluster: Cluster,
    stack: ExitStack,
    began: float,
    progress: Progress | None = None,
    records: Store | None = None,
) -> tuple[TuneReport, list[str]]:
    """Tune one model.

    Args:
        options: what is asked for.
        cluster: whose machines measure; without an address, this machine does.
        stack: is given what has to end after the tuning.
        began: when the command began, in seconds of ``time.monotonic()``. With a cluster the budget counts from when
            its nodes are there.
        progress: is shown how tuning goes; by default the terminal is.
        records: the store, if it is not to be opened here.

    Returns:
        the report, and the notes that were told already.

    Raises:
        KeyboardInterrupt: no executable was written.
        TilewrightError: as the parts do.
    """
    how = _share(_method(options.names), options.names.sharing)
    where = records_place(options.records) if records is None else None
    reading = stack.enter_context(begin_reading(options.model, options.request))
    if not isinstance(reading, Path):
        reading.preparation = options.preparation
    from tilewright.records.fallback import FallbackStore, open_for_tuning

    if records is not None:
        store = FallbackStore(records)
    else:
        assert where is not None
        detail(f"records: {where}")
        store = open_for_tuning(where, tell=remark)
    stack.callback(store.close)
    from tilewright.tuning.context import Workplace
    from tilewright.tuning.session import tune as run_session

    if progress is None:
        progress = make_display(options.verbosity)
    place = stack.enter_context(cluster.place(options.target, progress))
    try:
        if not isinstance(place, str | Workplace):
            from tilewright.cli.away import tune_away

            return tune_away(options, cluster.joined(), place, store, progress)
        result = run_session(
            reading,
            options.out,
            budget=options.budget.start(began=time.monotonic() if cluster.address else began, progress=progress),
            target=place,
            records=store,
            shapes=options.request,
            seed=options.seed,
            method=how,
        )
    except KeyboardInterrupt:  # an interrupt before there was an executable, or a second interrupt
        earlier = f"; {options.out} still holds the earlier one, untouched"
        there = (options.out / "manifest.json").is_file()
        go_on = "" if store.kept else f"; {GO_ON}"
        print(f"no executable was written{earlier if there else ''}{go_on}", file=sys.stderr)
        raise
    return result.report, [*store.notes, *(options.preparation.notes if options.preparation is not None else ())]


def make_display(level: Verbosity) -> Progress:
    """The display of a tuning in the terminal; a quiet command shows nothing."""
    from tilewright.tuning.progress import SilentProgress, progress_for

    return SilentProgress() if level is Verbosity.QUIET else progress_for(verbose=level is Verbosity.VERBOSE)


def _method(names: MethodNames) -> Method:
    """The method of the search, by the names and the file that the command was given."""
    name, searcher, sampler, cost_model = names.method, names.searcher, names.sampler, names.cost_model
    if name is not None and (searcher is not None or sampler is not None):
        raise TilewrightError(
            "--method names a whole system, and --searcher and --sampler its parts, but this command has both; "
            "leave one of them out"
        )

    from tilewright.methods.default import known_beforehand
    from tilewright.methods.parts import DEFAULT_SEARCHER, combine
    from tilewright.methods.registry import METHODS, make_method

    if name is not None and name not in METHODS:
        correct = did_you_mean(name, METHODS) or "; correct --method"
        raise TilewrightError(f"a method is one of {', '.join(METHODS)}, but this is {name!r}{correct}")
    # The published systems have no prior unless the command names one.
    alone = cost_model == "none" or (cost_model is None and name not in (None, "default"))
    prior, problem = (None, "") if alone else known_beforehand(Path(cost_model) if cost_model else None)
    if problem:
        remark(problem)
    if searcher is not None or sampler is not None:
        return combine(searcher or DEFAULT_SEARCHER, sampler or "top", prior=prior)
    return make_method(name or "default", prior)


def _share(method: Method, name: str | None) -> Method:
    """The method with another way of sharing, by the name that the command was given; None: as it is."""
    from tilewright.share.policy import Sharing

    policies = {"own": Sharing(), "published": Sharing.published(), "none": None}
    return method if name is None else replace(method, sharing=policies[name])
