"""Copies what the parts of one real step take, so that another process can prove their kernels with it.

Most of what a backward pass takes is what the forward pass saves, which is most of the memory of a step. So nothing is
copied that an earlier part of the step gives: the other process computes it again, from what that part took.

    step:     x --> forward part --> a, b --> loss --> d --> backward part(a, b, d)
    copied:   x, d
    there:    a, b = forward part(x)
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tilewright.frontend.torch.part import Layout
from tilewright.training.saved import to_plain

if TYPE_CHECKING:
    from torch import fx

__all__ = ["Copy", "Recording", "Signature", "find_names", "name_values", "plan_copies", "read_copies"]

#: The key of a node's ``meta`` with the name of its value in a step.
_VALUE = "tilewright_value"
#: What the names of values begin with that the backward pass computes.
_BACKWARD = "backward "
#: Bytes up to which a step copies what an earlier part gives to a later one. (A choice: the copy takes 1 to 2 ms.)
_SMALL = 8 << 20
#: The alignment of copies, in bytes.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Signature:
    """What a part takes and gives.

    Attributes:
        inputs, outputs: the layouts that its kernels read and write.
        takes, gives: the names of these values in a step; empty: it has none. A value has the same name in both passes.
    """

    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]

    @property
    def backward(self) -> bool:
        """Whether the part belongs to a backward pass."""
        return any(name.startswith(_BACKWARD) for name in self.gives)


@dataclass(frozen=True)
class Copy:
    """What is copied for one input of a part.

    Attributes:
        part: the place of the part in the step.
        place: of the input.
        layout: of the copy.
        offset: where it lies in the file, in bytes.
    """

    part: int
    place: int
    layout: Layout
    offset: int


def name_values(module: fx.GraphModule, backward: bool) -> None:
    """Give each value of a graph the name that it has in a step.

    AOTAutograd calls what the backward pass takes as the forward pass calls it.

    Args:
        module: the graph of a pass.
        backward: whether it is the backward pass.
    """
    for node in module.graph.nodes:
        own = backward and node.op != "placeholder"
        node.meta[_VALUE] = f"{_BACKWARD}{node.name}" if own else node.name


def find_names(module: fx.GraphModule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of what a part takes, and of what it gives; empty: a value has none.

    Args:
        module: the part, out of a graph whose values have names.
    """
    output = next(iter(reversed(module.graph.nodes)))
    takes = (node for node in module.graph.nodes if node.op == "placeholder")
    return tuple(map(_name_of, takes)), tuple(map(_name_of, output.args[0]))


def _name_of(node: fx.Node) -> str:
    return str(node.meta.get(_VALUE, ""))


def plan_copies(parts: Sequence[Signature]) -> tuple[tuple[int, ...], tuple[Copy, ...], int]:
    """What must be copied in a step so that the last one of its parts can run again.

    Args:
        parts: of a step, in order.

    Returns:
        the places of the parts that run again, in order; the copies; and the bytes of them all.
    """
    givers = {
        _key(name, layout): place
        for place, part in enumerate(parts[:-1])
        for name, layout in zip(part.gives, part.outputs, strict=True)
        if name
    }
    needed, waiting = {len(parts) - 1}, [len(parts) - 1]
    while waiting:
        part = parts[waiting.pop()]
        taken = Counter[int]()
        for name, layout in zip(part.takes, part.inputs, strict=True):
            if (giver := givers.get(_key(name, layout))) is not None:
                taken[giver] += _count_bytes(layout)
        again = {giver for giver, size in taken.items() if size > _SMALL} - needed
        needed |= again
        waiting += again
    computed = _list_copies(parts, sorted(needed))
    alone = _list_copies(parts, [len(parts) - 1])
    return alone if alone[2] <= computed[2] else computed


