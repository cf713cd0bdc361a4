"""PyTorch for searchers: on one thread, and without a change of the global random generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["one_thread", "own_randomness"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread. Waking other threads takes longer than the work of a small network.

    The number of threads belongs to the whole process, so it is restored at the end.
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
    """Seed the global generators of PyTorch and NumPy, and restore them at the end.

    Stable-Baselines3 draws from no others: weights and actions from PyTorch's, the order of minibatches from NumPy's.
    """
    import torch

    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the generators of GPUs as well.
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
