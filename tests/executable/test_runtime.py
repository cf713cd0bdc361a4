"""The runtime's threads: every part of a loop is done exactly once."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from tilewright.errors import CompilerError, ResourceError
from tilewright.executable.runtime.library import SOURCE, bind, compile_runtime, find_compiler, link
from tilewright.measure.memory import held
from tilewright.tvm_compat import usable_cores


class Env(ctypes.Structure):
    _fields_ = (("sync", ctypes.c_void_p), ("num_task", ctypes.c_int32))


LAMBDA = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(Env), ctypes.c_void_p)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "runtime.so"
    compile_runtime(path, shared=True)
    return path


@pytest.fixture
def runtime(compiled: Path, tmp_path: Path) -> ctypes.CDLL:
    """A runtime with threads of its own."""
    library = bind(ctypes.CDLL(str(shutil.copyfile(compiled, tmp_path / "runtime.so"))))
    library.tilewright_launch.argtypes = [LAMBDA, ctypes.c_void_p, ctypes.c_int]
    return library


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_part_is_done_once(runtime: ctypes.CDLL, threads: int) -> None:
    assert runtime.tilewright_threads(threads) == threads
    for _ in range(50):
        done: list[tuple[int, int]] = []

        def part(task: int, env: ctypes._Pointer[Env], _: object, done: list[tuple[int, int]] = done) -> int:
            done.append((task, env.contents.num_task))
            return 0

        assert runtime.tilewright_launch(LAMBDA(part), None, 0) == 0
        parts = {count for _, count in done}
        assert len(parts) == 1
        assert Counter(task for task, _ in done) == Counter(range(parts.pop()))


def test_a_failed_part_fails_the_loop(runtime: ctypes.CDLL) -> None:
    runtime.tilewright_threads(2)
    assert runtime.tilewright_launch(LAMBDA(lambda task, env, data: -1 if task == 3 else 0), None, 0) != 0
    assert runtime.tilewright_launch(LAMBDA(lambda task, env, data: 0), None, 0) == 0


def test_a_loop_within_a_loop_runs_where_it_is(runtime: ctypes.CDLL) -> None:
    runtime.tilewright_threads(2)
    counts: list[int] = []

    def inner(task: int, env: ctypes._Pointer[Env], _: object) -> int:
        counts.append(env.contents.num_task)
        return 0

    keep = LAMBDA(inner)

    def outer(task: int, env: ctypes._Pointer[Env], _: object) -> int:
        return int(runtime.tilewright_launch(keep, None, 0))

    assert runtime.tilewright_launch(LAMBDA(outer), None, 0) == 0
    assert set(counts) == {1}


def test_callers_in_several_threads_take_turns(runtime: ctypes.CDLL) -> None:
    runtime.tilewright_threads(2)
    done: Counter[int] = Counter()
    lock = threading.Lock()

    def call(number: int) -> None:
        def part(task: int, env: ctypes._Pointer[Env], _: object) -> int:
            with lock:
                done[number] += 1
            return 0

        keep = LAMBDA(part)
        for _ in range(20):
            assert runtime.tilewright_launch(keep, None, 0) == 0

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(done.values())) == 1


def test_scratch_memory_is_used_again(runtime: ctypes.CDLL) -> None:
    runtime.tilewright_allocate.restype = ctypes.c_void_p
    runtime.tilewright_allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    runtime.tilewright_free.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    first = runtime.tilewright_allocate(1, 0, 10_000, 2, 32)
    other = runtime.tilewright_allocate(1, 0, 10_000, 2, 32)
    assert first != other
    assert first % 64 == other % 64 == 0
    runtime.tilewright_free(1, 0, first)
    assert runtime.tilewright_allocate(1, 0, 9_000, 2, 32) == first
    assert runtime.tilewright_allocate(1, 0, 10, 2, 32) not in (first, other)


FORKED = """
import ctypes, os, sys
from pathlib import Path
from tests.executable.test_runtime import LAMBDA
from tilewright.executable.runtime.library import bind

runtime = bind(ctypes.CDLL(sys.argv[1]))
runtime.tilewright_launch.argtypes = [LAMBDA, ctypes.c_void_p, ctypes.c_int]
runtime.tilewright_threads(3)


def parts():
    done = []
    runtime.tilewright_launch(LAMBDA(lambda task, env, data: done.append((task, env.contents.num_task)) or 0), None, 0)
    return sorted(done)


before, threads = parts(), len(os.listdir("/proc/self/task"))
child = os.fork()
if child == 0:
    os._exit(0 if parts() == before and len(os.listdir("/proc/self/task")) == threads else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert parts() == before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_process_that_was_forked_makes_threads_of_its_own(runtime: ctypes.CDLL, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "runtime.so")]
    subprocess.run(command, check=True, timeout=60, cwd=Path(__file__).parents[2])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
def test_a_thread_that_ends_leaves_no_memory_behind(runtime: ctypes.CDLL) -> None:
    runtime.tilewright_allocate.restype = ctypes.c_void_p
    runtime.tilewright_allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    runtime.tilewright_free.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]

    def use() -> None:
        place = runtime.tilewright_allocate(1, 0, 32 << 20, 2, 32)
        ctypes.memset(place, 1, 32 << 20)
        runtime.tilewright_free(1, 0, place)

    before, _ = held(os.getpid())
    for _ in range(20):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert held(os.getpid())[0] - before < 5 * (32 << 20)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(CompilerError, match="apt-get"):
        find_compiler()


