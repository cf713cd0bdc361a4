"""Ctrl-C ends as Ctrl-C, wherever it arrives."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import pytest
import typer

from tilewright.cli.boundary import command
from tilewright.target import Target


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1.0)  # Python looks for signals between two instructions


def test_in_a_function_that_tvm_calls() -> None:
    Target.parse()  # where TVM comes in
    import tvm

    def interrupted(module: Any, _: Any) -> Any:
        press()
        return module

    with pytest.raises(KeyboardInterrupt):
        tvm.transform.Sequential([tvm.transform.module_pass(interrupted, opt_level=0)])(tvm.ir.IRModule({}))


def test_where_it_is_swallowed(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def swallowing() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            press()

    with pytest.raises(typer.Exit) as caught:
        swallowing()
    assert caught.value.exit_code == 130
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
