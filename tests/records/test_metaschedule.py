"""Our records as MetaSchedule's databases: TVM applies them by itself, and gets the kernels that we build."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from tvm_ffi import structural_equal

from tests.agreement import network_error
from tests.models import TARGET, normal, read, runs, save
from tilewright.compiling.build import build
from tilewright.errors import OutputError, RecordsError
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.ops.registry import make_space
from tilewright.records import metaschedule
from tilewright.records.memory import MemoryStore
from tilewright.records.metaschedule import RECORDS, WORKLOADS, workload_module, write_metaschedule
from tilewright.records.store import Query
from tilewright.space.configs import sample
from tilewright.task import WEIGHTS
from tilewright.tvm_compat import narrow_indices

pytestmark = runs


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    """A network of every kind of task but Winograd's transforms."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "v"], ["q"]),
        helper.make_node("GlobalAveragePool", ["q"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"], axis=1),
    ]
    weights = {"w": normal(16, 8, 3, 3), "b": normal(16), "v": normal(32, 16, 1, 1), "m": normal(32, 40)}
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    return extract(read(save(path, nodes, {"x": [1, 8, 10, 10]}, [1, 40], **weights)), TARGET)


def measured(extraction: Extraction) -> tuple[MemoryStore, dict[str, list[int]]]:
    """Made-up latencies of real programs of each task, and the fastest config of each by the task's key."""
    store, fastest = MemoryStore(), {}
    for number, use in enumerate(extraction.uses):
        space = make_space(use.task, TARGET)
        rows = sample(space, np.random.default_rng(number), 4).tolist()
        fastest[use.task.key] = rows[0]
        one = Measurement(use.task.key, TARGET.key, space.template, (), Outcome.OK)
        # The fastest was disturbed, so that its mean is the highest.
        times = [(1.0, 1.0, 1.0, 9.0), *((1.5 + i,) for i in range(3))]
        store.add([replace(one, config=tuple(row), repeats=t) for row, t in zip(rows, times, strict=False)])
        store.describe(use.task)
    return store, fastest


def applied(extraction: Extraction, folder: Path) -> Any:
    from tvm import relax

    with TARGET.tvm:
        return relax.transform.MetaScheduleApplyDatabase(str(folder))(extraction.module)


def assembly(module: Any) -> str:
    import tvm

    text: str = tvm.compile(module, target=TARGET.tvm).mod.inspect_source("asm")
    return text


def test_tvm_builds_the_same_kernels(extraction: Extraction, tmp_path: Path) -> None:
    store, fastest = measured(extraction)
    written = write_metaschedule(store, store.tasks(), TARGET, tmp_path / "database")
    assert written == metaschedule.Written(len(extraction.uses), written.records, ())
    assert len(extraction.uses) < written.records <= 3 * len(extraction.uses)

    module = applied(extraction, tmp_path / "database")
    functions = {}
    for use in extraction.uses:
        config = np.asarray(fastest[use.task.key], dtype=np.int32)
        functions[use.task.key] = make_space(use.task, TARGET).schedule(config).mod["main"]
        ours = alone(functions[use.task.key])
        for name in use.functions:
            assert module[name].attrs["tirx.is_scheduled"]
            theirs = alone(module[name])
            if use.task.kind == "contraction":  # scheduled with 32-bit indices, theirs are made so afterwards
                ours, theirs = narrow_indices(ours), narrow_indices(theirs)
                assert assembly(ours) == assembly(theirs), use.task
                assert ours.script() == theirs.script()
            else:
                assert structural_equal(ours, theirs), use.task

    inputs = extraction.network.random_inputs()
    executable = build(extraction, functions, tmp_path / "ours", {})
    # As a user of TVM's would build it: on the virtual machine of Relax.
    machine = build(replace(extraction, module=narrow_indices(module), plan=None), {}, tmp_path / "machine", {})
    np.testing.assert_array_equal(machine(*inputs)[0], executable(*inputs)[0])
    error = network_error(machine, extraction.network)
    assert error is not None
    assert error <= 1e-5


def alone(function: Any) -> Any:
    """A module of the function alone, without attributes that say where it comes from."""
    import tvm

    for name in ("tilewright.contraction", WEIGHTS, "tirx.is_scheduled"):
        function = function.without_attr(name) if name in function.attrs else function
    return tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")})


def test_the_files(extraction: Extraction, tmp_path: Path) -> None:
    store, _ = measured(extraction)
    write_metaschedule(store, store.tasks(), TARGET, tmp_path, count=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORDS, WORKLOADS]
    records = [json.loads(line) for line in (tmp_path / RECORDS).read_text().splitlines()]
    assert {number for number, _ in records} == set(range(len(extraction.uses)))
    _, ((instructions, decisions), seconds, target, arguments) = records[0]
    assert seconds == [1.0]
    assert instructions[0][0] == "GetSBlock"
    assert isinstance(decisions, list)
    assert (target["kind"], target["mcpu"], target["num-cores"]) == ("llvm", TARGET.mcpu, TARGET.cores)
    assert all(kind == "TENSOR" for kind, _, _ in arguments)


def test_what_cannot_be_written_is_left_out(extraction: Extraction, tmp_path: Path) -> None:
    store, _ = measured(extraction)
    first, second, third = (use.task for use in extraction.uses[:3])
    other = MemoryStore()
    for m in store.scan(Query()):
        if m.task == first.key:
            m = replace(m, template="contraction/0")
        if m.task == second.key:
            m = replace(m, config=(10**6, *m.config[1:]))
        if m.task != third.key:
            other.add([m])
    written = write_metaschedule(other, store.tasks(), TARGET, tmp_path)
    assert written.tasks == len(extraction.uses) - 3
    reasons = dict(written.left_out)
    assert set(reasons) == {first.name, second.name}
    assert "no latency was measured with the template contraction" in reasons[first.name]
    assert "was damaged" in reasons[second.name]


@pytest.mark.parametrize(("other", "says"), [(1, "does not apply"), (0, "another program")])
def test_a_trace_of_a_rewritten_function(
    extraction: Extraction, other: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template that scheduled something else than the function: another task, or other loops."""
    from tvm.s_tir import Schedule

    task = extraction.uses[other].task
    rewritten = workload_module(extraction.uses[-1].task if other else task)

    class Rewriting:
        template = "contraction/2"
        knobs = ()

        def schedule(self, config: Any) -> Any:
            import tvm

            schedule = Schedule(rewritten)
            if other:
                (block,) = schedule.get_child_blocks(schedule.get_sblock("root"))
                schedule.split(schedule.get_loops(block)[-1], [None, 4])
                return schedule
            main = rewritten["main"]
            text = re.sub(r"T\.max\(", "T.min(", main.script())
            return Schedule(tvm.ir.IRModule({"main": tvm.script.from_source(text)}))

    store = MemoryStore()
    store.add([Measurement(task.key, TARGET.key, "contraction/2", (), Outcome.OK, (1.0,))])
    monkeypatch.setattr(metaschedule, "make_space", lambda task, target: Rewriting())
    with pytest.raises(RecordsError, match=says):
        write_metaschedule(store, [task], TARGET, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_measured(extraction: Extraction, tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="nothing was measured on"):
        write_metaschedule(MemoryStore(), [use.task for use in extraction.uses], TARGET, tmp_path / "d")


def test_a_directory_that_has_a_database_or_cannot_be_one(extraction: Extraction, tmp_path: Path) -> None:
    store, _ = measured(extraction)
    (tmp_path / RECORDS).write_text("")
    with pytest.raises(OutputError, match=f"has a {RECORDS}"):
        write_metaschedule(store, store.tasks(), TARGET, tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        write_metaschedule(store, store.tasks(), TARGET, tmp_path / RECORDS / "d")
