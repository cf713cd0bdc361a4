"""TVM's own tuner, MetaSchedule, on whole networks, for `bench.metaschedule`.

It is set up as an expert would set it up:

- Its workers import TVM without the intrinsics of GPUs (``light_tensor_intrinsics``). Importing these takes longer than
  the limit of a build, so that no build would succeed.
- Its search, its builds and its runs use every core.
- Batch norms are folded, operators are fused, and weights have a free layout, which each kernel packs at build time.
- Activations may be in NHWC, whose innermost loop runs over channels.
- The heaviest tasks come first in its first round, and results count as soon as they are measured (``_gradient``).
- Work that was stopped (SIGSTOP) is repeated, and does not count as failed or slow. Its cost model and the state of its
  scheduler are kept between calls.

Everything else is as in ``tune_relax``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import _models
from bench._gradient import Gradient
from bench._resumable import FAILED, RECORDS, TASKS, WORKLOADS, Records, RunningTime, State, mend, truncated
from tilewright.compare.peers import executable
from tilewright.compiling.build import build_machine
from tilewright.errors import RecordsFormatError
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.measure.peers import Entrant
from tilewright.target import Target
from tilewright.tvm_compat import light_tensor_intrinsics, set_threads, spin_briefly, usable_cores

FAILURES, COST_MODEL = "failures.jsonl", "cost_model.tar"
LAYOUTS = ("NCHW", "NHWC")
#: More than any run gets to: time ends it.
_ENDLESS = 1_000_000
#: Seconds between two copies of the cost model.
_SAVE_EVERY = 60.0
#: Seconds that a build may take. MetaSchedule's own 30 are plenty, except on a machine with other work.
_BUILD_SECONDS = 60.0
#: Seconds without a sign of life beyond which work is done again. On a crowded machine a process waits for some.
_STOPPED = 15.0
#: How often work is tried that was stopped in.
_TRIES = 3


def prepare(network: Network, target: Target, layout: str) -> Any:
    """The network's Relax module with its weights as constants, fused, and free to lay them out anew."""
    import tvm
    from tvm import relax

    passes = relax.transform
    weights = {name: tvm.runtime.tensor(array) for name, array in network.weights.items()}
    sequence = [passes.BindParams("main", weights), passes.DecomposeOpsForInference(), passes.CanonicalizeBindings()]
    if layout == "NHWC":
        sequence += [passes.ConvertLayout({"relax.nn.conv2d": ["NHWC", "OHWI"]}), passes.CanonicalizeBindings()]
    sequence += [relax.get_pipeline("zero"), passes.AttachAttrLayoutFreeBuffers()]
    with target.tvm, tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(sequence)(network.module)


def tune(folder: Path, ready: Callable[[], None]) -> None:
    """Tune until this process is ended, or until nothing is left to try.

    Args:
        folder: of the run, with its state.
        ready: is called when preparations are over.

    Raises:
        RecordsFormatError: there is no run in ``folder``, or it is one of other tasks.
    """
    state = State.load(folder)
    if state is None:
        raise RecordsFormatError(f"a run begins with its settings, but {folder} has none; start it with --model")
    settings = state.settings
    set_threads()
    light_tensor_intrinsics()
    from tvm.s_tir import meta_schedule as ms

    target = Target.parse(settings.target)
    module = prepare(load(network_path(settings.model)), target, settings.layout)
    contexts, weights = _tasks(folder, module, target, settings.seed + len(state.preparations))
    for name in (WORKLOADS, RECORDS):
        mend(folder / name)
    database = ms.database.JSONDatabase(work_dir=str(folder))
    _number(folder, database, contexts)
    gradient = Gradient(weights, settings.seed)
    earlier = Records(folder / RECORDS)
    earlier.read()
    for task, runs in earlier.runs.items():
        gradient.remember(task, runs, settings.trials_per_iter)
    cost_model = _cost_model(folder / COST_MODEL)
    builder, runner = _workers()
    own = _notes(folder, gradient), _keeper(folder / COST_MODEL, cost_model)
    callbacks = [own[0], *ms.measure_callback.MeasureCallback.create("default"), own[1]]
    ready()
    ms.tune.tune_tasks(
        tasks=contexts,
        task_weights=weights,
        work_dir=str(folder),
        max_trials_global=_ENDLESS,
        num_trials_per_iter=settings.trials_per_iter,
        builder=builder,
        runner=runner,
        database=database,
        cost_model=cost_model,
        measure_callbacks=callbacks,
        task_scheduler=_scheduler(gradient),
    )


def network_path(model: str) -> Any:
    """What ``load`` takes: one of the networks known by name, or a file."""
    return _models.model(model) if model in _models.NETWORKS else model