def test_cc_may_have_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "my cc"
    compiler.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/said"\nshift\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"'{compiler}' --mark -O1")
    assert find_compiler() == (str(compiler), "--mark", "-O1")
    compile_runtime(tmp_path / "runtime.o")
    link([tmp_path / "runtime.o"], tmp_path / "runtime.so")
    assert bind(ctypes.CDLL(str(tmp_path / "runtime.so")))
    assert [line[:10] for line in (tmp_path / "said").read_text().splitlines()] == ["--mark -O1"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no-such-cc -O2", r"CC is the command of a C compiler, but there is no 'no-such-cc'; correct or unset it"),
        ("gcc '-O2", "No closing quotation; correct or unset it"),
    ],
)
def test_a_cc_that_is_no_command(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", text)
    with pytest.raises(CompilerError, match=message):
        find_compiler()


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(CompilerError, match="cannot be compiled"):
        compile_runtime(tmp_path / "runtime.o")
    with pytest.raises(CompilerError, match="cannot be linked"):
        link([tmp_path / "kernels.o"], tmp_path / "kernels.so")


def test_a_compiler_that_fails_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    monkeypatch.setenv("CC", str(compiler))
    for said, error, says in (
        (
            "collect2: warning: old\nld: error: no such symbol",
            CompilerError,
            r"by .*cc: ld: error: no such symbol; check",
        ),
        ("ld: final link failed: No space left on device", ResourceError, "the disk is full where .* is"),
    ):
        compiler.write_text(f"#!/bin/sh\nprintf '%s\\n' '{said}' >&2\nexit 1\n")
        compiler.chmod(0o755)
        with pytest.raises(error, match=says) as caught:
            link([tmp_path / "a.o"], tmp_path / "k.so")
        assert "-Wl" not in str(caught.value)  # the compiler's command line


def test_the_runtime_is_compiled_once_for_all_processes_of_a_user(tmp_path: Path) -> None:
    compiler, count = tmp_path / "compiler", tmp_path / "count"
    asked = f'[ "$1" = --version ] || echo once >> "{count}"'  # the kept file is that of a version
    compiler.write_text(f'#!/bin/sh\n{asked}\nexec {" ".join(find_compiler())} "$@"\n')
    compiler.chmod(0o755)
    code = "import sys; from pathlib import Path; from tilewright.executable.runtime.library import write_runtime; "
    command = [sys.executable, "-c", f"{code}write_runtime(Path(sys.argv[1]))", str(tmp_path / "runtime.o")]
    environment = os.environ | {"CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def write() -> bytes:
        subprocess.run(command, check=True, timeout=60, cwd=Path(__file__).parents[2], env=environment)
        return (tmp_path / "runtime.o").read_bytes()

    assert write() == write()
    assert count.read_text() == "once\n"
    (kept,) = (tmp_path / "cache/tilewright").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert write().startswith(b"\x7fELF")  # what is damaged is not used
    assert count.read_text() == "once\n" * 2


COUNTING = """
#include <stdatomic.h>
atomic_int parts[64];
int count(int task, void *env, void *data) { atomic_fetch_add(&parts[task], 1); return 0; }
"""


def test_parts_are_done_once_in_many_loops(runtime: ctypes.CDLL, tmp_path: Path) -> None:
    """Shares of parts are told apart by the last 16 bits of the loop's number."""
    (tmp_path / "count.c").write_text(COUNTING)
    command = [*find_compiler(), "-shared", "-fPIC", "-O2", str(tmp_path / "count.c"), "-o", str(tmp_path / "count.so")]
    subprocess.run(command, check=True)
    counting = ctypes.CDLL(str(tmp_path / "count.so"))
    part = ctypes.cast(counting.count, LAMBDA)
    runtime.tilewright_threads(2)
    loops = (1 << 16) + 1000
    for _ in range(loops):
        runtime.tilewright_launch(part, None, 0)
    counts = list((ctypes.c_int * 64).in_dll(counting, "parts"))
    assert counts == [loops] * counts.index(0) + [0] * (64 - counts.index(0))


#: Counts cores as a library for C does.
CORES = """
#define _GNU_SOURCE
#define TILEWRIGHT_LIBRARY
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include "cores.h"
int count(void) { return limit_by_quotas(find_cores(NULL, 0)); }
"""


@pytest.mark.parametrize(
    "files",
    [
        {},
        {f"cpu{n}/topology/thread_siblings_list": "0-63" for n in range(64)},
        {f"cpu{n}/topology/thread_siblings_list": f"{n % 32},{n % 32 + 32}" for n in range(64)},
        {f"cpu{n}/cpu_capacity": str(1024 >> n % 2 * 2) for n in range(64)},
        {"/proc/self/cgroup": "0::/a/b", "/sys/fs/cgroup/a/cpu.max": "100000 100000"},
        {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "max 100000"},
        {
            "/proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/y",
            "/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_quota_us": "60000",
            "/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_period_us": "100000",
        },
    ],
)
def test_a_library_for_c_counts_cores_as_python_does(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / (name[1:] if name.startswith("/") else f"sys/devices/system/cpu/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "cores.c").write_text(CORES)
    options = ["-shared", "-fPIC", f"-I{SOURCE.parent}", f'-DROOT="{tmp_path}"']
    library = tmp_path / "cores.so"
    subprocess.run([*find_compiler(), *options, str(tmp_path / "cores.c"), "-o", str(library)], check=True)
    assert ctypes.CDLL(str(library)).count() == usable_cores(tmp_path)
