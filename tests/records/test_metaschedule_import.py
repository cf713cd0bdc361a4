"""MetaSchedule's records as measurements: the same programs, and no file that brings us down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm_ffi import structural_equal

from tests.ops.generic.test_space import chain, depthwise, draw, softmax, task
from tests.targets import lane_target
from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.ops.generic.space import AutoSpace
from tilewright.ops.generic.stored_trace import TraceReader
from tilewright.records import metaschedule_import
from tilewright.records.memory import MemoryStore
from tilewright.records.metaschedule import RECORDS, WORKLOADS, workload_module, write_metaschedule
from tilewright.records.metaschedule_import import Read, read_metaschedule
from tilewright.records.store import Query
from tilewright.space.module import task_module
from tilewright.target import Target
from tilewright.tvm_compat import light_tensor_intrinsics

COUNT = 8


@cache
def target() -> Target:
    """One target on every machine: which programs MetaSchedule draws depends on its vectors and its cores."""
    return replace(lane_target(8), cores=2)


@cache
def space(function: Callable[[], list[Any]]) -> AutoSpace:
    return AutoSpace(task(function), target())


@pytest.fixture(autouse=True, scope="module")
def spaces_are_made_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metaschedule_import, "_trace_reader", cache(metaschedule_import._trace_reader))
        yield


def candidates(module: Any, strategy: str, machine: Target | None = None) -> list[Any]:
    """Schedules that MetaSchedule would measure, by its own rules and postprocessors."""
    machine = machine or target()
    light_tensor_intrinsics()
    from tvm.s_tir import meta_schedule as ms

    search: Any = strategy
    if strategy == "evolutionary":
        search = ms.search_strategy.EvolutionarySearch(population_size=32, init_min_unmeasured=8, genetic_num_iters=1)
    context = ms.TuneContext(
        mod=module,
        target=machine.tvm,
        space_generator="post-order-apply",
        search_strategy=search,
        rand_state=3,
        num_threads=1,
    )
    context.pre_tuning(
        max_trials=COUNT,
        num_trials_per_iter=COUNT,
        design_spaces=context.generate_design_space(),
        database=ms.database.MemoryDatabase(),
        cost_model=ms.cost_model.RandomModel(seed=3),
    )
    return [candidate.sch for candidate in context.generate_measure_candidates()]


def database(folder: Path, module: Any, schedules: list[Any], machine: Target | None = None) -> list[str]:
    """Writes the database of ``schedules`` as MetaSchedule does; their latencies are 1 s, 2 s, ...

    Returns:
        The lines of its records.
    """
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.database import JSONDatabase, TuningRecord

    machine = machine or target()
    written = JSONDatabase(work_dir=str(folder))
    workload = written.commit_workload(module)
    for number, schedule in enumerate(schedules, start=1):
        arguments = ArgInfo.from_prim_func(module["main"])
        written.commit_tuning_record(TuningRecord(schedule.trace, workload, [number], machine.tvm, arguments))
    return (folder / RECORDS).read_text().splitlines(keepends=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database")
    module = task_module(task(depthwise))
    database(folder, module, candidates(module, "replay-trace"))
    return folder


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """A database to damage."""
    for name in (WORKLOADS, RECORDS):
        (tmp_path / name).write_bytes((shared / name).read_bytes())
    return tmp_path


def read(folder: Path, store: MemoryStore | None = None, *functions: Callable[[], list[Any]]) -> Read:
    return read_metaschedule(folder, store or MemoryStore(), map(task, functions or (depthwise,)), target())


@pytest.mark.parametrize("strategy", ["replay-trace", "replay-func", "evolutionary"])
@pytest.mark.parametrize("function", [depthwise, chain, softmax], ids=lambda f: f.__name__)
def test_configs_are_metaschedules_programs(function: Callable[[], list[Any]], strategy: str, tmp_path: Path) -> None:
    module = task_module(task(function))
    schedules = candidates(module, strategy)
    database(tmp_path, module, schedules)
    store = MemoryStore()
    found = read(tmp_path, store, function)
    measurements = list(store.scan(Query()))
    assert (found.records, found.added, found.faulty) == (len(schedules), len(measurements), 0)
    # Where a block may be computed is learnt from a few probes: the knobs lack some places.
    assert set(found.passed_over) <= {"a decision is none of its knob's choices"}
    assert found.added == len(schedules) if function is not softmax else found.added > 0
    for measurement in measurements:
        program = space(function).schedule(np.asarray(measurement.config, dtype=np.int32))
        assert structural_equal(program.mod, schedules[int(measurement.seconds) - 1].mod)
    assert [t.key for t in store.tasks()] == [task(function).key]
    assert {(m.target, m.template) for m in measurements} == {(target().key, "auto/1")}


def test_what_we_wrote_ourselves(tmp_path: Path) -> None:
    """Also in one file with programs that MetaSchedule does not make."""
    auto = space(depthwise)
    rows = auto.canonical(draw(auto, 40))
    rows = rows[rows[:, 0] >= 2][:3]
    store, again = MemoryStore(), MemoryStore()
    for number, row in enumerate([*rows.tolist(), auto.default().tolist()], start=1):
        one = Measurement(auto.task.key, target().key, "auto/1", tuple(row), Outcome.OK, (float(number),))
        store.add([one])
    write_metaschedule(store, [auto.task], target(), tmp_path, count=4)
    found = read(tmp_path, again)
    assert (found.records, found.added) == (4, 3)
    assert found.passed_over == {"its trace is of no sketch of the auto space": 1}
    # A place where a block cannot be computed is another way to write the nearest one where it can.
    for measurement, row in zip(again.scan(Query()), rows, strict=True):
        program = auto.schedule(np.asarray(measurement.config, dtype=np.int32))
        assert structural_equal(program.mod, auto.schedule(row).mod)


@pytest.mark.parametrize("pattern", [0, 4, 8])
def test_a_function_with_its_pattern_of_fusion(pattern: int, tmp_path: Path) -> None:
    """As Relax gives MetaSchedule the functions that nothing was fused with."""
    import tvm

    plain = workload_module(task(chain))
    database(
        tmp_path,
        tvm.ir.IRModule({"main": plain["main"].with_attr("op_pattern", pattern)}),
        candidates(plain, "replay-trace"),
    )
    assert read(tmp_path, None, chain).added == COUNT


def test_reading_twice_adds_nothing(folder: Path) -> None:
    store = MemoryStore()
    assert read(folder, store).added == COUNT
    again = read(folder, store)
    assert (again.added, again.tasks) == (0, 0)
    assert again.passed_over == {"it is in the records already": COUNT}
    assert len(list(store.scan(Query()))) == COUNT


def edit(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change the third record, as JSON."""
    lines = (folder / RECORDS).read_text().splitlines(keepends=True)
    value = json.loads(lines[2])
    change(value)
    lines[2] = json.dumps(value) + "\n"
    (folder / RECORDS).write_text("".join(lines))