def _tasks(folder: Path, module: Any, target: Target, seed: int) -> tuple[list[Any], list[float]]:
    """The network's tasks and their weights: the heaviest first, or in the order of the first call."""
    import tvm
    from tvm.s_tir import meta_schedule as ms
    from tvm.s_tir.meta_schedule.utils import fork_seed

    def gflop(task: Any) -> float:
        return float(tvm.s_tir.analysis.estimate_tir_flops(task.dispatched[0])) / 1e9

    extracted = {str(task.task_name): task for task in ms.relax_integration.extract_tasks(module, target.tvm)}
    path = folder / TASKS
    if not path.exists():
        order = sorted(extracted, key=lambda name: (-extracted[name].weight * gflop(extracted[name]), name))
        entries = [
            {"name": name, "weight": float(extracted[name].weight), "gflop": gflop(extracted[name])} for name in order
        ]
        path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    names = [entry["name"] for entry in json.loads(path.read_text(encoding="utf-8"))]
    if sorted(names) != sorted(extracted):
        raise RecordsFormatError(
            f"a run goes on with the tasks it began with, but those of {path} are not the network's; choose another "
            "--dir"
        )
    # As extracted_tasks_to_tune_contexts makes them, but without a file of logs for each.
    contexts = [
        ms.TuneContext(
            mod=extracted[name].dispatched[0],
            target=extracted[name].target,
            space_generator="post-order-apply",
            search_strategy="evolutionary",
            task_name=name,
            rand_state=state,
            num_threads=usable_cores(),
        ).clone()
        for name, state in zip(names, fork_seed(seed, len(names)), strict=True)
    ]
    return contexts, [float(extracted[name].weight) for name in names]


def _number(folder: Path, database: Any, contexts: Sequence[Any]) -> None:
    """Give the tasks their numbers in the database: those that they have in ``tasks.json``."""
    for context in contexts:
        database.commit_workload(context.mod)
    lines = (folder / WORKLOADS).read_bytes().count(b"\n")
    if lines != len(contexts):
        raise RecordsFormatError(
            f"a run goes on with the tasks it began with, but {folder / WORKLOADS} has {lines} of them and the network "
            f"has {len(contexts)}; choose another --dir"
        )


def _cost_model(path: Path) -> Any:
    from tvm.s_tir.meta_schedule.cost_model import XGBModel

    model = XGBModel(num_tuning_cores=usable_cores())
    if path.exists():
        model.load(str(path))
    return model


def _workers() -> tuple[Any, Any]:
    """Builder and runner that do again what they were stopped in."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.builder import LocalBuilder, PyBuilder
    from tvm.s_tir.meta_schedule.runner import LocalRunner, PyRunner

    watch = _Watch()

    @derived_object
    class Builder(PyBuilder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._inner = watch.undisturbed(
                lambda: LocalBuilder(
                    max_workers=usable_cores(), timeout_sec=_BUILD_SECONDS, initializer=light_tensor_intrinsics
                )
            )

        def build(self, build_inputs: Any) -> Any:
            return watch.undisturbed(lambda: self._inner.build(build_inputs))

    @derived_object
    class Runner(PyRunner):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._inner = watch.undisturbed(lambda: LocalRunner(initializer=light_tensor_intrinsics))

        def run(self, runner_inputs: Any) -> Any:
            return watch.undisturbed(lambda: self._inner.run(runner_inputs))

    return Builder(), Runner()


def _notes(folder: Path, gradient: Gradient) -> Any:
    """Takes the results of each round, before MetaSchedule's own callbacks do."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.measure_callback import PyMeasureCallback

    @derived_object
    class Notes(PyMeasureCallback):  # type: ignore[misc]
        def apply(self, scheduler: Any, task: int, candidates: Any, builds: Any, runs: Any) -> None:
            gradient.note(int(task), [_seconds(run) for run in runs])
            with (folder / FAILURES).open("a", encoding="utf-8") as file:
                for built, ran in zip(builds, runs, strict=True):
                    stage, message = ("build", built.error_msg) if built.error_msg else ("run", ran.error_msg)
                    if message:
                        entry = {"task": int(task), "stage": stage, "error": _gist(str(message))}
                        file.write(json.dumps(entry) + "\n")

    return Notes()


