"""Proves the executable of a part in another process than the one that trains, with what a real step takes.

A proof computes the part in our kernels and in PyTorch's, now and then in float64. In a step it would take many times
as long as the step, and as much memory again.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.training.recording import Copy, Signature, read_copies

if TYPE_CHECKING:
    import torch

__all__ = ["Claim", "Piece", "Verdict", "prove"]


@dataclass(frozen=True)
class Piece:
    """A part of a step, as PyTorch runs it.

    Attributes:
        place: in the step.
        module: the part (an ``fx.GraphModule``), pickled.
        signature: what it takes and gives.
    """

    place: int
    module: bytes
    signature: Signature

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of what it takes. A value that has none in the step gets one of its own."""
        return tuple(name or f"{self.place} {place}" for place, name in enumerate(self.signature.takes))


@dataclass(frozen=True)
class Claim:
    """The claim that an executable computes the same as PyTorch, and what proves it.

    Attributes:
        out: the directory of the executable.
        threads: on which it runs.
        pieces: parts of a step, in order. The last one is that of the executable; those before it compute what it
            takes.
        copies: of what the pieces take in a real step.
        path: the file with the copies.
    """

    out: Path
    threads: int
    pieces: tuple[Piece, ...]
    copies: tuple[Copy, ...]
    path: Path


@dataclass(frozen=True)
class Verdict:
    """What a proof has found.

    Attributes:
        right: whether results differ from PyTorch's no more than rounding errors explain.
        worst: the largest difference, relative to the largest number of a result.
        finite: whether all results of PyTorch's are finite. If not, they prove little.
    """

    right: bool
    worst: float
    finite: bool


def prove(claim: Claim) -> Verdict:
    """Run an executable on what its part takes in a real step, and compare its results with PyTorch's.

    Raises:
        TilewrightError: the executable cannot be loaded, or a kernel failed.
        OSError: the copies cannot be read.
    """
    import torch

    from tilewright.training.proof import compare, is_rounding
    from tilewright.training.saved import accept_blocks

    torch.set_num_threads(claim.threads)
    with torch.no_grad():
        tensors = _compute_inputs(claim)
        piece = claim.pieces[-1]
        module = accept_blocks(pickle.loads(piece.module), piece.signature.inputs)
        found = _run_ours(claim, piece, tensors)
        comparison = compare(module, piece.signature.outputs, tensors, found)
        right = is_rounding(module, piece.signature.outputs, tensors, found, comparison)
    return Verdict(right, comparison.worst, comparison.finite)


def _compute_inputs(claim: Claim) -> list[torch.Tensor]:
    """What the last piece takes, as its kernels read it. The pieces before it run in PyTorch."""
    from tilewright.training.running import align

    copied = {
        (copy.part, copy.place): tensor
        for copy, tensor in zip(claim.copies, read_copies(claim.path, claim.copies), strict=True)
    }
    known: dict[str, torch.Tensor] = {}
    for number, piece in enumerate(claim.pieces):
        for place, name in enumerate(piece.takes):
            if (tensor := copied.pop((piece.place, place), None)) is not None:
                known[name] = tensor
        if number == len(claim.pieces) - 1:
            break
        given = [known[name] for name in piece.takes]
        later = {name for other in claim.pieces[number + 1 :] for name in other.takes}
        for name, tensor in zip(piece.signature.gives, pickle.loads(piece.module)(*given), strict=True):
            if name in later:
                known.setdefault(name, tensor)
        known = {name: tensor for name, tensor in known.items() if name in later}
        del given, tensor
    found = []
    for place, (name, layout) in enumerate(zip(piece.takes, piece.signature.inputs, strict=True)):
        found.append(align(known[name], layout))
        if name not in piece.takes[place + 1 :]:
            del known[name]  # in blocks it needs as much memory again
    return found


def _run_ours(claim: Claim, piece: Piece, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The results of the executable."""
    from tilewright.executable.executable import load_executable
    from tilewright.executable.program import PlanProgram
    from tilewright.training.arena import find_arena
    from tilewright.training.running import find_addresses
    from tilewright.training.storage import Storages

    program = load_executable(claim.out, claim.threads, find_arena()).program
    if not isinstance(program, PlanProgram):
        raise TypeError("it has no plan")
    results, addresses = find_addresses(tensors, piece.signature.outputs, Storages())
    program.run_in_place(addresses)
    return results
