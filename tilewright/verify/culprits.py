"""Finds the cause of wrong outputs: a kernel, the import of the model, or the rewriting in between.

The executable runs call by call, in a process of its own. Each kernel's outputs are compared with those of its task's
unscheduled function on the same inputs. That function is compiled with float64 in place of float32; if it computes with
the bits of numbers, in float32.

If no kernel is to blame, the model as TVM imports it, without any rewriting, is judged like an executable.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tilewright.difference import compare_arrays
from tilewright.errors import MeasureError
from tilewright.executable.dispatch import BucketsProgram
from tilewright.executable.program import PlanProgram, Program, Step
from tilewright.graph.tasks import Extraction
from tilewright.measure.isolated import IsolatedError, IsolatedProcess
from tilewright.target import Target
from tilewright.tensor import Array
from tilewright.tvm_compat import keep_nan, light_import
from tilewright.verify import freedom
from tilewright.verify.inputs import Trials
from tilewright.verify.judge import judge
from tilewright.verify.tolerance import compute_tolerance, measure_noise

if TYPE_CHECKING:
    import tvm


__all__ = ["Culprits", "PlainSide", "SteppingSide", "find_culprits"]

Arrays: TypeAlias = Sequence[Array]

#: Seconds within which one call must run, and its function be compiled and run.
_CALL_SECONDS = 120.0
#: Seconds after which no further kernel is looked at.
_SECONDS = 120.0
#: The size of the disturbances by which a kernel's noise is measured, in units of ``freedom.SUM``.
_DISTURBANCE = 4


@dataclass(frozen=True)
class Culprits:
    """The cause of wrong outputs.

    Attributes:
        tasks: the keys of the tasks whose kernels are wrong.
        stage: which stage made the mistake; a phrase for people.
        kernels: the name of each of these tasks' kernels, with its fault in words.
    """

    tasks: tuple[str, ...]
    stage: str
    kernels: tuple[str, ...] = ()


def find_culprits(directory: Path, extraction: Extraction, trials: Trials, seconds: float = _SECONDS) -> Culprits:
    """Find the cause of the wrong outputs of an executable.

    Args:
        directory: the executable's directory.
        extraction: the network that it was built from.
        trials: the inputs that it was judged on.
        seconds: the time limit, after which no further kernel is looked at.

    Raises:
        MeasureError: no process can be started.
    """
    end = time.monotonic() + seconds
    found: dict[str, str] = {}
    keys = {name: use.task.key for use in extraction.uses for name in use.functions}
    programs = {use.task.key: use.task.ir for use in extraction.uses}
    with IsolatedProcess(SteppingSide, (str(directory.absolute()), extraction.target, keys, programs)) as process:
        for trial in trials.trials:
            for key, problem in _find_wrong_kernels(process, keys, trial.inputs, end):
                found.setdefault(key, problem)
            if found or time.monotonic() >= end:
                break
    if found:
        return Culprits(tuple(found), "a kernel computes something else than its task", tuple(found.values()))
    return Culprits((), _find_stage(extraction, trials, complete=time.monotonic() < end))


def _find_wrong_kernels(
    process: IsolatedProcess, keys: dict[str, str], inputs: Arrays, end: float
) -> Iterator[tuple[str, str]]:
    """The keys of the tasks whose kernels are wrong on ``inputs`` of the network, each with the kernel's fault."""
    try:
        kernels = process.call("begin", list(inputs))
    except MeasureError:  # the executable cannot be loaded, or has no plan
        return
    for kernel in kernels:
        key = keys.get(_function_of(kernel, keys), "")
        try:
            problem = process.call("advance", time.monotonic() < end, seconds=_CALL_SECONDS)
        except IsolatedError as exc:  # the process has ended
            if key:
                yield key, f"{kernel}: {exc}"
            return
        except MeasureError as exc:
            problem = str(exc)
        if problem and key:
            yield key, f"{kernel}: {problem}"


def _function_of(kernel: str, keys: dict[str, str]) -> str:
    """The name of the function that a kernel was compiled from: its own name without the number of its schedule."""
    return kernel if kernel in keys else kernel.rpartition("_")[0]


