"""A part of a step as it runs: in PyTorch's kernels at first, and in ours once they are ready and proven.

waiting --> ready --> running
   |          |          |
   +----------+----------+--> left (to PyTorch, with the reason)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from tilewright.executable.executable import Executable
from tilewright.executable.program import PlanProgram
from tilewright.frontend.torch.part import Layout
from tilewright.training.parts import Part

if TYPE_CHECKING:
    from torch import fx

__all__ = ["LivePart", "State"]

State: TypeAlias = Literal["waiting", "ready", "running", "left"]
#: The largest difference between a result of ours and of PyTorch, relative to the largest number of that result.
_TOLERANCE = 1e-4
#: How many times PyTorch's own rounding errors ours may be, where these are all that a result holds. (A choice.)
_NOISE = 8.0
#: The same, of a result of which PyTorch has no digit right, such as a mean that is 0. (A choice; 16 were seen.)
_ALL_NOISE = 100.0

_log = logging.getLogger("tilewright.training")


@dataclass
class _Counts:
    """What happened to a part.

    Attributes:
        ours: runs in our kernels.
        theirs: runs in PyTorch's.
        copies: inputs that did not lie as they should and were copied.
    """

    ours: int = 0
    theirs: int = 0
    copies: int = 0


class LivePart(torch.nn.Module):  # type: ignore[misc]
    """A part of a step's graph that is called with its tensors.

    Args:
        part: the part.
        name: for people.

    Attributes:
        part: the part.
        inputs, outputs: the layouts that kernels read and write.
        state: how it runs now.
        reason: why it was left to PyTorch; empty: it was not.
        counts: what happened to it.
    """

    def __init__(self, part: Part, name: str) -> None:
        super().__init__()
        self.part, self.name = part, name
        self.inputs, self.outputs = _find_layouts(part.module)
        self.state: State = "waiting"
        self.reason = ""
        self.counts = _Counts()
        self._program: PlanProgram | None = None
        self._offered: Executable | None = None
        self._executable: Executable | None = None
        self._lock = threading.Lock()

    def offer(self, executable: Executable) -> None:
        """Let the next run prove an executable of this part, and the runs after it use it."""
        with self._lock:
            if self.state != "left":
                self._offered, self.state = executable, "ready"

    def leave(self, reason: str) -> None:
        """Leave this part to PyTorch for good, and say so."""
        with self._lock:
            if self.state == "left":
                return
            self.state, self.reason = "left", reason
            self._program = self._offered = self._executable = None
        _log.warning("%s stays with PyTorch: %s", self.name, reason)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The results of the part."""
        if self._offered is not None:
            return self._prove(tensors)
        program = self._program
        if program is not None:
            try:
                return self._run(program, tensors)
            except Exception as error:  # whatever happens in there, the training goes on
                self.leave(f"its executable failed: {error}")
        self.counts.theirs += 1
        results: tuple[torch.Tensor, ...] = tuple(self.part.module(*tensors))
        return results

    def _prove(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """PyTorch's results, by which those of the executable that was offered are judged."""
        wanted: tuple[torch.Tensor, ...] = tuple(self.part.module(*tensors))
        self.counts.theirs += 1
        with self._lock:
            executable, self._offered = self._offered, None
        if executable is None:
            return wanted
        try:
            program = executable.program
            if not isinstance(program, PlanProgram):
                raise TypeError("it has no plan")
            found = self._run(program, tensors)
        except Exception as error:
            self.leave(f"its executable failed: {error}")
            return wanted
        worst = max(map(_difference, found, wanted), default=0.0)
        if not worst <= _TOLERANCE and not self._is_as_exact(tensors, found, wanted):
            self.leave(f"its results differ from PyTorch's by {worst:.1e} of their largest number")
            return wanted
        with self._lock:
            self._executable, self._program, self.state = executable, program, "running"
        return wanted

    def _is_as_exact(
        self, tensors: Sequence[torch.Tensor], found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
    ) -> bool:
        """Whether results are as near to those in float64 as PyTorch's are.

        Some are nothing but rounding errors, such as the gradient of a bias before a batch norm, which is 0.
        """
        exact = self.part.module(*(t.double() if t.dtype == torch.float32 else t for t in tensors))
        pairs = zip(found, wanted, exact, strict=True)
        return all(_difference(a, e) <= _bound_noise(_difference(b, e)) for a, b, e in pairs)

    def _run(self, program: PlanProgram, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The results in our kernels, in tensors that PyTorch allocates."""
        given = [self._align(tensor, layout) for tensor, layout in zip(tensors, self.inputs, strict=True)]
        results = tuple(
            torch.empty_strided(layout.shape, layout.strides, dtype=getattr(torch, layout.dtype))
            for layout in self.outputs
        )
        program.run_in_place([tensor.data_ptr() for tensor in (*given, *results)])
        self.counts.ours += 1
        return results

    def _align(self, tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The tensor if it lies as kernels read it; otherwise a copy that does."""
        if tensor.shape != layout.shape or str(tensor.dtype) != f"torch.{layout.dtype}":
            raise ValueError(f"it was made for {layout.dtype} {layout.shape}, but got {tensor.dtype} {tensor.shape}")
        if tensor.stride() == layout.strides and tensor.data_ptr() % 64 == 0:
            return tensor
        if _lies_alike(tensor, layout) and tensor.data_ptr() % 64 == 0:
            return tensor
        self.counts.copies += 1
        return torch.empty_strided(layout.shape, layout.strides, dtype=tensor.dtype).copy_(tensor)


def _bound_noise(theirs: float) -> float:
    """How much a result may differ from that in float64, of which PyTorch's own differs by ``theirs``."""
    return max(_TOLERANCE, (_NOISE if theirs < 1.0 else _ALL_NOISE) * theirs)


def _lies_alike(tensor: torch.Tensor, layout: Layout) -> bool:
    """Whether strides differ along dimensions of one element only."""
    pairs = zip(tensor.shape, tensor.stride(), layout.strides, strict=True)
    return all(extent == 1 or one == other for extent, one, other in pairs)


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest number; of integers and truth values, the share that differs.

    Where two pixels of a window differ by a rounding error, the place of the larger one may be either.
    """
    if not wanted.numel():
        return 0.0
    if not wanted.dtype.is_floating_point:
        return float((found != wanted).double().mean())
    largest = float(wanted.abs().max())
    return float((found - wanted).abs().max()) / (largest or 1.0)


def _find_layouts(module: fx.GraphModule) -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    """The layouts of what a part takes and gives."""
    nodes = list(module.graph.nodes)
    inputs = tuple(Layout.of(node.meta["val"]).dense for node in nodes if node.op == "placeholder")
    outputs = tuple(Layout.of(node.meta["val"]).dense for node in nodes[-1].args[0])
    return inputs, outputs
