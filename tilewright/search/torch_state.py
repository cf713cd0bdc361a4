"""PyTorch for a searcher: on one thread, and without a trace in anybody's random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["one_thread", "own_randomness"]


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on this thread alone: waking others costs more than nets so small give them to do.

    The number of threads is the whole process's, so it is put back.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """The global generators of PyTorch and NumPy are seeded, and afterwards as they were before.

    For libraries that can draw from no other: Stable-Baselines3 draws weights and actions from PyTorch's and the order
    of minibatches from NumPy's.
    """
    import torch

    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the generators of GPUs as well.
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
