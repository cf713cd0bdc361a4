"""Ensembles: several models of one kind with different seeds, whose mean is the score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import Programs, take_rows
from tilewright.errors import TilewrightError
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tilewright.cost.models import TrainableModel

__all__ = ["Ensemble"]


class Ensemble:
    """The mean of models with different seeds, each fitted to a resampling of every task's programs. A ``CostModel``.

    Resampling is bagging (Breiman 1996). Models that are fitted to the same data make the same mistakes.

    Args:
        make: makes a model from a seed.
        count: the number of models.
        seed: of the first model, and of the resampling.

    Raises:
        TilewrightError: there are fewer than two models.
    """

    def __init__(self, make: Callable[[int], TrainableModel], count: int = 5, seed: int = 0) -> None:
        if count < 2:
            raise TilewrightError(f"an ensemble has two models or more, but this has {count}")
        self._members = [make(seed + number) for number in range(count)]
        self._seed = seed

    @property
    def ready(self) -> bool:
        """Whether all models are ready."""
        return all(member.ready for member in self._members)

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Fit every model, as ``CostModel.fit`` says. Raises as the models do."""
        rng = np.random.default_rng(self._seed)
        for member in self._members:
            # A program that was not drawn counts as not measured. The best always counts: labels are relative to it.
            drawn = [_resample(times, rng) for times in seconds]
            member.fit(
                [take_rows(p, kept) for p, kept in zip(programs, drawn, strict=True)],
                [times[kept] for times, kept in zip(seconds, drawn, strict=True)],
            )

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """The ``(n,)`` mean scores, where higher is faster within one task; all 0 before the models are ready."""
        return np.asarray(self._scores(programs).mean(axis=0))

    def spread(self, programs: Programs) -> NDArray[np.float64]:
        """The ``(n,)`` standard deviations of the models' scores, which are large for unfamiliar programs."""
        return np.asarray(self._scores(programs).std(axis=0))

    def state(self) -> dict[str, Array]:
        """The arrays of all models."""
        return {
            f"{i}.{name}": value for i, member in enumerate(self._members) for name, value in member.state().items()
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take over the arrays of :meth:`state`. Raises as the models do."""
        for i, member in enumerate(self._members):
            head = f"{i}."
            member.restore({name[len(head) :]: value for name, value in state.items() if name.startswith(head)})

    def _scores(self, programs: Programs) -> NDArray[np.float64]:
        if not self.ready:
            return np.zeros((len(self._members), len(programs)))
        return np.stack([member.predict(programs) for member in self._members])


def _resample(seconds: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.intp]:
    """The rows of a resampling, each once, with that of the fastest program."""
    kept = set(rng.integers(0, len(seconds), size=len(seconds)).tolist()) if len(seconds) else set()
    if np.isfinite(seconds).any():
        kept.add(int(np.nanargmin(seconds)))
    return np.asarray(sorted(kept), dtype=np.intp)
