"""Programs whose library holds the runtime of an earlier version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.executables import compile_earlier
from tilewright.errors import OutputError
from tilewright.executable.plan import Plan
from tilewright.executable.program import PlanProgram


def test_a_program_of_an_earlier_version_runs_but_does_not_time_its_kernels(tmp_path: Path) -> None:
    program = PlanProgram(compile_earlier(tmp_path), [], Plan(0, (), (), (), ()), 1)
    assert program.run([]) == []
    assert program.time([], 2) == [0.0, 0.0]
    for attempt in (lambda: program.profile([], 1), lambda: program.contest([], {}, 1.0, 1, 1)):
        with pytest.raises(OutputError, match="an earlier one built this; tune again"):
            attempt()