class SteppingSide:
    """Runs an executable call by call, and compares its kernels' outputs with their functions'.

    Args:
        directory: the executable's directory.
        target: what functions are compiled for.
        keys: the keys of tasks, by the names of their functions.
        programs: the tasks' functions as TVM's JSON, by the keys of the tasks.

    Raises:
        ValueError: the executable has no plan.
    """

    def __init__(self, directory: str, target: Target, keys: dict[str, str], programs: dict[str, str]) -> None:
        from tilewright.executable.executable import load_executable

        program = load_executable(directory).program
        if not isinstance(program, PlanProgram | BucketsProgram):
            raise ValueError("the executable has no plan whose calls could be run one by one")
        self._program = program
        self._target, self._keys, self._programs = target.tvm, keys, programs
        self._steps: Iterator[Step] = iter(())
        self._seen: set[str] = set()
        self._compiled: dict[str, tvm.runtime.Function] = {}
        self._free = freedom.Freedom()
        self._free.choose(0, 1.0)

    def begin(self, inputs: Arrays) -> list[str]:
        """Start a run on ``inputs``. Returns the kernels of its calls, in order."""
        program: Program = self._program
        if isinstance(program, BucketsProgram):
            program = program.select(inputs)
        if not isinstance(program, PlanProgram):
            raise ValueError("the executable has no plan whose calls could be run one by one")
        self._steps = program.step(inputs)
        self._seen.clear()
        return list(program.kernels)

    def advance(self, look: bool) -> str:
        """Run the next call.

        Args:
            look: whether to compare its outputs. Each kernel is compared once a run.

        Returns:
            what is wrong with the outputs, in words; empty if nothing is, or if they were not compared.
        """
        step = next(self._steps)
        key = self._keys.get(_function_of(step.kernel, self._keys), "")
        if not look or step.kernel in self._seen or key not in self._programs:
            return ""
        self._seen.add(step.kernel)
        own = self._run(self._programs[key], step.before)
        try:
            exact = self._run(self._programs[key].replace('"float32"', '"float64"'), step.before)
        except Exception:  # the function computes with bits; TVM's and LLVM's errors share no base class
            exact = {
                place: array.astype(np.float64) if array.dtype.kind == "f" else array for place, array in own.items()
            }
        for place, expected in exact.items():
            found = step.after[place]
            rounded = self._free.disturb(own[place], _DISTURBANCE * freedom.SUM)
            allowed = compute_tolerance(
                expected, measure_noise(expected, [rounded], [1.0], "float64"), str(found.dtype)
            )
            difference = compare_arrays(found, expected, allowed)
            if difference.count:
                at = difference.place
                return (
                    f"wrong elements: {difference.count} of {found.size}, such as "
                    f"{list(at)}, which is {found[at]} instead of {expected[at]}"
                )
        return ""

    def _run(self, program: str, arrays: Arrays) -> dict[int, Array]:
        """The outputs of an unscheduled function, by their positions among its parameters."""
        import tvm

        from tilewright.measure.arguments import parameters_of

        module = tvm.ir.load_json(program)
        parameters = parameters_of(module["main"])
        tensors = [
            tvm.runtime.tensor(array.astype(p.dtype).reshape(p.shape))
            for p, array in zip(parameters, arrays, strict=True)
        ]
        if program not in self._compiled:
            self._compiled[program] = tvm.compile(keep_nan(module), target=self._target)["main"]
        self._compiled[program](*tensors)
        return {place: tensors[place].numpy() for place, p in enumerate(parameters) if p.written}


def _find_stage(extraction: Extraction, trials: Trials, complete: bool) -> str:
    """Which stage made a mistake that no kernel made, in words.

    Args:
        extraction: the network.
        trials: the inputs that its executable was judged on.
        complete: whether all kernels were looked at.
    """
    import tvm

    network = extraction.network
    if network.segments:  # TVM cannot run the parts that are ONNX Runtime's
        return "no kernel is to blame: the import, the rewriting, or a part that ONNX Runtime runs"
    arguments = (extraction.target, tvm.ir.save_json(network.module), list(network.weights.values()))
    try:
        with IsolatedProcess(PlainSide, arguments) as process:
            process.wait()
            verdict = judge(lambda inputs: list(process.call("run", list(inputs))), trials)
    except MeasureError as exc:
        return f"no kernel is to blame, and the model as TVM imports it cannot be run ({exc})"
    if verdict.wrong:
        return f"the import: the model as TVM imports it is wrong before anything is rewritten: {verdict.evidence}"
    if not complete:
        return "unknown: there was no time to look at all kernels, and the model as TVM imports it is right"
    return "the rewriting: the model as TVM imports it is right, and so is each kernel by itself"


class PlainSide:
    """A network as TVM imports it, compiled without any rewriting.

    Args:
        target: what it is compiled for.
        module: the Relax module as TVM's JSON.
        weights: the arguments after the inputs.
    """

    def __init__(self, target: Target, module: str, weights: Arrays) -> None:
        with light_import():
            import tvm

        from tilewright.compiling.kernels import compile_machine
        from tilewright.executable.machine import MachineProgram

        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            library = Path(folder, "plain.so")
            compile_machine(tvm.ir.load_json(module), target, library)
            self._program = MachineProgram(library, weights)

    def run(self, inputs: Arrays) -> list[Array]:
        """The outputs for ``inputs``."""
        return self._program.run(inputs)
