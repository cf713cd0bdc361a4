"""What is copied in a step, for another process to run its parts again."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tilewright.frontend.torch.part import Layout  # noqa: E402
from tilewright.training import recording  # noqa: E402
from tilewright.training.parts import divide  # noqa: E402
from tilewright.training.recording import (  # noqa: E402
    Recording,
    Signature,
    find_names,
    name_values,
    plan_copies,
    read_copies,
)

#: Images of 2 MB, and of 2 KB.
LARGE, SMALL = (8, 16, 64, 512), (8, 64)


def sign(takes: dict[str, tuple[int, ...]], gives: dict[str, tuple[int, ...]]) -> Signature:
    """The signature of a part, from the shapes of what it takes and gives."""
    inputs, outputs = (tuple(Layout.of(torch.empty(shape)) for shape in each.values()) for each in (takes, gives))
    return Signature(inputs, outputs, tuple(takes), tuple(gives))


FORWARD = sign({"x": SMALL, "w": SMALL}, {"a": LARGE, "b": SMALL})
BACKWARD = sign({"a": LARGE, "b": SMALL, "w": SMALL, "d": SMALL}, {"backward w": SMALL})


def test_what_an_earlier_part_gives_is_not_copied() -> None:
    places, copies, size = plan_copies([FORWARD, BACKWARD])
    assert places == (0, 1)
    assert [(copy.part, copy.place) for copy in copies] == [(0, 0), (0, 1), (1, 3)]
    assert size == 3 * 4 * 8 * 64


def test_an_earlier_part_does_not_run_again_for_little() -> None:
    part = sign({"b": SMALL, "d": SMALL}, {"backward b": SMALL})
    places, copies, _ = plan_copies([FORWARD, part])
    assert places == (1,)
    assert [(copy.part, copy.place) for copy in copies] == [(1, 0), (1, 1)]
    heavy = sign({"x": LARGE, "w": LARGE}, {"a": LARGE})
    assert plan_copies([heavy, sign({"a": LARGE}, {"y": SMALL})])[0] == (1,)


@pytest.mark.parametrize(
    "gives",
    [{"": LARGE, "b": SMALL}, {"c": LARGE, "b": SMALL}, {"a": (8, 16, 128, 256), "b": SMALL}],
    ids=["no name", "another name", "another shape"],
)
def test_only_the_same_value_is_computed_again(gives: dict[str, tuple[int, ...]]) -> None:
    places, copies, _ = plan_copies([sign({"x": SMALL}, gives), BACKWARD])
    assert places == (1,)
    assert len(copies) == 4


def test_copies_are_those_of_one_step(tmp_path: Path) -> None:
    places, copies, size = plan_copies([FORWARD, BACKWARD])
    made = Recording(tmp_path / "copies", places, copies, size)
    x, w, d = (torch.randn(SMALL) for _ in range(3))
    a, b = torch.randn(LARGE), torch.randn(SMALL)
    assert not made.note(1, [a, b, w, 0 * d])  # a backward pass whose forward pass was not copied
    assert made.note(0, [x, w])
    assert not made.note(0, [0 * x, 0 * w])  # another forward pass before the backward pass
    assert not made.over.is_set()
    assert made.note(1, [a, b, w, d])
    assert made.over.is_set()
    assert made.error == ""
    found = read_copies(tmp_path / "copies", copies)
    assert all(map(torch.equal, found, (x, w, d)))
    found[0].zero_()  # stays in this process
    assert torch.equal(read_copies(tmp_path / "copies", copies)[0], x)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 16, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(5, 7) > 0,
        torch.arange(6).reshape(2, 3),
        torch.tensor(1.5),
        torch.empty(0),
    ],
    ids=["channels last", "bool", "int64", "number", "empty"],
)
def test_copies_lie_as_the_tensors_do(tensor: Any, tmp_path: Path) -> None:
    layout = Layout.of(tensor)
    places, copies, size = plan_copies([Signature((layout,), (), ("x",), ())])
    made = Recording(tmp_path / "copies", places, copies, size)
    assert made.note(0, [tensor])
    (found,) = read_copies(tmp_path / "copies", copies)
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()


def test_what_cannot_be_copied_is_an_error(tmp_path: Path) -> None:
    places, copies, size = plan_copies([FORWARD])
    made = Recording(tmp_path / "copies", places, copies, size)
    assert made.note(0, [torch.zeros(3, 3), torch.zeros(3, 3)])
    assert made.over.is_set()
    assert made.error
    assert made.note(0, [torch.zeros(SMALL), torch.zeros(SMALL)])  # nothing more is done


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="files grow as they are written")
def test_no_file_is_left_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        Recording(tmp_path / "copies", *plan_copies([FORWARD]))
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_threads_copies_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, copies, size = plan_copies([FORWARD, BACKWARD])
    made = Recording(tmp_path / "copies", places, copies, size)
    inside, both = threading.Event(), threading.Event()

    def wait(tensor: Any, shape: Any) -> Any:
        """The tensor, once another thread has had time to come here."""
        if inside.is_set():
            both.set()
        inside.set()
        both.wait(0.5)
        return tensor

    monkeypatch.setattr(recording, "to_plain", wait)
    numbers = [torch.full(SMALL, number) for number in (1.0, 2.0)]
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda number: made.note(0, [number, number]), numbers)) == [False, True]
    assert not made.over.is_set()
    assert made.error == ""
    x, w, _ = read_copies(tmp_path / "copies", copies)
    assert torch.equal(x, w)


def test_values_have_the_names_of_the_step() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def compute(x: Any, w: Any) -> Any:
        return (torch.ops.aten.relu.default(torch.ops.aten.mm.default(x, w)),)

    module = make_fx(compute, tracing_mode="fake")(torch.randn(4, 8), torch.randn(8, 8))
    for backward, gives in ((False, "relu"), (True, "backward relu")):
        traced = make_fx(module, tracing_mode="fake")(torch.randn(4, 8), torch.randn(8, 8))
        takes = tuple(node.name for node in traced.graph.nodes if node.op == "placeholder")
        name_values(traced, backward)
        (part,) = divide(traced)[1]
        assert find_names(part.module) == (takes, (gives,))
