"""Whole runs of training: as accurate as eager ones, by two processes together, and ended by Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.models import runs
from tests.processes import started, wait_until
from tests.training.models import Digits, step, torch
from tilewright.training import optimize, report

nn = torch.nn
pytestmark = [runs, pytest.mark.usefixtures("fresh")]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options with whose records the kernels for digits are there at once."""
    records = tmp_path_factory.mktemp("digits") / "records.db"
    torch.compiler.reset()
    model = Digits()
    compiled = optimize(model, mode="now", budget="1s", records=str(records))
    for _ in range(2):
        step(compiled, torch.randn(32, 1, 8, 8))
    assert {part.state for graph in report(model).graphs for part in graph.parts} == {"running"}
    return {"mode": "cached", "records": str(records)}


def find_accuracy(seed: int, options: dict[str, Any] | None) -> float:
    """The share of digits that are known after 200 steps, of those that were not shown."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    torch.manual_seed(seed)
    torch.compiler.reset()
    model = Digits()
    called = model if options is None else optimize(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        batch = torch.randint(1200, (32,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(called(images[batch]), labels[batch]).backward()
        optimizer.step()
    if options is not None:
        parts = [part for graph in report(model).graphs for part in graph.parts]
        assert parts
        assert all(part.ours + part.theirs >= 200 and part.ours > 0 for part in parts)
    with torch.no_grad():
        return float((model(images[1200:]).argmax(1) == labels[1200:]).float().mean())


def test_two_hundred_steps_learn_the_digits_as_well_as_eager_ones(options: dict[str, Any]) -> None:
    eager = [find_accuracy(seed, None) for seed in range(5)]
    ours = [find_accuracy(seed, options) for seed in range(5)]
    assert min(eager) > 0.85
    assert min(eager) <= sum(ours) / 5 <= max(eager)


def test_two_processes_have_the_gradients_of_eager_ones(options: dict[str, Any], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.distributed"]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(started([*command, str(rank), str(tmp_path), json.dumps(options)])) for rank in range(2)
        ]
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for output in outputs:
        found = json.loads(output.splitlines()[-1])
        assert set(found["states"]) == {"running"}
        assert max(found["worst"]) < 1e-4


_ENDLESS = """
    import torch, tilewright
    model = torch.nn.Linear(8, 5)
    compiled = tilewright.optimize(model, budget="10m")
    while True:
        compiled(torch.randn(4, 8)).sum().backward()
        print("step", flush=True)
"""


def test_ctrl_c_ends_a_training_at_once(tmp_path: Path) -> None:
    program = [sys.executable, "-c", textwrap.dedent(_ENDLESS)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with started(program, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        children: list[int] = []
        while not children:  # the process that compiles is at work
            assert process.stdout.readline() == "step\n"
            listed = Path(f"/proc/{process.pid}/task").glob("*/children")
            children = [int(pid) for file in listed for pid in file.read_text().split()]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert list(tmp_path.glob("tilewright-*")) == []


_FORKS = """
    import os, sys
    from pathlib import Path
    from tilewright.training.options import Options
    from tilewright.training.worker import find_worker
    find_worker(Options(), 1).start()
    children = [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
    child = os.fork()
    if not child:
        sys.exit()
    os.waitpid(child, 0)
    print(*children, flush=True)
    sys.stdin.readline()
"""


def find_state(pid: int) -> str:
    """The state of a process, such as ``T`` for a stopped one; empty: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_the_process_that_compiles_survives_forks_and_is_not_stopped_for_good(tmp_path: Path) -> None:
    program = [sys.executable, "-c", textwrap.dedent(_FORKS)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with started(program, stdin=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        (pid,) = map(int, process.stdout.readline().split())
        assert find_state(pid) not in ("", "Z")
        assert list(tmp_path.glob("tilewright-*"))
        os.kill(pid, signal.SIGSTOP)
        assert wait_until(lambda: find_state(pid) != "T")
        assert find_state(pid) not in ("", "Z")
        process.communicate("\n", timeout=60)
    assert list(tmp_path.glob("tilewright-*")) == []
