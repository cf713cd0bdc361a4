"""Libraries of one process share threads and scratch memory, and leave nothing behind."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.executable.test_runtime import LAMBDA
from tests.executables import compile_earlier
from tilewright.executable.runtime.features import KNOWN, find_missing_features
from tilewright.executable.runtime.library import SOURCE, compile_runtime, find_compiler
from tilewright.executable.runtime.loaded import LoadedLibrary

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

Load: TypeAlias = Callable[[int], LoadedLibrary]


@pytest.fixture(autouse=True)
def without_garbage() -> None:
    """End the executables that earlier tests left in reference cycles: their threads would be shared here, too."""
    gc.collect()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "runtime.so"
    compile_runtime(path, shared=True)
    return path


@pytest.fixture
def load(compiled: Path, tmp_path: Path) -> Load:
    """Load one more library, as an executable does. Its loops have ``threads`` threads."""

    def load_copy(threads: int) -> LoadedLibrary:
        path = tmp_path / f"copy{len(list(tmp_path.iterdir()))}.so"
        shutil.copyfile(compiled, path)
        return loaded(path, threads)

    return load_copy


def loaded(path: Path, threads: int) -> LoadedLibrary:
    library = LoadedLibrary(path)
    library.functions.tilewright_launch.argtypes = [LAMBDA, ctypes.c_void_p, ctypes.c_int]
    assert library.set_threads(threads) == threads
    return library


#: A part of a loop that counts itself. It is in C, since a callback into Python may hang after a fork: CPython 3.11
#: waits for a lock that another thread held.
PART = """
#include <stdatomic.h>
struct env { void *sync; int parts; };
int part(int task, struct env *env, atomic_int *counts) {
  counts[0] = env->parts;
  atomic_fetch_add(&counts[1 + task], 1);
  return 0;
}
"""
MOST_PARTS = 4096


@lru_cache
def part() -> LAMBDA:  # type: ignore[valid-type]
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "part.c"), Path(folder, "part.so")
        source.write_text(PART)
        subprocess.run([*find_compiler(), "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
        return LAMBDA(("part", ctypes.CDLL(str(library))))


def parts(library: LoadedLibrary) -> int:
    """Run a loop in a library. Returns how many parts it had; each was done once."""
    counts = (ctypes.c_int * (1 + MOST_PARTS))()
    assert library.functions.tilewright_launch(part(), ctypes.addressof(counts), 0) == 0
    assert list(counts[1 : 1 + counts[0]]) == [1] * counts[0]
    assert not any(counts[1 + counts[0] :])
    return int(counts[0])


def allocate(library: LoadedLibrary, size: int) -> int | None:
    function = library.functions.tilewright_allocate
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    place: int | None = function(1, 0, size, 2, 32)
    return place


def free(library: LoadedLibrary, place: int | None) -> None:
    library.functions.tilewright_free.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    library.functions.tilewright_free(1, 0, place)


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def mapped(folder: Path) -> set[str]:
    """The libraries of a folder that are in memory."""
    text = Path("/proc/self/maps").read_text()
    return {Path(line.split()[5]).name for line in text.splitlines() if str(folder) in line}


def test_libraries_share_threads_and_the_last_one_ends_them(load: Load, tmp_path: Path) -> None:
    before = threads()
    libraries = [load(3) for _ in range(5)]
    assert threads() == before + 2
    assert [parts(library) for library in libraries] == [24] * 5
    del libraries[1:]
    assert threads() == before + 2
    assert parts(libraries[0]) == 24
    assert mapped(tmp_path) == {"copy0.so"}
    libraries.clear()
    assert threads() == before
    assert mapped(tmp_path) == set()


def test_the_library_that_the_others_use_goes_last(load: Load, tmp_path: Path) -> None:
    before = threads()
    host, guest = load(2), load(2)
    del host
    assert parts(guest) == 16
    late = load(2)
    assert threads() == before + 1
    del guest
    assert parts(late) == 16
    assert mapped(tmp_path) == {"copy0.so", "copy2.so"}
    del late
    assert threads() == before
    assert mapped(tmp_path) == set()


def test_libraries_with_other_numbers_of_threads(load: Load) -> None:
    before = threads()
    two, four, one = load(2), load(4), load(1)
    assert [parts(two), parts(four), parts(one)] == [16, 32, 1]
    assert threads() == before + 1 + 3
    del four
    assert threads() == before + 1
    assert parts(two) == 16
    assert two.set_threads(3) == 3  # the number changes later
    assert threads() == before + 2
    assert parts(two) == 24


def test_loops_of_fewer_threads_than_cores_run_at_the_same_time(load: Load) -> None:
    libraries = [load(2), load(2)]
    both = threading.Barrier(2, timeout=30)
    failed: list[BaseException] = []

    def call(library: LoadedLibrary) -> None:
        met = threading.Event()

        def part(task: int, env: object, data: object) -> int:
            if task == 0 and not met.is_set():  # the first part of each loop waits for that of the other loop
                met.set()
                both.wait()
            return 0

        try:
            library.functions.tilewright_enter(2, 4)
            assert library.functions.tilewright_launch(LAMBDA(part), None, 0) == 0
        except BaseException as exc:
            failed.append(exc)

    callers = [threading.Thread(target=call, args=(library,)) for library in libraries]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not both.broken
    assert failed == []


def test_scratch_memory_is_shared_and_given_back(load: Load) -> None:
    host, guest = load(1), load(1)
    size = 300 << 20
    place = allocate(host, size)
    free(host, place)
    assert allocate(guest, size) == place
    free(guest, place)

    def addresses() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    before = addresses()
    del guest
    assert before - addresses() >= size  # no call uses it now, so the other library gets it


def test_more_scratch_memory_than_there_is(load: Load) -> None:
    library = load(1)
    assert allocate(library, 2**64 - 1) is None
    assert allocate(library, 2**62) is None


def test_a_library_of_another_version_has_threads_of_its_own(load: Load, tmp_path: Path) -> None:
    before = threads()
    first = load(2)
    for file in SOURCE.parent.glob("*.[ch]"):
        text = file.read_text().replace("#define POOL_VERSION 1", "#define POOL_VERSION 2")
        (tmp_path / file.name).write_text(text)
    library = tmp_path / "next.so"
    subprocess.run(
        [*find_compiler(), "-fPIC", "-pthread", "-shared", str(tmp_path / SOURCE.name), "-o", str(library)], check=True
    )
    other = loaded(library, 2)
    assert threads() == before + 2
    assert parts(first) == parts(other) == 16
    assert threads() == before + 2
    del first, other
    assert threads() == before


def test_a_library_that_shares_nothing_stays(tmp_path: Path) -> None:
    library = LoadedLibrary(compile_earlier(tmp_path))
    assert library.set_threads(3) == 3
    del library
    assert mapped(tmp_path) == {"earlier.so"}  # its threads may still be there


def test_what_is_no_library_of_ours_is_refused_and_unloaded(tmp_path: Path) -> None:
    (tmp_path / "other.c").write_text("int main_of_another(void) { return 0; }\n")
    path = tmp_path / "other.so"
    subprocess.run([*find_compiler(), "-fPIC", "-shared", str(tmp_path / "other.c"), "-o", str(path)], check=True)
    with pytest.raises(AttributeError):
        LoadedLibrary(path)
    assert mapped(tmp_path) == set()
    (tmp_path / "none.so").write_text("no library")
    with pytest.raises(OSError, match=r"none\.so"):
        LoadedLibrary(tmp_path / "none.so")


FORKED = """
import os, sys, threading
from pathlib import Path
from tests.executable.test_sharing import loaded, parts

