"""Parts that PyTorch runs hold no tensor longer than they need it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import fx  # noqa: E402

from tilewright.training.boxing import box, copy_module, hand_over  # noqa: E402


class Part(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A part that takes a list, as those of a step do."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.run = box(copy_module(module))

    def forward(self, given: list[object]) -> object:
        """The results of the part."""
        return self.run(given)


def test_a_tensor_is_freed_after_its_last_use_in_a_part() -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def make(x: Any) -> Any:
        result = x + 1
        made.append(weakref.ref(result))
        return result

    def look(x: Any) -> Any:
        alive.append(made[-1]() is not None)
        return x

    inner, outer = fx.Graph(), fx.Graph()
    taken = inner.placeholder("taken")
    inner.output(inner.call_function(look, (inner.call_function(torch.relu, (inner.call_function(look, (taken,)),)),)))
    part = fx.GraphModule({}, inner)
    outer.output(outer.call_module("part", (outer.call_function(make, (outer.placeholder("x"),)),)))
    whole = fx.GraphModule({"part": part}, outer)
    wanted = whole(torch.ones(3))
    assert alive == [True, True]
    hand_over(whole, ["part"])
    whole.part = Part(part)
    assert torch.equal(box(whole)([torch.ones(3)]), wanted)
    assert alive[2:] == [True, False]


def test_a_module_and_its_copy_compute_the_same() -> None:
    module = fx.symbolic_trace(torch.nn.Linear(4, 3))
    x = torch.ones(2, 4)
    given: list[object] = [x]
    assert torch.equal(box(copy_module(module))(given), module(x))
    assert not given
