"""Executables are proven with what a real step took, before a step uses them."""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.models import runs  # noqa: E402
from tilewright.executable.executable import load_executable  # noqa: E402
from tilewright.executable.program import PlanProgram  # noqa: E402
from tilewright.measure.isolated import IsolatedError  # noqa: E402
from tilewright.training import proofs as proofs_module  # noqa: E402
from tilewright.training.live import LivePart, accept, adopt  # noqa: E402
from tilewright.training.options import Options  # noqa: E402
from tilewright.training.orders import Order, Prepared, Request  # noqa: E402
from tilewright.training.parts import Part, divide  # noqa: E402
from tilewright.training.preparing import Preparation  # noqa: E402
from tilewright.training.proofs import Proofs  # noqa: E402
from tilewright.training.recording import name_values  # noqa: E402
from tilewright.training.storage import Storages  # noqa: E402

pytestmark = runs


def compute(b: Any, x: Any, w: Any) -> Any:
    """A product and an activation."""
    return (torch.ops.aten.relu.default(torch.ops.aten.addmm.default(b, x, w)),)


class Process:
    """The process that compiles, in this process: an executable of the part is there."""

    def __init__(self, folder: Path) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        shapes = ((32,), (8, 64), (64, 32))
        module = make_fx(compute, tracing_mode="fake")(*(torch.randn(*shape) for shape in shapes))
        name_values(module, False)
        self.part: Part = divide(module)[1][0]
        self.deaths = 0
        self._preparation = Preparation(Options(), folder)
        live = LivePart(self.part, "part")
        self.request = Request("part", pickle.dumps(self.part.module), live.inputs, live.outputs, key="part")
        self.prepared: Prepared = self._preparation.prepare(self.request)

    def ask(self, method: str, *arguments: object) -> object:
        """What a method returns; the process dies first, so many times as is wanted."""
        if self.deaths:
            self.deaths -= 1
            raise IsolatedError("its process ended (SIGSEGV)")
        return getattr(self._preparation, method)(*arguments)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Process:
    return Process(tmp_path_factory.mktemp("process"))


@pytest.fixture
def begun(process: Process, tmp_path: Path) -> tuple[Proofs, LivePart]:
    """Proofs of which one waits for a step, and its part."""
    live = LivePart(process.part, "part")
    proofs = Proofs(tmp_path, 2, process.ask, load_executable, lambda order, why: order.part.leave(why))
    order = Order(process.request, live)
    proofs.expect(order)
    assert not proofs.begin(order, process.prepared).is_set()
    return proofs, live


def draw() -> tuple[Any, ...]:
    """What the part takes."""
    return torch.randn(32), torch.randn(8, 64), torch.randn(64, 32)


def test_a_part_changes_between_two_steps(begun: tuple[Proofs, LivePart], tmp_path: Path) -> None:
    proofs, live = begun
    proofs.settle()
    assert proofs.waiting  # no step has come
    live(list(draw()))
    adopt([live])
    assert (live.state, live.counts.ours) == ("waiting", 0)  # nothing is proven yet
    proofs.settle()
    assert not proofs.waiting
    live(list(draw()))
    assert (live.state, live.counts.ours) == ("ready", 0)  # this step began before
    adopt([live])
    taken = draw()
    torch.testing.assert_close(live(list(taken))[0], compute(*taken)[0], rtol=1e-4, atol=1e-4)
    assert (live.state, live.counts.ours, live.counts.theirs) == ("running", 1, 2)
    assert list(tmp_path.glob("*.copies")) == []


def test_memory_is_kept_once_no_part_waits(begun: tuple[Proofs, LivePart], process: Process) -> None:
    proofs, live = begun
    live._storages = storages = Storages()
    other = LivePart(process.part, "another")
    live(list(draw()))
    proofs.settle()
    adopt([live, other])
    assert live.state == "running"
    assert not storages.keeps  # what PyTorch's part frees, it may use again
    other.leave("for a test")
    adopt([live, other])
    assert storages.keeps


def test_a_wrong_kernel_is_refused(begun: tuple[Proofs, LivePart], monkeypatch: pytest.MonkeyPatch) -> None:
    proofs, live = begun
    run = PlanProgram.run_in_place

    def run_wrongly(program: PlanProgram, addresses: Sequence[int]) -> None:
        run(program, addresses)
        ctypes.cast(addresses[-1], ctypes.POINTER(ctypes.c_float))[0] += 1.0

    monkeypatch.setattr(PlanProgram, "run_in_place", run_wrongly)
    live(list(draw()))
    proofs.settle()
    assert live.state == "left"
    assert "differ from PyTorch's" in live.reason


def test_a_step_that_is_not_finite_proves_nothing(begun: tuple[Proofs, LivePart]) -> None:
    proofs, live = begun
    for number, state in ((float("nan"), "waiting"), (float("inf"), "waiting"), (1.0, "ready")):
        b, x, w = draw()
        x[0, 0] *= number
        live([b, x, w])
        proofs.settle()
        assert live.state == state


@pytest.mark.parametrize(("deaths", "state"), [(1, "ready"), (2, "left")])
def test_a_crash_costs_a_process(deaths: int, state: str, process: Process, begun: tuple[Proofs, LivePart]) -> None:
    proofs, live = begun
    live(list(draw()))
    process.deaths = deaths
    proofs.settle()
    assert live.state == state
    assert ("SIGSEGV" in live.reason) == (state == "left")


def test_what_fails_when_a_part_is_proven_costs_no_more_than_that_part(
    begun: tuple[Proofs, LivePart], process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs, live = begun

    def fail_once(*_: object) -> None:
        monkeypatch.setattr(proofs_module, "accept", accept)
        raise RuntimeError("it cannot be accepted")

    monkeypatch.setattr(proofs_module, "accept", fail_once)
    live(list(draw()))
    proofs.settle()
    assert live.state == "left"
    assert "cannot be accepted" in live.reason
    other = LivePart(process.part, "another")
    order = Order(process.request, other)
    proofs.expect(order)
    proofs.begin(order, process.prepared)
    other(list(draw()))
    proofs.settle()
    adopt([other])
    assert other.state == "running"


def test_a_fork_leaves_the_files_to_its_parent(begun: tuple[Proofs, LivePart], tmp_path: Path) -> None:
    proofs, live = begun
    (path,) = tmp_path.glob("*.copies")
    before = path.read_bytes()
    proofs.cancel()
    live(list(draw()))
    assert path.read_bytes() == before


def test_a_full_disk_has_a_step_prove(begun: tuple[Proofs, LivePart], monkeypatch: pytest.MonkeyPatch) -> None:
    proofs, live = begun
    b, x, w = draw()
    live([b, x * float("nan"), w])

    def refuse(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(proofs_module, "Recording", refuse)
    proofs.settle()
    assert (live.state, live.counts.ours, proofs.waiting) == ("ready", 0, False)
    live(list(draw()))
    assert (live.state, live.counts.ours, live.counts.theirs) == ("running", 1, 2)


def test_what_no_step_has_copied_is_given_back(
    begun: tuple[Proofs, LivePart], process: Process, tmp_path: Path
) -> None:
    proofs, live = begun
    ((order, prepared),) = proofs.give_up()
    assert (order.part, prepared) == (live, process.prepared)
    assert not proofs.waiting
    assert list(tmp_path.glob("*.copies")) == []
    live(list(draw()))  # copies nothing
    proofs.settle()
    assert live.state == "waiting"