def put(*path: Any) -> Callable[[Any], None]:
    """Sets the item at ``path[:-1]`` to ``path[-1]``."""

    def change(value: Any) -> None:
        *way, last, new = path
        for key in way:
            value = value[key]
        value[last] = new

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(1, 1, None), "it failed"),
        (put(1, 1, []), "it failed"),
        (put(1, 1, [0.1, 1e10]), "it failed"),
        (put(1, 1, [10**300]), "it failed"),
        (put(0, 7), "no known task"),
        (put(0, 10**30), "no known task"),
        (put(1, 2, None), "another target"),
        (put(1, 2, "llvm"), "another target"),
        (put(1, 2, "mcpu", "i386"), "another target"),
        (put(1, 2, "num-cores", 1000), "another target"),
        (put(1, 2, "mattr", ["-avx"]), "another target"),
        (put(1, 0, 0, []), "no sketch"),
        (put(1, 0, 0, [7, None, [], [[]]]), "no sketch"),
        (put(1, 0, 0, 0, 0, "Reorder"), "no sketch"),
        (put(1, 0, 0, -1, 0, "TransformLayout"), "layout"),
        (put(1, 0, 1, []), "none of its knob's choices"),
        (put(1, 0, 1, 0, 1, [10**30, 1, 1, 1]), "none of its knob's choices"),
        (put(1, 0, 1, 0, 1, [1.0, 1, 1, 8]), "none of its knob's choices"),
        (put(1, 0, 1, 0, "x"), "none of its knob's choices"),
    ],
)  # fmt: skip
def test_what_is_passed_over(folder: Path, change: Callable[[Any], Any], reason: str) -> None:
    edit(folder, change)
    found = read(folder)
    assert (found.records, found.added, found.faulty) == (COUNT, COUNT - 1, 0)
    assert [count for text, count in found.passed_over.items() if reason in text] == [1]


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"null", b"7", b"\xff\xfe", b"[0]", b"[0,[]]", b"[true,[[[],[]],null,null,null]]",
        b"[-1,[[[],[]],null,null,null]]", b'["0",[[[],[]],null,null,null]]', b"[0,[[],null,null,null]]",
        b"[0,[[{},[]],null,null,null]]", b"[0,[[[],[]],[NaN],null,null]]", b"[0,[[[],[]],[-1],null,null]]",
        b'[0,[[[],[]],["1"],null,null]]', b"[0,[[[],[]],[true],null,null]]", b"[0,[[[],[]],1.5,null,null]]",
        b"[" * 100_000, b"9" * 6000, b'{"a":' * 50_000, b"[0,[" + b"[]," * 500_000 + b"[]]]",
    ],
    ids=lambda line: repr(line[:40]),
)  # fmt: skip
@pytest.mark.parametrize("file", [WORKLOADS, RECORDS])
def test_a_faulty_line_costs_no_other(folder: Path, line: bytes, file: str) -> None:
    with (folder / file).open("ab") as opened:
        opened.write(line + b"\n")
    found = read(folder)
    number = COUNT + 1 if file == RECORDS else 2
    assert (found.records, found.added, found.faulty) == (COUNT, COUNT, 1)
    (fault,) = found.faults
    assert fault.startswith(f"{file}, line {number}: ")
    assert len(fault) < 500


