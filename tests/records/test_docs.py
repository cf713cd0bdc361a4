"""The examples in the documentation about records are run, so that they cannot lie."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.models import conv_model
from tilewright.errors import RecordsError
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.ops.registry import make_space
from tilewright.records import open_store
from tilewright.records.export import read_jsonl
from tilewright.records.memory import MemoryStore
from tilewright.records.metaschedule import write_metaschedule
from tilewright.records.schema import measurements, tasks
from tilewright.records.store import Query, Store
from tilewright.target import Target
from tilewright.task import Task

DOCS = Path(__file__).parents[2] / "docs"
GOOD = Measurement("t", "cpu", "contraction/1", (1, 2), Outcome.OK, (0.5, 0.5), "", 1.5, 0.25)


def examples(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_your_own_store(tmp_path: Path) -> None:
    (program,) = examples("how-to/write-your-own-store.md", "python")
    names: dict[str, Any] = {}
    exec(program, names)
    make: Callable[[Path], Store] = names["LinesStore"]
    store = make(tmp_path / "records.jsonl")
    slower = replace(GOOD, config=(3,), repeats=(0.75,))
    store.add([slower, GOOD])
    store.add([replace(GOOD, task="other")])
    with pytest.raises(RecordsError):
        store.add([GOOD, replace(GOOD, repeats=())])
    assert list(store.scan(Query(task="t"))) == [slower, GOOD]
    assert store.best("t", "cpu", "contraction/1", 2) == [GOOD, slower]
    task = Task("t", "dense", "contraction", 1.0, "{}")
    for described in (replace(task, key="u", ir=""), task, replace(task, ir="")):
        store.describe(described)
    assert store.tasks() == [task]
    store.close()
    with pytest.raises(RecordsError):
        store.scan(Query())


def test_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store("records.db") as store:
        store.add([GOOD])
    (program,) = examples("reference/records.md", "python")
    exec(program, {})
    assert capsys.readouterr().out == " 1 0.5\n(1, 2) 0.5\n"
    (line,) = examples("reference/records.md", "json")
    (measurement,) = read_jsonl(line.splitlines())
    assert measurement.config == (3, 0, 7)


def test_the_reference_has_every_column_and_outcome() -> None:
    page = (DOCS / "reference/records.md").read_text(encoding="utf-8")
    names = {column.name for table in (measurements, tasks) for column in table.columns}
    for name in names | {outcome.value for outcome in Outcome}:
        assert f"`{name}`" in page


def test_a_database_of_metaschedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's program builds the network with a program that is on record."""
    monkeypatch.chdir(tmp_path)
    native = Target.parse()  # as the program has it
    extraction = extract(load(conv_model(tmp_path / "model.onnx")), native)
    use = next(use for use in extraction.uses if use.task.kind == "contraction")
    store, space = MemoryStore(), make_space(use.task, native)
    config = tuple(space.default().tolist())
    store.add([replace(GOOD, task=use.task.key, target=native.key, template=space.template, config=config)])
    write_metaschedule(store, [use.task], native, tmp_path / "DIR")
    (program,) = examples("reference/metaschedule.md", "python")
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["module"][use.functions[0]].attrs["tirx.is_scheduled"]
    assert names["library"] is not None
