"""Ctrl-C and SIGTERM end as what they are, wherever they arrive, and never in the middle of a step that is held."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import typer

from tilewright.cli.boundary import command
from tilewright.interrupts import exit_code, holding, watching
from tilewright.target import Target


def press(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.2)  # Python looks for signals between two instructions


def test_in_a_function_that_tvm_calls() -> None:
    Target.parse()  # where TVM comes in
    import tvm

    def interrupted(module: Any, _: Any) -> Any:
        press()
        return module

    with pytest.raises(KeyboardInterrupt):
        tvm.transform.Sequential([tvm.transform.module_pass(interrupted, opt_level=0)])(tvm.ir.IRModule({}))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_where_it_is_swallowed(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def swallowing() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            press(number)

    with pytest.raises(typer.Exit) as caught:
        swallowing()
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == "interrupted\n"


def test_where_it_becomes_another_error() -> None:
    @command
    def translating() -> None:
        try:
            press()
        except KeyboardInterrupt:
            raise RuntimeError from None

    with pytest.raises(typer.Exit) as caught:
        translating()
    assert caught.value.exit_code == 130


def test_a_step_that_is_held_is_done_to_its_end() -> None:
    done = []
    with watching() as noted:
        with holding() as hold:
            press()
            press(signal.SIGTERM)
            done.append("all of it")
        assert hold.received == [signal.SIGINT, signal.SIGTERM]
        assert noted == hold.received
        assert exit_code() == 130  # the first one counts
        with pytest.raises(KeyboardInterrupt):
            press()
    assert done


def test_only_the_first_is_held_and_told() -> None:
    told: list[str] = []
    with watching():
        with holding(1, lambda: told.append("interrupted")):
            press()
            assert told == ["interrupted"]
            with pytest.raises(KeyboardInterrupt):
                press()
        with holding(0), pytest.raises(KeyboardInterrupt):
            press()


def test_a_script_that_calls_the_library_is_held_too() -> None:
    with holding() as hold:
        press()
    assert hold.received == [signal.SIGINT]
    with pytest.raises(KeyboardInterrupt):
        press()


def test_whoever_handles_a_signal_goes_on_doing_so() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with watching():
            press(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_in_another_thread_nothing_changes() -> None:
    held: list[Any] = []

    def hold() -> None:
        with watching() as noted, holding() as found:
            held.extend([noted, found.received])

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert held == [[], []]


def test_handlers_are_given_back() -> None:
    code = (
        "import signal\nfrom tilewright.interrupts import watching\n"
        "with watching(): pass\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_while_the_command_line_is_imported() -> None:
    """Nothing has begun then, and a traceback of imports helps nobody."""
    program = (
        "import builtins, os, signal\n"
        "plain = builtins.__import__\n"
        "def slow(name, *rest):\n"
        "    if name == 'typer':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return plain(name, *rest)\n"
        "builtins.__import__ = slow\n"
        "import tilewright.cli\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
