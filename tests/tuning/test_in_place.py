"""A task's best schedules are timed in their places in the network, and the fastest there is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.models import TARGET, conv_model, defaults, runs
from tilewright.compiling.build import build
from tilewright.compiling.kernels import Kernels
from tilewright.errors import MeasureError
from tilewright.frontend.load import load
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.runner import NoRunner
from tilewright.ops.registry import make_space
from tilewright.records.memory import MemoryStore
from tilewright.space.configs import sample
from tilewright.space.space import DesignSpace
from tilewright.tuning import in_place as module
from tilewright.tuning.budget import Budget
from tilewright.tuning.choice import Choice, chosen
from tilewright.tuning.in_place import Variant, in_place, variants_of
from tilewright.tuning.scheduler import NetworkTuner

pytestmark = runs


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(load(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


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
    tuner = NetworkTuner(extraction.uses, TARGET, NoRunner(), store, Budget(trials=1).start(), np.random.default_rng(0))
    tuner.prepare()
    return tuner


def test_the_best_few_take_part_with_what_was_known_before(extraction: Extraction, space: DesignSpace) -> None:
    configs = some_configs(space, 5)
    tuner = tuned(extraction, [measured(space, config, 1e-4 * (i + 1)) for i, config in enumerate(configs)])
    choice, known = chosen(extraction, tuner), Choice(defaults(extraction), {})
    key = space.task.key
    found = variants_of(extraction, tuner, choice, known, 100)[key]
    assert [variant.config for variant in found] == [configs[0], None, configs[1], configs[2]]
    found = variants_of(extraction, tuner, choice, known, 1)[key]  # the limit is seen to before each task
    assert len(found) == 4
    found = variants_of(extraction, tuner, choice, known, 0)[key]
    assert [variant.config for variant in found] == [configs[0], None]
    assert key not in variants_of(extraction, tuner, choice, choice, 0)


def contested(extraction: Extraction, space: DesignSpace, tmp_path: Path) -> tuple[Choice, dict[str, list[Variant]]]:
    functions = defaults(extraction)
    build(extraction, functions, tmp_path / "out", {})
    key = space.task.key
    others = [
        Variant(config, space.schedule(np.asarray(config, dtype=np.int32)).mod["main"])
        for config in some_configs(space, 2)
    ]
    return Choice(functions, dict.fromkeys(functions)), {key: [Variant(None, functions[key]), *others]}


def test_the_fastest_in_its_place_is_taken(
    extraction: Extraction, space: DesignSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice, variants = contested(extraction, space, tmp_path)
    kernels, key = Kernels(extraction, tmp_path / "kernels"), space.task.key

    def timed(executable: Path, entered: Mapping[str, Sequence[str]], *_: object) -> dict[str, list[list[float]]]:
        assert (executable / "manifest.json").is_file()
        return {name: [[3e-3, 9e-3], [1e-3, 9e-3], [2e-3, 2e-3]] for name in entered}

    monkeypatch.setattr(module, "_timed", timed)
    found = in_place(extraction, kernels, tmp_path / "out", choice, variants, tmp_path, 1.0)
    assert found is not None
    assert found.choice.configs[key] == variants[key][2].config  # the low quantile of three, not the least reading
    assert found.choice.functions[key].same_as(variants[key][2].function)
    assert key in found.choice.tuned
    assert not (tmp_path / "variants").exists()
    assert found.report.pop("seconds") > 0
    assert found.report == {
        "tasks": 1,
        "variants": 3,
        "rounds": 2,
        "exchanged": [space.task.name],
        "before_ms": pytest.approx(4.2),
        "after_ms": pytest.approx(2.0),
    }


def test_variants_are_timed_in_a_process_of_its_own(extraction: Extraction, space: DesignSpace, tmp_path: Path) -> None:
    choice, variants = contested(extraction, space, tmp_path)
    kernels = Kernels(extraction, tmp_path / "kernels")
    found = in_place(extraction, kernels, tmp_path / "out", choice, variants, tmp_path, 0.0)
    assert found is not None
    assert found.report["rounds"] == 5
    assert 0 < found.report["after_ms"] <= found.report["before_ms"]
    assert found.choice.configs[space.task.key] in [variant.config for variant in variants[space.task.key]]


def test_where_it_cannot_be_done_nothing_is_lost(
    extraction: Extraction, space: DesignSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice, variants = contested(extraction, space, tmp_path)
    kernels = Kernels(extraction, tmp_path / "kernels")
    assert in_place(extraction, kernels, tmp_path / "out", choice, {}, tmp_path, 1.0) is None

    def died(*_: object) -> None:
        raise MeasureError("its process ended: signal 11")

    monkeypatch.setattr(module, "_timed", died)
    assert in_place(extraction, kernels, tmp_path / "out", choice, variants, tmp_path, 1.0) is None
