"""Has executables of parts proven by the process that compiles, and hands those that are right to the training.

prepared --> recorded in a step --> proven in the process --> accepted, with the others of its step
                    ^                        |
                    +--- not all finite -----+
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.errors import TilewrightError
from tilewright.measure.isolated import IsolatedError
from tilewright.training.live import MOST_UNSURE, accept
from tilewright.training.proving import Claim, Piece, Verdict
from tilewright.training.recording import Recording, plan_copies
from tilewright.training.results import ProofReport

if TYPE_CHECKING:
    from tilewright.executable.executable import Executable
    from tilewright.training.orders import Order, Prepared

__all__ = ["Proofs"]

_log = logging.getLogger("tilewright.training")


@dataclass
class _Proof:
    """The proof of an executable that waits for copies of a step.

    Attributes:
        order: of its part.
        prepared: the executable.
        recording: gets the copies.
        claim: what will be proven.
        unsure: how many steps had results that are not all finite.
    """

    order: Order
    prepared: Prepared
    recording: Recording
    claim: Claim
    unsure: int


class Proofs:
    """The proofs of one worker. Its thread calls all methods.

    Args:
        folder: for the copies.
        threads: on which kernels run.
        ask: calls a method of the process that compiles.
        load: an executable that the process has built, by its directory.
        refuse: leaves a part to PyTorch, with the reason.
    """

    def __init__(
        self,
        folder: Path,
        threads: int,
        ask: Callable[..., Any],
        load: Callable[[Path], Executable],
        refuse: Callable[[Order, str], None],
    ) -> None:
        self._folder, self._threads, self._ask, self._load, self._refuse = folder, threads, ask, load, refuse
        self._known: list[Order] = []
        self._open: list[Order] = []
        self._waiting: list[_Proof] = []
        self._proven: list[tuple[Order, Executable]] = []

    @property
    def waiting(self) -> bool:
        """Whether a proof waits for a step."""
        return bool(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether a step has copied what a proof needs."""
        return any(proof.recording.over.is_set() for proof in self._waiting)

    def expect(self, order: Order) -> None:
        """Note that a part will have an executable. Other parts of its step may wait for that."""
        self._known.append(order)
        if order.spent is None:
            self._open.append(order)

    def begin(self, order: Order, prepared: Prepared, unsure: int = 0) -> threading.Event:
        """Have the next step copy what the proof of an executable needs. Returns what is set when that is done.

        Args:
            order: of the part, which was expected.
            prepared: the executable.
            unsure: how many steps had results that are not all finite.

        Raises:
            OSError: the disk has no room.
        """
        pieces = [known for known in self._known if known.step is order.step and known.part.state != "left"]
        pieces = pieces[: pieces.index(order) + 1]
        places, copies, size = plan_copies([known.part.signature for known in pieces])
        path = self._folder / f"{prepared.out.name}-{unsure}.copies"
        recording = Recording(path, places, copies, size)
        needed = tuple(Piece(place, pieces[place].request.module, pieces[place].part.signature) for place in places)
        claim = Claim(prepared.out, self._threads, needed, copies, path)
        self._waiting.append(_Proof(order, prepared, recording, claim, unsure))
        for place in places:
            pieces[place].part.record(recording, place)
        return recording.over

    def settle(self) -> None:
        """Prove the executables for which a step has copied what is needed."""
        for proof in [proof for proof in self._waiting if proof.recording.over.is_set()]:
            self._waiting.remove(proof)
            try:
                self._prove(proof)
            except Exception as error:  # whatever fails, the training goes on
                self._refuse(proof.order, f"its executable failed: {error}")
                self.end(proof.order)
            finally:
                proof.claim.path.unlink(missing_ok=True)

    def cancel(self) -> None:
        """Let steps copy nothing more. The files stay."""
        for proof in self._waiting:
            proof.recording.cancel()

    def give_up(self) -> list[tuple[Order, Prepared]]:
        """Wait for no step any more. Returns the executables that are not proven, by their parts."""
        self.cancel()
        for proof in self._waiting:
            proof.claim.path.unlink(missing_ok=True)
        left = [(proof.order, proof.prepared) for proof in self._waiting]
        self._waiting.clear()
        return left

    def end(self, order: Order) -> None:
        """Note that a part was left, can run, or is proven in a step. Parts that waited for it change now.

        It may be noted twice: something may fail after the first time, and then the part is left.

        A backward pass in PyTorch is slow if the forward pass saves its results in blocks. So a part of the forward
        pass changes together with those that read what it saves.
        """
        if order in self._open:
            self._open.remove(order)
        waiting = [other for other in self._open if other.part.state != "left"]
        ready = [
            (known, executable)
            for known, executable in self._proven
            if not any(self._reads(other, known) for other in waiting)
        ]
        self._proven = [entry for entry in self._proven if entry not in ready]
        accept([(known.part, executable) for known, executable in ready])

    def sort(self, orders: Iterable[Order]) -> list[Order]:
        """Parts as they are prepared: those of the backward pass follow those whose results they read.

        So the first parts of a step run in our kernels while others are prepared.

        Args:
            orders: which were expected.
        """
        return sorted(orders, key=self._find_turn)

    def _find_turn(self, order: Order) -> tuple[int, int, int]:
        """What parts are sorted by: their step, the last part of the forward pass that they need, their place."""
        step = [known for known in self._known if known.step is order.step]
        if order not in step:  # forgotten, since preparing has failed before
            return len(self._known), 0, 0
        place, begin = step.index(order), self._known.index(step[0])
        if not order.part.signature.backward:
            return begin, place, -1
        takes = set(order.part.signature.takes)
        read = [at for at, other in enumerate(step) if not other.part.signature.backward and takes & _list_saved(other)]
        return begin, max(read, default=len(step)), place

    def _reads(self, order: Order, giver: Order) -> bool:
        """Whether a part of the backward pass reads blocks that a part of the forward pass saves, and only saves."""
        if order.step is not giver.step or not order.part.signature.backward or giver.part.signature.backward:
            return False
        forward = [other for other in self._known if other.step is giver.step and not other.part.signature.backward]
        between = {name for other in forward for name in other.part.signature.takes}
        return bool(set(order.part.signature.takes) & _list_saved(giver, blocks=True) - between)

    def forget(self) -> None:
        """Forget the parts of steps that wait for nothing."""
        self._known = [known for known in self._known if any(known.step is other.step for other in self._open)]

    def _prove(self, proof: _Proof) -> None:
        """Have an executable proven, and let the training use it if it is right."""
        order = proof.order
        if proof.recording.error:
            raise TilewrightError(f"a step could not copy what it takes: {proof.recording.error}")
        try:
            verdict = self._ask("prove", proof.claim)
        except IsolatedError:  # somebody may have killed it; kernels that crash do so again
            verdict = self._ask("prove", proof.claim)
        assert isinstance(verdict, Verdict)
        order.part.proof = ProofReport(verdict.right, verdict.worst, proof.unsure)
        if not verdict.finite and proof.unsure < MOST_UNSURE:
            try:
                self.begin(order, proof.prepared, proof.unsure + 1)
                return
            except OSError as error:
                _log.info("%s is proven in a step: %s", order.part.name, error)
                order.part.offer(self._load(proof.prepared.out))
        elif verdict.right:
            self._proven.append((order, executable := self._load(proof.prepared.out)))
            order.part.note_proof(executable)
        else:
            self._refuse(order, f"its results differ from PyTorch's by {verdict.worst:.1e} of their largest number")
        self.end(order)


def _list_saved(order: Order, blocks: bool = False) -> set[str]:
    """The names of what a part gives; with ``blocks``, of what it gives in blocks."""
    given = zip(order.part.signature.gives, order.part.signature.outputs, strict=True)
    return {name for name, layout in given if name and (layout.block or not blocks)}