def _keeper(path: Path, cost_model: Any) -> Any:
    """Keeps the cost model for the next call; called after each round, when the model has learned from it."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.measure_callback import PyMeasureCallback

    @derived_object
    class Keeper(PyMeasureCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._saved = time.monotonic()

        def apply(self, scheduler: Any, task: int, candidates: Any, builds: Any, runs: Any) -> None:
            if cost_model.booster is not None and time.monotonic() - self._saved > _SAVE_EVERY:
                part = path.with_name("part-" + path.name)
                cost_model.save(str(part))
                os.replace(part, path)
                self._saved = time.monotonic()

    return Keeper()


def _seconds(run: Any) -> float:
    """What a runner's result says of a candidate, as MetaSchedule's scheduler takes it; inf where it failed."""
    if run.error_msg or not run.run_secs:
        return math.inf
    seconds = statistics.median(map(float, run.run_secs))
    return seconds if seconds < FAILED else math.inf


def _scheduler(gradient: Gradient) -> Any:
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.task_scheduler import PyTaskScheduler

    @derived_object
    class Scheduler(PyTaskScheduler):  # type: ignore[misc]
        def next_task_id(self) -> int:
            scheduler = self._outer()
            count = len(scheduler.tasks_)
            for task in range(count):
                scheduler.touch_task(task)  # which hands over what has been measured
            chosen = gradient.choose([task for task in range(count) if not scheduler.tasks_[task].is_terminated])
            return -1 if chosen is None else chosen

    return Scheduler()


def _gist(message: str) -> str:
    """The first line of an error, and the last, where the Python exception is."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()] or ["?"]
    return lines[0][:200] if len(lines) == 1 else f"{lines[0][:100]} ... {lines[-1][:200]}"


class _Watch:
    """Notices that this process was stopped."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._time = RunningTime(clock=clock, longest=_STOPPED)
        self._lock = threading.Lock()
        threading.Thread(target=self._look, daemon=True).start()

    def undisturbed(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``, done again where it was stopped in: its workers' clocks went on meanwhile."""
        tries = 0
        while True:
            tries += 1
            before = self._stops()
            try:
                result = work()
            except TimeoutError:
                if self._stops() == before or tries == _TRIES:
                    raise
            else:
                if self._stops() == before or tries == _TRIES:
                    return result

    def _stops(self) -> int:
        with self._lock:
            self._time.tick()
            return self._time.stops

    def _look(self) -> None:
        while True:
            time.sleep(1.0)
            self._stops()


def build_as_of(folder: Path, seconds: float, out: Path, work: Path) -> int:
    """Build what the run in ``folder`` had found after ``seconds`` of running time, as an executable in ``out``.

    Tasks without a record stay as TVM makes them without tuning: plain loops on one thread, also for MetaSchedule's
    users.

    Args:
        folder: of the run.
        seconds: of tuning, over all calls.
        out: the executable's directory.
        work: a folder for the shortened database.

    Returns:
        How many kernels have no record.

    Raises:
        RecordsFormatError: there is no run in ``folder``, or a shorter one.
        CompilerError, OutputError: it cannot be built, or not be written.
    """
    state = State.load(folder)
    if state is None:
        raise RecordsFormatError(f"a run has a state, but {folder} has none; tune first")
    database_folder = truncated(folder, seconds, work)
    set_threads()
    spin_briefly()  # folding runs kernels
    light_tensor_intrinsics()
    import tvm
    from tvm import relax
    from tvm.s_tir import meta_schedule as ms

    settings = state.settings
    target = Target.parse(settings.target)
    network = load(network_path(settings.model))
    module = prepare(network, target, settings.layout)
    passes = relax.transform
    database = ms.database.JSONDatabase(work_dir=str(database_folder))
    with target.tvm, database, tvm.transform.PassContext(opt_level=3):
        module = passes.MetaScheduleApplyDatabase()(module)
        untuned = sum(1 for _, f in module.functions_items() if _is_kernel(f) and not f.attrs.get("tirx.is_scheduled"))
        packing = [passes.SplitLayoutRewritePreproc(), passes.FoldConstant(), passes.CanonicalizeBindings()]
        module = tvm.transform.Sequential([*packing, passes.FoldConstant(), passes.DeadCodeElimination()])(module)
    left = [str(var.name_hint) for var in module.get_global_vars() if "weight_prepack" in var.name_hint]
    extra = {"metaschedule": vars(settings), "seconds": seconds, "untuned": untuned, "packed_at_run": left}
    build_machine(network, module, [], target, out, extra)
    return untuned


def _is_kernel(function: Any) -> bool:
    import tvm

    return isinstance(function, tvm.tirx.PrimFunc)


def entrant(folder: Path, seconds: float, out: Path, work: Path) -> Entrant:
    """What the run in ``folder`` had after ``seconds``, built into ``out``, as something that can be raced."""
    build_as_of(folder, seconds, out, work)
    return Entrant(f"metaschedule@{seconds:g}s", executable, (str(out.absolute()),))


def main(folder: str, descriptor: int) -> None:
    """The tuning process: says over ``descriptor`` when its preparations are over."""

    def ready() -> None:
        os.write(descriptor, b"1")
        os.close(descriptor)

    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("tvm.s_tir.meta_schedule.task_scheduler").setLevel(logging.INFO)
    tune(Path(folder), ready)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
