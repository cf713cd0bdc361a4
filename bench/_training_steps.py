"""Steps of training in a process of their own: with PyTorch alone, with its compiler, and with Tilewright."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench._training_models import BATCH, make_training
from tilewright.measure.memory import held
from tilewright.tensor import Array, TensorSpec

__all__ = ["ARMS", "StepSeconds", "Steps"]

#: Eager PyTorch with channels first and last, PyTorch's own compiler and Tilewright with both, and the reference.
ARMS = ("eager", "eager-last", "inductor", "inductor-last", "tilewright", "tilewright-last", "float64")


class StepSeconds(float):
    """The seconds of a step. The rest is that of the optimizer.

    Attributes:
        forward: seconds until the loss is known. Activations are saved.
        backward: seconds until all gradients are known.
    """

    forward: float
    backward: float


class Steps:
    """Trains a network, always on the same batch, with SGD and momentum.

    Args:
        model: the network's name.
        arm: one of :data:`ARMS`.
        threads: how many threads PyTorch uses.
        options: of Tilewright's backend.
        batch: how many inputs a batch has.

    Attributes:
        inputs: empty: the batch is always the same.
    """

    inputs: tuple[TensorSpec, ...] = ()

    def __init__(
        self, model: str, arm: str, threads: int, options: dict[str, Any] | None = None, batch: int = BATCH
    ) -> None:
        torch.set_num_threads(threads)
        self._training = make_training(model, batch)
        module, self._inputs = self._training.module, self._training.inputs
        if arm == "float64":
            module = module.double()
            self._inputs = self._inputs.double() if self._inputs.is_floating_point() else self._inputs
        if arm.endswith("-last") and self._training.images:
            module = module.to(memory_format=torch.channels_last)
            self._inputs = self._inputs.contiguous(memory_format=torch.channels_last)
        self._parameters = list(module.parameters())
        self._optimizer = torch.optim.SGD(self._parameters, lr=0.01, momentum=0.9)
        if arm.startswith("inductor"):
            module = torch.compile(module)
        if arm.startswith("tilewright"):
            module = torch.compile(module, backend="tilewright", options=options or {})
        self._module = module

    def __call__(self, *_: Array) -> list[Array]:
        """The loss of one step."""
        return [np.asarray(self._step())]

    def time(self, _: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of ``runs`` steps, as :class:`StepSeconds`."""
        return [self._time_step() for _run in range(runs)]

    def run(self, _: Sequence[Array], seconds: float) -> list[float]:
        """Take steps for ``seconds``; returns the seconds from the start to the end of each."""
        begin, ends = time.perf_counter(), [0.0]
        while ends[-1] < seconds:
            self._step()
            ends.append(time.perf_counter() - begin)
        return ends[1:]

    def find_peak(self, _: Sequence[Array]) -> int:
        """The most memory that this process has had, in bytes."""
        return held(os.getpid())[1]

    def compute_gradients(self, _: Sequence[Array]) -> list[Array]:
        """The gradients of all parameters, with the weights as they are."""
        self._optimizer.zero_grad()
        self._find_loss().backward()
        return [np.zeros(0) if p.grad is None else p.grad.detach().numpy().copy() for p in self._parameters]

    def train(self, _: Sequence[Array], steps: int) -> list[Array]:
        """All parameters after so many steps more."""
        for _step in range(steps):
            self._step()
        return [p.detach().numpy().copy() for p in self._parameters]

    def find_states(self, _: Sequence[Array]) -> list[tuple[str, str, int]]:
        """Of each part that Tilewright compiles: its name, how it runs, and the steps in our kernels so far."""
        from tilewright.training import report

        graphs = report(self._module).graphs
        return [(graph.kind, part.state, part.ours) for graph in graphs for part in graph.parts]

    def _find_loss(self) -> torch.Tensor:
        return self._training.find_loss(self._module(self._inputs))

    def _time_step(self) -> StepSeconds:
        marks = [time.perf_counter()]
        self._step(marks)
        seconds = StepSeconds(time.perf_counter() - marks[0])
        seconds.forward, seconds.backward = np.diff(marks[1:]).tolist()
        return seconds

    def _step(self, marks: list[float] | None = None) -> float:
        """The loss of a step. Its time before, between and after the passes is added to ``marks``."""
        marks = [] if marks is None else marks
        self._optimizer.zero_grad()
        marks.append(time.perf_counter())
        loss = self._find_loss()
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        self._optimizer.step()
        return float(loss.detach())
