"""Several models of one kind, fitted with different seeds: their mean, and how far they disagree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import Programs, rows_of
from tilewright.errors import TilewrightError

if TYPE_CHECKING:
    from tilewright.cost.models import TrainableModel

__all__ = ["Ensemble"]


class Ensemble:
    """The mean of models that differ in their seed, each fitted to a resampling of the programs of every task.

    Resampled (bagging, Breiman 1996), as models of one loss on the same data agree where all are wrong.

    Args:
        make: a model, of a seed.
        count: how many.
        seed: of the first model's seed, and of the resampling.

    Raises:
        TilewrightError: fewer than two models, which cannot disagree.
    """

    def __init__(self, make: Callable[[int], TrainableModel], count: int = 5, seed: int = 0) -> None:
        if count < 2:
            raise TilewrightError(f"an ensemble has two models or more, but this has {count}")
        self._members = [make(seed + number) for number in range(count)]
        self._seed = seed

    @property
    def ready(self) -> bool:
        """Whether all models are."""
        return all(member.ready for member in self._members)

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Fit every model; see ``CostModel``. Raises as the models do."""
        rng = np.random.default_rng(self._seed)
        for member in self._members:
            # A program that was not drawn is left out as if it had not been measured; the best always counts, as labels
            # are relative to it.
            drawn = [_without(times, rng) for times in seconds]
            member.fit(
                [rows_of(p, kept) for p, kept in zip(programs, drawn, strict=True)],
                [times[kept] for times, kept in zip(seconds, drawn, strict=True)],
            )

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """``(n,)`` mean scores, higher is faster, comparable within one task; all 0 before the models are ready."""
        return np.asarray(self._scores(programs).mean(axis=0))

    def spread(self, programs: Programs) -> NDArray[np.float64]:
        """``(n,)`` standard deviations of the models' scores: large where they know little."""
        return np.asarray(self._scores(programs).std(axis=0))

    def state(self) -> dict[str, NDArray[Any]]:
        """What the models have learnt, as arrays."""
        return {
            f"{i}.{name}": value for i, member in enumerate(self._members) for name, value in member.state().items()
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what ``state`` gave. Raises as the models do."""
        for i, member in enumerate(self._members):
            head = f"{i}."
            member.restore({name[len(head) :]: value for name, value in state.items() if name.startswith(head)})

    def _scores(self, programs: Programs) -> NDArray[np.float64]:
        if not self.ready:
            return np.zeros((len(self._members), len(programs)))
        return np.stack([member.predict(programs) for member in self._members])


def _without(seconds: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.intp]:
    """The rows of a resampling, each once, and the fastest."""
    kept = set(rng.integers(0, len(seconds), size=len(seconds)).tolist()) if len(seconds) else set()
    if np.isfinite(seconds).any():
        kept.add(int(np.nanargmin(seconds)))
    return np.asarray(sorted(kept), dtype=np.intp)
