"""A part of a step as it runs: in PyTorch's kernels at first, and in ours once they are ready and proven.

Another process proves them with copies of what one step took (:mod:`tilewright.training.proving`). An executable that
is there before the first step, or that no other process can prove, is proven in a step, which takes long.

The states of a part:

waiting --> ready --> running
   |          |          |
   +----------+----------+--> left (to PyTorch, with the reason)
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from tilewright.executable.executable import Executable
from tilewright.executable.program import PlanProgram, Variants
from tilewright.frontend.torch.part import Layout
from tilewright.training.boxing import box, copy_module
from tilewright.training.cache import KeptProof
from tilewright.training.contest import Contest
from tilewright.training.orders import KernelTask
from tilewright.training.parts import Part
from tilewright.training.proof import compare, is_rounding
from tilewright.training.recording import Recording, Signature, find_names
from tilewright.training.results import ProofReport, State
from tilewright.training.running import align, find_addresses
from tilewright.training.saved import accept_blocks, find_layouts
from tilewright.training.storage import find_storages, return_free_pages

__all__ = ["MOST_UNSURE", "LivePart", "accept", "adopt", "first_line"]

#: In every so many runs the kernels are timed. That costs two readings of the clock for each.
_PROFILE_EVERY = 16
#: Runs whose times are kept, and after which ours and PyTorch's are compared.
_WINDOW, _ENOUGH = 16, 3
#: Steps whose results are not all finite that are passed over before a part is proven by the finite ones. (A choice:
#: numbers that a mask makes infinite come in each step, those of a bad batch do not.)
MOST_UNSURE = 8
#: Variants of our kernels are timed in real steps if ours take at most this multiple of PyTorch's time.
_MOST_SLOWER = 1.5

#: Held while accepted executables are handed over: those that belong together change in the same step.
_changing = threading.Lock()

_log = logging.getLogger("tilewright.training")


@dataclass
class _Counts:
    """What happened to a part.

    Attributes:
        ours: runs in our kernels.
        theirs: runs in PyTorch's.
        copies: how many inputs were copied, because kernels read another layout or alignment.
        our_seconds, their_seconds: of the last few runs in our kernels, and in PyTorch's.
    """

    ours: int = 0
    theirs: int = 0
    copies: int = 0
    our_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    their_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class LivePart(torch.nn.Module):  # type: ignore[misc]
    """A part of a step's graph. A call with the list of its tensors gives its results, and may empty the list.

    The results come from the faster of PyTorch's and our kernels.

    Args:
        part: the part.
        name: for people.
        kept: the names of saved activations that stay in blocked layouts.

    Attributes:
        part: the part.
        inputs, outputs: the layouts that kernels read and write.
        signature: these, and the names of what it takes and gives.
        state: how it runs now.
        reason: why it was left to PyTorch; empty: it was not.
        counts: what happened to it.
        kernels: the kernels of a run, in order, and the seconds that each took there; empty name: a copy.
        tasks: what kernels compute, by their names.
        proof: of the executable that runs, or of the one that was refused; None: there is none yet.
    """

    def __init__(self, part: Part, name: str, kept: Collection[str] = ()) -> None:
        super().__init__()
        self.part, self.name = part, name
        self.inputs, self.outputs = find_layouts(part.module, kept)
        self.signature = Signature(self.inputs, self.outputs, *find_names(part.module))
        self._module = accept_blocks(part.module, self.inputs)
        self._run_module = box(copy_module(self._module))
        self.state: State = "waiting"
        self.reason = ""
        self.counts = _Counts()
        self.kernels: tuple[tuple[str, float], ...] = ()
        self.tasks: dict[str, KernelTask] = {}
        self.proof: ProofReport | None = None
        self._keep: Callable[[Executable, KeptProof], None] | None = None
        self._program: PlanProgram | None = None
        self._contest: Contest | None = None
        self._profile = False
        self._unsure = 0
        self._offered: Executable | None = None
        self._accepted: Executable | None = None
        self._recordings: list[tuple[Recording, int]] = []
        self._executable: Executable | None = None
        self._lock = threading.Lock()
        self._storages = find_storages()

    def offer(self, executable: Executable, checked: bool = False) -> None:
        """Let the next run prove an executable of this part. The runs after it use the executable, if it is right.

        Args:
            executable: of the part.
            checked: whether its results were compared with those of the executable that runs now. Then it is not
                proven again in this training. A later one does prove it: it was not compared with PyTorch.
        """
        with self._lock:
            if self.state == "left":
                return
            program = executable.program
            used = checked and self.state == "running"
            if used and isinstance(program, PlanProgram):
                self._use(executable, program)
            else:
                self._offered, self.state = executable, "ready"

    def trust(self, executable: Executable, proof: KeptProof) -> None:
        """Let the next run use an executable of this part that an earlier training has proven, and used."""
        program = executable.program
        with self._lock:
            if self.state != "left" and isinstance(program, PlanProgram):
                self.proof = ProofReport(True, proof.worst, earlier=True)
                if proof.their_seconds > 0.0:
                    self.counts.their_seconds.append(proof.their_seconds)
                self._use(executable, program)

    def keep_proofs(self, keep: Callable[[Executable, KeptProof], None]) -> None:
        """Have ``keep`` called with each executable that was proven."""
        self._keep = keep

    def note_proof(self, executable: Executable) -> None:
        """Note that an executable was proven, for later trainings."""
        if self._keep is not None and self.proof is not None and math.isfinite(self.proof.worst):
            self._keep(executable, KeptProof(self.proof.worst, min(self.counts.their_seconds, default=math.nan)))

    def record(self, recording: Recording, place: int) -> None:
        """Let a run copy what it takes.

        Args:
            recording: of a step.
            place: of this part in the step.
        """
        self._recordings.append((recording, place))

    def leave(self, reason: str) -> None:
        """Leave this part to PyTorch for good, and say so."""
        with self._lock:
            if self.state == "left":
                return
            self.state, self.reason = "left", reason
            self._program = self._offered = self._executable = self._accepted = None
            contest, self._contest = self._contest, None
        if contest is not None:
            contest.over.set()
        _log.warning("%s stays with PyTorch: %s", self.name, reason)

    def hold_contest(
        self, executable: Executable, variants: Variants, expected: Mapping[str, float] | None = None
    ) -> Contest | None:
        """Let the next runs time variants of kernels. None: our kernels do not run, or far too slowly.

        Args:
            executable: computes the same as the one that runs now, and holds the variants.
            variants: by the name of a kernel, the names of its variants, itself first.
            expected: by the name of a variant, how many times as long as its kernel it takes, roughly.
        """
        program = executable.program
        with self._lock:
            if self.state != "running" or not isinstance(program, PlanProgram) or self._pace_of_ours() > _MOST_SLOWER:
                return None
            self._executable, self._program = executable, program
            self._contest = Contest(program, variants, expected)
            return self._contest

    def profile_next(self) -> None:
        """Time each kernel in the next run, for ``kernels``. Otherwise that happens in every 16th run."""
        self._profile = True

    @property
    def is_longer(self) -> bool:
        """Whether the next run takes longer than others: it copies, times variants, or is the first in our kernels."""
        contest = self._contest
        risky = contest is not None and contest.risky
        return risky or bool(self._recordings) or self._accepted is not None

    @property
    def slower(self) -> bool:
        """Whether PyTorch's kernels are faster than ours at present. Then PyTorch's run, until ours are better."""
        return self._pace_of_ours() > 1.0

    def forward(self, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The results of the part."""
        for entry in self._recordings.copy():
            recording, place = entry
            if recording.note(place, tensors):
                with contextlib.suppress(ValueError):  # another thread that trains has removed it
                    self._recordings.remove(entry)
        if self._offered is not None:
            return self._prove(tensors)
        program = self._program
        if program is not None and (self._contest is not None or not self.slower):
            try:
                return self._run(program, tensors)
            except Exception as error:  # whatever happens in there, the training goes on
                self.leave(f"its executable failed: {first_line(error)}")
        return self._run_theirs(tensors)

    @property
    def kernel_seconds(self) -> dict[str, float]:
        """The seconds that each of our kernels takes in a run, all its calls together; empty: not known yet."""
        found: dict[str, float] = {}
        for kernel, seconds in self.kernels:
            found[kernel] = found.get(kernel, 0.0) + seconds
        return found

    @property
    def program(self) -> PlanProgram | None:
        """The program that runs now; None: PyTorch's kernels run."""
        return self._program

    def _pace_of_ours(self) -> float:
        """How long our kernels take, as a multiple of PyTorch's time; 1: not known yet."""
        counts = self.counts
        if len(counts.our_seconds) < _ENOUGH or not counts.their_seconds:
            return 1.0
        return min(counts.our_seconds) / min(counts.their_seconds)

    def _run_theirs(self, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The results in PyTorch's kernels. Each tensor is freed after its last use, and the list is empty then."""
        begin = time.perf_counter()
        results: tuple[torch.Tensor, ...] = tuple(self._run_module(tensors))
        self.counts.their_seconds.append(time.perf_counter() - begin)
        self.counts.theirs += 1
        return results

    def _prove(self, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The results of the executable that was offered, if they are PyTorch's; otherwise PyTorch's."""
        with self._lock:
            executable, self._offered = self._offered, None
        if executable is None:
            return self.forward(tensors)
        try:
            program = executable.program
            if not isinstance(program, PlanProgram):
                raise TypeError("it has no plan")
            found = self._run(program, tensors)
            comparison = compare(self._module, self.outputs, tensors, found)
            if not comparison.finite and self._unsure < MOST_UNSURE:
                return self._postpone(executable, tensors)
            right = is_rounding(self._module, self.outputs, tensors, found, comparison)
        except Exception as error:
            self.leave(f"its executable failed: {first_line(error)}")
            return self.forward(tensors)
        self.counts.theirs += 1
        self.counts.their_seconds.append(comparison.seconds)
        self.proof = ProofReport(right, comparison.worst, self._unsure, in_step=True)
        if not right:
            self.leave(f"its results differ from PyTorch's by {comparison.worst:.1e} of their largest number")
            return self._run_theirs(tensors)
        with self._lock:
            self._use(executable, program)
        self.note_proof(executable)
        return_free_pages()
        return found

    def _begin(self) -> None:
        """Run in the executable that was accepted."""
        with self._lock:
            executable, self._accepted = self._accepted, None
            if executable is not None and isinstance(executable.program, PlanProgram):
                self._use(executable, executable.program)

    def _use(self, executable: Executable, program: PlanProgram) -> None:
        """Run in an executable that is right from now on. The lock is held."""
        self._executable, self._program, self.state = executable, program, "running"
        if self._contest is not None:  # its variants are in the library of the program before
            self._contest.over.set()
            self._contest = None
        self._profile = True
        self.counts.our_seconds.clear()  # the first run meets cold caches

    def _postpone(self, executable: Executable, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """PyTorch's results, since this step proves little. The next one proves the executable."""
        self._unsure += 1
        with self._lock:
            if self.state == "ready" and self._offered is None:
                self._offered = executable
        return self._run_theirs(tensors)

    def _run(self, program: PlanProgram, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The results in our kernels, in tensors that PyTorch allocates."""
        given = [self._align(tensor, layout) for tensor, layout in zip(tensors, self.inputs, strict=True)]
        results, addresses = find_addresses(given, self.outputs, self._storages)
        contest, begin = self._contest, time.perf_counter()
        if contest is not None and contest.program is program:
            contest.run(addresses)
            if contest.over.is_set():
                with self._lock:
                    if self._contest is contest:  # another thread may have ended it, and the next one be there
                        self._contest = None
        elif self._profile or self.counts.ours % _PROFILE_EVERY == 0:
            self._profile = False
            self.kernels = tuple(zip(program.kernels, program.profile_in_place(addresses), strict=True))
        else:
            program.run_in_place(addresses)
        if contest is None:
            self.counts.our_seconds.append(time.perf_counter() - begin)
        self.counts.ours += 1
        return results

    def _align(self, tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The tensor if it lies as kernels read it; otherwise a copy that does."""
        aligned = align(tensor, layout)
        self.counts.copies += aligned is not tensor
        return aligned


def accept(executables: Sequence[tuple[LivePart, Executable]]) -> None:
    """Let parts run in executables that were proven elsewhere, from the same step on: the one that adopts them.

    Args:
        executables: by their parts.
    """
    with _changing:
        for part, executable in executables:
            with part._lock:
                if part.state != "left":
                    part._accepted, part.state = executable, "ready"


def adopt(parts: Collection[LivePart]) -> None:
    """Begin a step with the executables that were accepted. Memory is kept for results once all parts have one.

    Args:
        parts: of the step.
    """
    changed = any(part._accepted is not None for part in parts)
    if changed:
        with _changing:
            for part in parts:
                part._begin()
    running = [part for part in parts if part.state == "running"]
    if not running or not all(part.state in ("running", "left") for part in parts):
        return
    storages = running[0]._storages
    if not storages.keeps:
        for part in running:
            part.counts.our_seconds.clear()  # it becomes faster
    if changed or not storages.keeps:
        storages.reserve(layout for part in running for layout in part.outputs)


def first_line(error: Exception) -> str:
    """What an error says, without the traces that PyTorch adds to it."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
