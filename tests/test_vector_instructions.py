"""Operators and passes that TVM is told about, from several threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def test_tvm_is_told_once_whatever_threads_ask() -> None:
    """A network's kernels are compiled in threads, and TVM refuses an operator that it knows already."""
    program = """
        import sys, threading
        from concurrent.futures import ThreadPoolExecutor

        import tvm
        from tvm import tirx
        from tilewright.vector_instructions import RECIPROCAL, choose_instructions, register_operators

        sys.setswitchinterval(1e-6)
        start = threading.Barrier(8)

        def tell(number):
            start.wait()
            register_operators() if number % 2 else choose_instructions()
            return tirx.call_intrin("float32", RECIPROCAL, tirx.const(2.0, "float32"))

        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(tell, range(8)))
        assert {call.op.name for call in made} == {RECIPROCAL}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
