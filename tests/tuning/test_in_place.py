"""A task's best schedules are timed in their places in the network, and the fastest there is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.models import TARGET, conv_model, defaults, read, runs
from tilewright.errors import MeasureError
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.runner import NoRunner
from tilewright.ops.registry import make_space
from tilewright.records.memory import MemoryStore
from tilewright.space.configs import sample
from tilewright.space.space import DesignSpace
from tilewright.tuning import in_place as module
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import TuningContext
from tilewright.tuning.in_place import ContestResult, Variant, in_place, variants_of
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.selection import Selection, select_best
from tilewright.tuning.workshop import JudgedExecutable, Workshop
from tilewright.verify.checker import Checker

pytestmark = runs


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(read(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


@pytest.fixture(scope="module")
def space(extraction: Extraction) -> DesignSpace:
    return make_space(next(use.task for use in extraction.uses if use.task.kind == "contraction"), TARGET)


def some_configs(space: DesignSpace, count: int) -> list[tuple[int, ...]]:
    """Configs other than the default."""
    default = tuple(space.default().tolist())
    rows = dict.fromkeys(tuple(row) for row in sample(space, np.random.default_rng(0), 50).tolist())
    return [row for row in rows if row != default][:count]


def measured(space: DesignSpace, config: tuple[int, ...], seconds: float) -> Measurement:
    return Measurement(space.task.key, TARGET.key, space.template, config, Outcome.OK, (seconds,) * 3)


def tuned(extraction: Extraction, measurements: Sequence[Measurement]) -> NetworkTuner:
    store = MemoryStore()
    store.add(list(measurements))
    context = TuningContext(TARGET, NoRunner(), store, Budget(trials=1).start(), np.random.default_rng(0))
    tuner = NetworkTuner(extraction.uses, context)
    tuner.prepare()
    return tuner


def test_the_best_few_take_part_with_what_was_known_before(extraction: Extraction, space: DesignSpace) -> None:
    configs = some_configs(space, 5)
    tuner = tuned(extraction, [measured(space, config, 1e-4 * (i + 1)) for i, config in enumerate(configs)])
    selection, known = select_best(extraction, tuner), Selection(defaults(extraction), {})
    key = space.task.key
    found = variants_of(extraction, tuner, selection, known, 100)[key]
    assert [variant.config for variant in found] == [configs[0], None, configs[1], configs[2]]
    found = variants_of(extraction, tuner, selection, known, 1)[key]  # the limit is seen to before each task
    assert len(found) == 4
    found = variants_of(extraction, tuner, selection, known, 0)[key]
    assert [variant.config for variant in found] == [configs[0], None]
    assert key not in variants_of(extraction, tuner, selection, selection, 0)


@dataclass(frozen=True)
class Contested:
    """An executable with default schedules, and variants of one of its tasks."""

    workshop: Workshop
    candidate: JudgedExecutable
    variants: dict[str, list[Variant]]

    def race(self, variants: dict[str, list[Variant]], seconds: float) -> ContestResult | None:
        return in_place(self.workshop.kernels, self.candidate, variants, seconds)


@pytest.fixture
def contested(extraction: Extraction, space: DesignSpace, tmp_path: Path) -> Iterator[Contested]:
    functions, key = defaults(extraction), space.task.key
    others = [
        Variant(config, space.schedule(np.asarray(config, dtype=np.int32)).mod["main"])
        for config in some_configs(space, 2)
    ]
    with Checker(extraction.network, 8.0) as checker:
        workshop = Workshop(extraction, checker, tmp_path, "first")
        candidate = workshop.build(Selection(functions, dict.fromkeys(functions)))
        yield Contested(workshop, candidate, {key: [Variant(None, functions[key]), *others]})


def test_the_fastest_in_its_place_is_taken(
    contested: Contested, space: DesignSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, variants = space.task.key, contested.variants

    def timed(executable: Path, entered: Mapping[str, Sequence[str]], *_: object) -> dict[str, list[list[float]]]:
        assert (executable / "manifest.json").is_file()
        return {name: [[3e-3, 9e-3], [1e-3, 9e-3], [2e-3, 2e-3]] for name in entered}

    monkeypatch.setattr(module, "_timed", timed)
    found = contested.race(variants, 1.0)
    assert found is not None
    assert found.selection.configs[key] == variants[key][2].config  # the low quantile of three, not the least reading
    assert found.selection.functions[key].same_as(variants[key][2].function)
    assert key in found.selection.tuned
    assert not (tmp_path / "variants").exists()
    report = found.report
    assert report.seconds > 0
    assert (report.tasks, report.variants, report.rounds, report.exchanged) == (1, 3, 2, (space.task.name,))
    assert report.before_ms == pytest.approx(4.2)
    assert report.after_ms == pytest.approx(2.0)


def test_variants_are_timed_in_a_process_of_its_own(contested: Contested, space: DesignSpace) -> None:
    found = contested.race(contested.variants, 0.0)
    assert found is not None
    assert found.report.rounds == 5
    assert 0 < found.report.after_ms <= found.report.before_ms
    assert found.selection.configs[space.task.key] in [v.config for v in contested.variants[space.task.key]]


def test_where_it_cannot_be_done_nothing_is_lost(contested: Contested, monkeypatch: pytest.MonkeyPatch) -> None:
    assert contested.race({}, 1.0) is None

    def died(*_: object) -> None:
        raise MeasureError("its process ended: signal 11")

    monkeypatch.setattr(module, "_timed", died)
    assert contested.race(contested.variants, 1.0) is None
