"""Exports records as a database of MetaSchedule, which ``tvm.relax.transform.MetaScheduleApplyDatabase`` applies.

A database is a directory with two files of JSON lines: functions, and traces that schedule them. The traces schedule
the functions as the network has them. :mod:`tilewright.records.metaschedule_import` imports such a database.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilewright.errors import OutputError, RecordsError, SpaceError
from tilewright.measure.outcome import Measurement
from tilewright.ops.registry import make_space
from tilewright.records.store import Query, Store
from tilewright.space.module import space_errors, task_module
from tilewright.space.recorded import check_recorded
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tvm_compat import light_tensor_intrinsics, narrow_indices

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir.meta_schedule.database import JSONDatabase
    from tvm.s_tir.schedule import Trace

__all__ = ["RECORDS", "WORKLOADS", "Written", "workload_module", "write_metaschedule"]

#: The files of a database, as MetaSchedule names them.
WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"

#: How the attributes begin that tasks of Tilewright have, and functions of a network lack.
_OURS = "tilewright."


@dataclass(frozen=True)
class Written:
    """What was written into a database.

    Attributes:
        tasks: the number of tasks.
        records: the number of records.
        left_out: the names of measured tasks that were not written, each with the reason.
    """

    tasks: int
    records: int
    left_out: tuple[tuple[str, str], ...]


def workload_module(task: Task) -> IRModule:
    """The task's function as MetaSchedule looks it up: named ``main``, and without Tilewright's attributes.

    Raises:
        SpaceError: the task's function cannot be read.
    """
    return _bare(task_module(task))


def write_metaschedule(store: Store, tasks: Iterable[Task], target: Target, folder: Path, count: int = 3) -> Written:
    """Write the fastest programs of ``tasks`` into the directory ``folder``, both files or none.

    The ``run_secs`` of a record is the robust latency alone. MetaSchedule takes the record with the lowest mean, which
    a disturbed repeat would change.

    Args:
        store: holds the measurements.
        tasks: the tasks to write, such as ``store.tasks()``. Those without a measurement on ``target`` are skipped.
        target: the machine of the measurements.
        folder: the directory, which is made if it does not exist. It must hold no database.
        count: the number of different programs of each task.

    Raises:
        OutputError: ``folder`` holds a database, or cannot be written.
        RecordsError: there is nothing to write.
    """
    _check(folder)
    light_tensor_intrinsics()
    from tvm.s_tir.meta_schedule.database import JSONDatabase

    written = records = 0
    left_out = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tilewright-", dir=folder) as part:
            database = JSONDatabase(work_dir=part)
            for task in tasks:
                if next(iter(store.scan(Query(task=task.key, target=target.key))), None) is None:
                    continue
                try:
                    records += _write_task(database, store, task, target, count)
                    written += 1
                except SpaceError as exc:
                    left_out.append((task.name, str(exc)))
            if not records:
                raise RecordsError(_why_none(target, left_out))
            for name in (WORKLOADS, RECORDS):
                os.replace(Path(part, name), folder / name)
    except (OSError, RuntimeError) as exc:  # TVM's, when it writes the files
        reason = getattr(exc, "strerror", None) or next(iter(str(exc).splitlines()), "no reason given")
        raise OutputError(f"a database goes into a directory, but {folder} cannot be written: {reason}") from exc
    return Written(written, records, tuple(left_out))


def _check(folder: Path) -> None:
    """Refuse a directory with a database, because its records may be of another machine."""
    for name in (WORKLOADS, RECORDS):
        if os.path.exists(folder / name):
            raise OutputError(f"a database is written into a directory without one, but {folder} has a {name}")


def _why_none(target: Target, left_out: list[tuple[str, str]]) -> str:
    if not left_out:
        return (
            f"a database holds measured programs, but of these tasks nothing was measured on {target.key}; "
            "tune something first, or use the machine of these records"
        )
    return f"of {len(left_out)} tasks none can be written; the first, {left_out[0][0]!r}: {left_out[0][1]}"


def _write_task(database: JSONDatabase, store: Store, task: Task, target: Target, count: int) -> int:
    """Write a task's fastest programs; return their number. Raises ``SpaceError`` if there are none."""
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.database import TuningRecord

    check_recorded(task)
    space = make_space(task, target)
    best = store.best(task.key, target.key, space.template, count)
    if not best:
        raise SpaceError(f"no latency was measured with the template {space.template}")
    module = workload_module(task)
    problem, traces = "", []
    for measurement in best:
        try:
            traces.append((_trace(space, module, measurement), measurement.seconds))
        except SpaceError as exc:
            problem = problem or str(exc)
    if not traces:
        raise SpaceError(problem)
    workload = database.commit_workload(module)
    arguments = ArgInfo.from_prim_func(module["main"])
    for trace, seconds in traces:
        database.commit_tuning_record(TuningRecord(trace, workload, [seconds], target.tvm, arguments))
    return len(traces)


def _trace(space: DesignSpace, module: IRModule, measurement: Measurement) -> Trace:
    """The trace of a measured program, which makes the same program of ``module``.

    A template may schedule a rewritten function (with 32-bit indices), so the trace is applied to ``module`` as a
    check.
    """
    from tvm.s_tir import Schedule

    row = np.asarray(measurement.config, dtype=np.int32)
    if row.shape != (len(space.knobs),) or any(i >= len(k) for i, k in zip(row, space.knobs, strict=True)):
        raise SpaceError(f"the config {row.tolist()} is none of {space.template}; it was damaged")
    schedule = space.schedule(row)
    again = Schedule(module)
    with space_errors("the trace of its program does not apply to the function as it stands"):
        schedule.trace.apply_to_schedule(again, remove_postproc=False)
    # Texts are compared. If indices are narrowed after scheduling, an unused 64-bit type may remain in the module.
    if narrow_indices(again.mod)["main"].script() != narrow_indices(_bare(schedule.mod))["main"].script():
        raise SpaceError("the trace of its program makes another program of the function as it stands")
    return schedule.trace


def _bare(module: IRModule) -> IRModule:
    """The function without Tilewright's attributes."""
    import tvm

    main = module["main"]
    for name in [name for name in map(str, main.attrs.keys()) if name.startswith(_OURS)]:
        main = main.without_attr(name)
    return tvm.ir.IRModule({"main": main})
