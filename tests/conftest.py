"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.records import server

# Modules and tests stay: to go through their million objects again and again was a twentieth of the time.
gc.disable()

# The machine that runs this may be busy with measurements: a slow example says nothing about the code. The examples are
# the same every time: whether a change passes is no matter of luck. `HYPOTHESIS_PROFILE=thorough` looks for new ones.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile(
    "thorough", parent=settings.get_profile("default"), max_examples=2000, derandomize=False, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

#: Files and folders whose tests are marked ``fast``: arrays, files and toys, without a compiler. A file joins where all
#: its tests take 5 s of one core or less; together they took 45 s in November 2026, and `make check` has 90 s on two.
FAST = (
    "sample",
    "cli/test_text.py",
    "cost/test_dataset.py",
    "cost/test_evaluate.py",
    "cost/test_features.py",
    "cost/test_trees.py",
    "executable/test_buffers.py",
    "executable/test_caller_memory.py",
    "measure/test_compare.py",
    "measure/test_disturbance.py",
    "measure/test_interleaved.py",
    "measure/test_outcome.py",
    "measure/test_process.py",
    "measure/test_rule.py",
    "methods/test_parts.py",
    "graph/test_channels.py",
    "graph/test_view.py",
    "quantising/test_accuracy.py",
    "quantising/test_samples.py",
    "records/test_export.py",
    "search/test_annealing.py",
    "search/test_bayesian.py",
    "search/test_gbfs.py",
    "search/test_genetic.py",
    "search/test_na2c.py",
    "share/test_similarity.py",
    "share/test_transfer.py",
    "space/test_configs.py",
    "space/test_knob.py",
    "space/test_moves.py",
    "space/test_subspace.py",
    "space/test_template.py",
    "test_control_groups.py",
    "test_difference.py",
    "test_docs.py",
    "test_limits.py",
    "test_reading.py",
    "tuning/test_budget.py",
    "tuning/test_budget_plan.py",
    "tuning/test_priorities.py",
    "tuning/test_progress.py",
    "tuning/test_readings.py",
    "tuning/test_scheduler.py",
    "tuning/test_tuner.py",
    "verify/test_attributes.py",
)


def _is_fast(path: Path) -> bool:
    place = path.relative_to(Path(__file__).parent)
    return any(str(one) in FAST for one in (place, *place.parents))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that have no fast test need not be read where only fast ones are wanted: TVM alone takes seconds."""
    only = config.option.markexpr == "fast" and collection_path.suffix == ".py"
    return True if only and not _is_fast(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_fast(item.path):
            item.add_marker(pytest.mark.fast)


def pytest_collection_finish() -> None:
    gc.freeze()
    # Some tests make millions of objects, few of which are in cycles. Python's own thresholds are 700, 10 and 10.
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_unconfigure() -> None:
    # What is frozen is cleared in any order at the end: XGBoost's library before its trees.
    gc.unfreeze()


# A job that a shell put into the background ignores Ctrl-C, and so does all that it starts; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[server.Server]:
    """A private PostgreSQL server."""
    if (lack := server.missing()) is not None:
        pytest.skip(lack)
    with server.running() as started:
        yield started
