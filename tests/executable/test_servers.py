"""Executables in servers: many in one process, in its forks, on other processors, with little memory."""

from __future__ import annotations

import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.executables import read, reseal
from tests.models import normal
from tilewright.errors import OutputError, TargetError
from tilewright.executable.executable import Executable, load_executable

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
ROOT = Path(__file__).parents[2]
X = normal(1, 8, 10, 10)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "2")


def run_python(program: str, *arguments: object, timeout: float = 120.0) -> str:
    """The output of a Python program that runs in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def libraries() -> set[str]:
    """The libraries of executables that are in memory. TVM never unloads libraries of its virtual machine."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if "kernels.so" in line}


def counts() -> tuple[int, int]:
    """The numbers of threads and of memory mappings of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/task")), len(Path("/proc/self/maps").read_text().splitlines())


@linux
def test_many_executables_have_the_threads_of_one_and_leave_nothing(shared: Path) -> None:
    def load_many() -> list[Executable]:
        return [load_executable(shared) for _ in range(60)]

    (right,) = load_executable(shared)(X)
    executables = load_many()  # at first the allocator keeps some memory
    del executables
    (threads, mappings), before = counts(), libraries()
    executables = load_many()
    for executable in executables:
        np.testing.assert_array_equal(executable(X)[0], right)
    assert counts()[0] == threads + 1
    del executables[:30], executable
    assert counts()[0] == threads + 1
    np.testing.assert_array_equal(executables[7](X)[0], right)
    executables.clear()
    left = counts()
    assert left[0] == threads
    assert left[1] <= mappings + 10  # of 300 for 60 libraries
    assert libraries() <= before


@linux
def test_an_executable_that_is_closed_gives_back_its_library(shared: Path) -> None:
    (threads, _), before = counts(), libraries()
    with load_executable(shared) as executable, load_executable(shared) as other:
        assert executable(X)[0].shape == (1, 16, 10, 10)
        executable.close()
        executable.close()
        with pytest.raises(OutputError, match="is closed cannot be called any more; load it again"):
            executable(X)
        assert len(libraries() - before) > 0
        assert other(X)[0].shape == (1, 16, 10, 10)
    assert counts()[0] == threads
    assert libraries() <= before


def test_an_executable_that_is_closed_during_a_call_ends_it(shared: Path) -> None:
    right = load_executable(shared)(X)[0]
    for _ in range(20):
        executable = load_executable(shared)
        found: list[Any] = []
        started = threading.Event()

        def call(executable: Executable = executable, found: list[Any] = found, started: Any = started) -> None:
            try:
                for _ in range(10_000):
                    started.set()
                    found.append(executable(X)[0])
                    del found[:-1]
            except OutputError as exc:
                found.append(exc)

        caller = threading.Thread(target=call)
        caller.start()
        started.wait()
        executable.close()
        caller.join()
        assert isinstance(found[-1], OutputError)
        assert all(np.array_equal(right, y) for y in found[:-1])


FORKS = """
import os, signal, sys, threading
import numpy as np
from tilewright import load_executable

executables = [load_executable(sys.argv[1]) for _ in range(2)]
x = np.random.default_rng(0).standard_normal((1, 8, 10, 10)).astype(np.float32)
right = executables[0](x)[0]
stop = threading.Event()


def call(executable):
    while not stop.is_set():
        executable(x)


callers = [threading.Thread(target=call, args=(e,)) for e in executables * 2]
for caller in callers:
    caller.start()
codes = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)
            if all(np.array_equal(e(x)[0], right) for e in executables):
                code = 2
                executables.pop().close()
                late = load_executable(sys.argv[1])
                code = 0 if np.array_equal(late(x)[0], executables[0](x)[0]) else 3
        finally:
            os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for caller in callers:
    caller.join()
assert np.array_equal(executables[0](x)[0], right)
print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_fork_while_other_threads_call(shared: Path) -> None:
    assert run_python(FORKS, shared) == str([0] * 20)


def test_the_manifest_says_which_instructions_the_kernels_need(out: Path) -> None:
    features = read(out)["target"]["features"]
    assert features == sorted(features)
    if platform.machine() == "x86_64":
        assert "sse3" in features or read(out)["target"]["mcpu"] == "x86-64"


@pytest.mark.parametrize("machine", [False, True], ids=["plan", "virtual machine"])
def test_an_instruction_that_the_processor_lacks_is_named(machine: bool, out: Path) -> None:
    changed = read(out)
    if machine:
        changed["plan"] = None
    changed["target"]["features"] += ["no-such-extension", "another"]
    reseal(out, changed)
    with pytest.raises(TargetError, match=r"processor with no-such-extension, another, but .*; tune again") as caught:
        load_executable(out)
    assert str(out) in str(caught.value)


@pytest.mark.parametrize("features", [None, "avx2", ["\x1b[2J"], [3], {"avx2": True}, ["x" * 500]], ids=str)
def test_instructions_that_are_no_names(features: object, out: Path) -> None:
    reseal(out, read(out) | {"target": {"features": features}})
    with pytest.raises(OutputError, match="damaged, or was changed: the features of its target"):
        load_executable(out)


EMULATED = """
import sys
from tilewright import load_executable
from tilewright.errors import TargetError
try:
    load_executable(sys.argv[1])
except TargetError as exc:
    print(exc)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates an x86-64 processor")
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="there is no qemu-x86_64 (Debian: qemu-user)")
def test_a_processor_without_avx_512(out: Path) -> None:
    changed = read(out)
    changed["target"]["features"] = ["avx512f", "avx512vl", "sse3"]
    reseal(out, changed)
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-W", "ignore", "-c", EMULATED, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert "a processor with avx512f, avx512vl, but" in done.stdout, done.stderr[-2000:]


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from tilewright import load_executable
from tilewright.errors import TilewrightError

load_executable(sys.argv[1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), used + (512 << 20)))
for path in sys.argv[1:]:
    try:
        print(load_executable(path)(np.zeros((1, 8, 10, 10), np.float32))[0].shape)
    except TilewrightError as exc:
        print(type(exc.__cause__).__name__, exc)
"""


@linux
def test_memory_that_there_is_not_is_refused_before_it_is_taken(out: Path, tmp_path: Path) -> None:
    original = read(out)
    large, claims = Path(shutil.copytree(out, tmp_path / "large")), Path(shutil.copytree(out, tmp_path / "claims"))
    plan = json.loads(json.dumps(original["plan"]))
    numbers = {number for number, tensor in enumerate(plan["tensors"]) if tensor[0] == "arena"} - {*plan["inputs"]}
    plan["tensors"][min(numbers)][1] = 1 << 30
    plan["arena_bytes"] = 2 << 30
    reseal(large, json.loads(json.dumps(original)) | {"plan": plan})
    plan = original["plan"] | {"arena_bytes": 400 << 20}  # no tensor needs them
    reseal(claims, json.loads(json.dumps(original)) | {"plan": plan})
    usual, refused, claimed = run_python(LIMITED, out, large, claims).splitlines()
    assert usual == claimed == "(1, 16, 10, 10)"
    assert refused.startswith("ValueError ")
    assert "its tensors need 2,147,483,648 bytes of memory, but " in refused


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**40, 0, 2**40]], ids=str)
def test_a_tensor_without_elements_that_cannot_be_counted(shape: list[int], out: Path) -> None:
    changed = read(out)
    for tensor in changed["plan"]["tensors"]:
        tensor[2] = shape
    reseal(out, changed)
    with pytest.raises(OutputError, match=r"cannot be loaded here: .*tune again"):
        load_executable(out)
