"""Runs a network on the virtual machine of Relax, which serves whatever TVM can compile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilewright.executable.program import KernelTime, Variants
from tilewright.tensor import Array
from tilewright.tvm_compat import set_threads

if TYPE_CHECKING:
    import tvm

__all__ = ["MachineProgram"]


class MachineProgram:
    """A network on the virtual machine of Relax. It does not tell its kernels apart.

    Args:
        library: the library that TVM built.
        weights: the arguments after the inputs.
    """

    def __init__(self, library: Path, weights: Sequence[Array]) -> None:
        set_threads()
        import tvm
        from tvm import relax

        self._device = tvm.cpu()
        self._machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), self._device)
        self._main = self._machine["main"]
        self._tensor = tvm.runtime.tensor
        self._weights = [self._tensor(w, self._device) for w in weights]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for ``arrays``."""
        result = self._main(*self._tensors(arrays), *self._weights)
        return [np.asarray(t.numpy()) for t in ([result] if hasattr(result, "numpy") else result)]

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of ``runs`` calls, without copying inputs and outputs."""
        arguments = [*self._tensors(arrays), *self._weights]
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            self._main(*arguments)
            seconds.append(time.perf_counter() - start)
        return seconds

    def overhead(self, runs: int) -> list[float] | None:
        """None: the machine cannot leave out its kernels."""
        return None

    def profile(self, arrays: Sequence[Array], runs: int, repeats: int = 1) -> list[KernelTime] | None:
        """None: the machine does not tell its kernels apart."""
        return None

    def contest(
        self, arrays: Sequence[Array], variants: Variants, seconds: float, least: int, most: int
    ) -> dict[str, list[list[float]]]:
        """Nothing: the machine does not tell its kernels apart."""
        return {}

    def _tensors(self, arrays: Sequence[Array]) -> list[tvm.runtime.Tensor]:
        return [
            self._tensor(np.asarray(a, order="C"), self._device) for a in arrays
        ]  # ascontiguousarray changes scalars