@pytest.mark.parametrize("file", [WORKLOADS, RECORDS])
def test_a_last_line_that_was_cut_off(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole + whole.splitlines(keepends=True)[-1][:-20])
    found = read(folder)
    assert found.added == COUNT
    (fault,) = found.faults
    assert "(cut off at its end)" in fault


def test_a_last_line_without_its_end(folder: Path) -> None:
    (folder / RECORDS).write_bytes((folder / RECORDS).read_bytes()[:-1])
    assert read(folder).added == COUNT


def test_lines_that_are_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (folder / RECORDS).read_bytes()
    monkeypatch.setattr(metaschedule_import, "_LONGEST_RECORD", len(max(whole.splitlines(), key=len)) + 1)
    (folder / RECORDS).write_bytes(b"[" + b" " * 10**5 + b"]\n" + whole + b"x" * 10**5)
    found = read(folder)
    assert (found.added, found.faulty) == (COUNT, 2)
    assert "bytes, but this has more" in found.faults[0]


def test_many_faults_are_counted_and_some_described(folder: Path) -> None:
    (folder / RECORDS).write_bytes(b"x\n" * 1000)
    found = read(folder)
    assert found.faulty == 1000
    assert len(found.faults) == 20


@settings(max_examples=60)
@given(st.data())
def test_no_change_of_a_record_brings_us_down(shared: Path, data: st.DataObject) -> None:
    """Whatever replaces a part of a record: the others are added, and it is counted."""
    lines = (shared / RECORDS).read_text().splitlines()
    root: list[Any] = [json.loads(lines[0])]
    parent: Any = root
    key: Any = 0
    while isinstance(parent[key], list | dict) and parent[key] and data.draw(st.booleans(), label="deeper"):
        parent = parent[key]
        key = data.draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    parent[key] = data.draw(st.recursive(scalars, lambda s: st.lists(s, max_size=3), max_leaves=6))
    reader = metaschedule_import._Reader(MemoryStore(), target())
    text = json.dumps(root[0])
    made = list(reader.measurements([text.encode() + b"\n", lines[1].encode()], {0: task(depthwise)}, 1.0))
    assert made[-1].seconds == 2.0
    assert len(made) + reader.faulty + reader.passed_over.total() == 2


@pytest.mark.parametrize("name", [WORKLOADS, RECORDS])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RecordsError, match=f"{name} cannot be read: No such file"):
        read(folder)


def test_tasks_that_cannot_be_read_are_left_out(folder: Path) -> None:
    damaged = replace(task(chain), ir="{}")
    found = read_metaschedule(folder, MemoryStore(), [damaged, task(depthwise)], target())
    assert found.added == COUNT


def test_a_space_that_has_no_sketches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoSpace, "_generate", lambda self: ([], ""))
    monkeypatch.setattr(metaschedule_import, "_trace_reader", lambda task, target: TraceReader(AutoSpace(task, target)))
    assert read(folder).passed_over == {"its trace is of no sketch of the auto space": COUNT}