libraries = [loaded(Path(path), 3) for path in sys.argv[1:]]
parts(libraries[0])
stop = threading.Event()


def call(library):
    while not stop.is_set():
        parts(library)


callers = [threading.Thread(target=call, args=(library,)) for library in libraries * 2]
for caller in callers:
    caller.start()
codes = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            import signal
            signal.alarm(20)
            right = [parts(library) for library in libraries] == [24] * len(libraries)
            alive = len(os.listdir("/proc/self/task"))
            libraries.clear()  # does not wait for the work of the parent's threads
            code = 0 if right and alive == 3 else 2
        finally:
            os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for caller in callers:
    caller.join()
print(codes)
"""


def test_a_fork_while_other_threads_call(compiled: Path, tmp_path: Path) -> None:
    copies = [shutil.copyfile(compiled, tmp_path / f"{name}.so") for name in "ab"]
    command = [sys.executable, "-W", "ignore", "-c", FORKED, *map(str, copies)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == str([0] * 10)


UNLOADED = """
import os, sys
from pathlib import Path
from tests.executable.test_sharing import loaded, parts

library = loaded(Path(sys.argv[1]), 2)
parts(library)
del library
child = os.fork()
if child == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_after_the_last_library_is_unloaded(compiled: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", UNLOADED, str(compiled)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "0"


def test_what_the_processor_has_is_what_the_system_says(load: Load) -> None:
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("extensions are compared on x86-64 alone")
    library = load(1)
    assert all(library.functions.tilewright_cpu_has(name.encode()) >= 0 for name in KNOWN)
    assert find_missing_features(KNOWN, library.functions) == find_missing_features(KNOWN)
    assert find_missing_features(["sse3", "no-such-extension"], library.functions) == ["no-such-extension"]
