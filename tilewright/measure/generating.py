"""MetaSchedule's generator in a process of its own, which is ended at its limits of time and memory."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time

from tilewright.measure.memory import LOOK_SECONDS, die_first, held, in_words, usable_memory
from tilewright.measure.process import arm, ending
from tilewright.ops.generic.generation import Generated
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["generate_in_process", "main"]

_BOOT = "import sys; sys.path[:] = {path!r}; from tilewright.measure.generating import main; main({files})"
#: Seconds that importing TVM and generating may take: ten times what the largest function that is tried needs.
_SECONDS = 30.0
#: Bytes that it may have, at most half of the machine's: six times as many.
_MEMORY = 2 << 30


def generate_in_process(task: Task, target: Target, seconds: float = _SECONDS, memory: int | None = None) -> Generated:
    """What MetaSchedule's generator makes of ``task`` within the limits. A KeyboardInterrupt ends the process, too.

    Args:
        task: what is to be scheduled.
        target: what for.
        seconds: it may take.
        memory: bytes that it may have; None: 2 GiB, or half of the machine's.
    """
    allowed = min(_MEMORY, usable_memory() // 2) if memory is None else memory
    try:
        with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as answer:
            pickle.dump((task, target), question)
            question.flush()
            question.seek(0)
            problem = _run((question.fileno(), answer.fileno()), target, seconds, allowed)
            if problem:
                return Generated(problem=f"MetaSchedule's generator was given up: {problem}")
            answer.seek(0)
            made: Generated = pickle.load(answer)
            return made
    except (OSError, EOFError, pickle.UnpicklingError) as exc:
        return Generated(problem=f"MetaSchedule's generator cannot be run in a process of its own: {exc}")


def _run(files: tuple[int, int], target: Target, seconds: float, memory: int) -> str:
    """Run the process to its end. Returns why it gave nothing, or ""."""
    lifeline, ours = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(path=sys.path, files=f"{files}, {lifeline}")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(*files, lifeline),
            env=os.environ | {"TVM_NUM_THREADS": str(target.cores)},
            start_new_session=True,  # no Ctrl-C from the terminal: this process decides what one means
        )
        arm(lifeline, process.pid)
        until = time.monotonic() + seconds
        try:
            while process.poll() is None:
                if time.monotonic() > until:
                    return f"it took longer than {seconds:.3g} s"
                if (now := held(process.pid)[0]) > memory:
                    return f"it took {in_words(now)} of memory, where {in_words(memory)} are allowed"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
            return f"its process ended with {ending(process.returncode)}" if process.returncode else ""
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finally:
        os.close(lifeline)
        os.close(ours)


def main(files: tuple[int, int], lifeline: int) -> None:
    """Read a question from the first file, and write what the generator makes of it into the second one.

    Args:
        files: descriptors.
        lifeline: of a pipe that whoever asks has the other end of.
    """
    from tilewright.errors import SpaceError
    from tilewright.ops.generic.generation import generate, write_generated
    from tilewright.space.module import task_module
    from tilewright.tvm_compat import without_torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_first()
    with without_torch():
        import tvm  # noqa: F401  without PyTorch it takes half of the time

    with os.fdopen(files[0], "rb") as file:
        task, target = pickle.load(file)
    try:
        made = write_generated(generate(task_module(task), target))
    except SpaceError as exc:
        made = Generated(problem=str(exc))
    with os.fdopen(files[1], "wb") as file:
        pickle.dump(made, file)
    del lifeline  # open until here: the process ends when whoever asked does
