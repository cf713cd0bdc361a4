"""A call in a process of its own: its result, its errors, its death."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import started, wait_until
from tilewright.errors import MissingExtraError, ProcessError, ShapeError
from tilewright.measure.isolated_call import IsolatedCall


def twice(value: int) -> int:
    return 2 * value


def crash() -> None:
    print("these are my last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def refuse(kind: str) -> None:
    class OwnError(Exception):
        pass

    errors: dict[str, Exception] = {
        "shape": ShapeError("not a shape"),
        "memory": MemoryError("no more"),
        "own": OwnError("first line\nsecond line"),
        "extra": MissingExtraError("PyTorch", "torch"),
    }
    raise errors[kind]


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def fill(size: int) -> None:
    held = bytearray(size)
    for at in range(0, size, 4096):
        held[at] = 1
    time.sleep(60)


def variable(name: str) -> str | None:
    return os.environ.get(name)


def unsendable() -> object:
    return lambda: None


def result_of(function: Callable[..., object], *arguments: object, **limits: Any) -> object:
    with IsolatedCall(function, *arguments, **limits) as call:
        return call.result()


def test_a_call_returns_what_the_function_returns_also_where_it_waits() -> None:
    assert result_of(twice, 21) == 42
    with IsolatedCall(twice, 4, environment={"A_NAME": "b"}) as call:
        assert call.result() == 8
    assert result_of(variable, "A_NAME", environment={"A_NAME": "b"}) == "b"


def test_a_crash_is_an_error_with_the_last_words() -> None:
    with pytest.raises(ProcessError, match="SIGSEGV: these are my last words") as caught:
        result_of(crash)
    assert caught.value.died


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("shape", ShapeError, "not a shape"),
        ("memory", MemoryError, "no more"),
        ("own", ProcessError, "^OwnError: first line$"),
        ("extra", MissingExtraError, r"^this needs PyTorch, .*pip install 'tilewright\[torch\]'$"),
    ],
)
def test_an_error_of_the_function_arrives(kind: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        result_of(refuse, kind)
    assert not getattr(caught.value, "died", False)


def test_time_and_memory_have_an_end() -> None:
    with pytest.raises(ProcessError, match="no answer in time"):  # otherwise the answer comes after a minute
        result_of(sleep, 60.0, seconds=0.5)
    with pytest.raises(ProcessError, match="more than 300 MiB"):
        result_of(fill, 1 << 29, memory=300 << 20)


def test_a_result_that_cannot_be_sent_is_an_error() -> None:
    with pytest.raises(ProcessError, match="cannot be sent"):
        result_of(unsendable)


def test_it_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    code = (
        "from tests.measure.test_isolated_call import sleep\n"
        "from tilewright.measure.isolated_call import IsolatedCall\n"
        "call = IsolatedCall(sleep, 600.0)\n"
        "print(call.pid, flush=True); call.result()"
    )
    with started([sys.executable, "-c", code]) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()

    def has_ended() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    assert wait_until(has_ended)