def _list_copies(parts: Sequence[Signature], places: Sequence[int]) -> tuple[tuple[int, ...], tuple[Copy, ...], int]:
    """What must be copied so that the parts of these places can run again, as :func:`plan_copies` returns it."""
    known: set[object] = set()
    copies, size = [], 0
    for place in places:
        part = parts[place]
        for number, (name, layout) in enumerate(zip(part.takes, part.inputs, strict=True)):
            if name and _key(name, layout) in known:
                continue
            known.add(_key(name, layout))
            copies.append(Copy(place, number, replace(layout, block=0), size))
            size += -(-_count_bytes(layout) // _ALIGNMENT) * _ALIGNMENT
        known |= {_key(name, layout) for name, layout in zip(part.gives, part.outputs, strict=True) if name}
    return tuple(places), tuple(copies), size


def _key(name: str, layout: Layout) -> tuple[str, tuple[int, ...], str]:
    """What two values of a step have in common if they are the same."""
    return name, layout.shape, layout.dtype


class Recording:
    """The copies of one step, in a file that another process can map.

    Its memory is there before the step, so that the step only copies.

    Args:
        path: of the file.
        parts: the places of the parts that take part, in the order in which a step runs them.
        copies: what is copied.
        size: the bytes of the copies.

    Attributes:
        over: set when all is copied, or something could not be.
        error: why something could not be copied; empty: all was.

    Raises:
        OSError: the disk has no room.
    """

    def __init__(self, path: Path, parts: Sequence[int], copies: Sequence[Copy], size: int) -> None:
        self.over, self.error = threading.Event(), ""
        self._left = list(parts)
        self._lock = threading.Lock()
        try:
            self._memory: mmap.mmap | None = _map_new(path, max(1, size))
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._copies = {place: [copy for copy in copies if copy.part == place] for place in parts}

    def cancel(self) -> None:
        """Copy nothing more."""
        self._end()

    def _end(self) -> None:
        """Say that all is over, and map the file no more: its pages count as this process's memory."""
        self._memory = None
        self.over.set()

    def note(self, part: int, tensors: Sequence[torch.Tensor]) -> bool:
        """Copy what a part takes, if it is its turn. Returns whether this part has nothing to copy any more.

        Several threads may train: one of them copies a part.
        """
        with self._lock:
            memory = self._memory
            if memory is None or self.over.is_set():
                return True
            if self._left[0] != part:
                return False
            try:
                with torch.no_grad():
                    for copy in self._copies[part]:
                        _place(memory, copy).copy_(to_plain(tensors[copy.place], copy.layout.shape))
            except Exception as error:
                self.error = str(error) or type(error).__name__
                self._left.clear()
            else:
                self._left.pop(0)
            if not self._left:
                self._end()
        return True


def read_copies(path: Path, copies: Sequence[Copy]) -> list[torch.Tensor]:
    """The tensors that were copied, in another process. What is written to them stays there."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return [_place(memory, copy) for copy in copies]


def _map_new(path: Path, size: int) -> mmap.mmap:
    """A new file in memory, which other processes can map. All its bytes are on the disk.

    Raises:
        OSError: the disk has no room. Writing to a mapped file would end this process then.
    """
    with path.open("w+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))
            file.flush()
        return mmap.mmap(file.fileno(), size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))


def _place(memory: mmap.mmap, copy: Copy) -> torch.Tensor:
    """A tensor in the memory of a file."""
    layout, dtype = copy.layout, getattr(torch, copy.layout.dtype)
    numbers = math.prod(layout.shape)
    if not numbers:
        return torch.empty_strided(layout.shape, layout.strides, dtype=dtype, device="cpu")
    flat = torch.frombuffer(memory, dtype=dtype, count=numbers, offset=copy.offset)
    return flat.as_strided(layout.shape, layout.strides)


def _count_bytes(layout: Layout) -> int:
    """The bytes of a tensor."""
    dtype: torch.dtype = getattr(torch, layout.dtype)
    return math.prod(layout.shape) * int(dtype.itemsize)
