"""What was done with a model before it was read for tuning, and what its outputs are compared with besides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilewright.errors import TilewrightError
from tilewright.quantising.accuracy import compare_outputs
from tilewright.quantising.samples import Sample
from tilewright.tensor import Array
from tilewright.tuning.report import PrecisionReport, ReferenceReport

__all__ = ["Preparation", "ReferenceOutputs"]


@dataclass(frozen=True, eq=False)
class ReferenceOutputs:
    """The outputs of another model, such as the model in floating point of a quantised one. Can be pickled.

    Attributes:
        model: the name of its file.
        samples: of the inputs.
        random: whether these are random.
        names: of the outputs.
        outputs: for each sample.
    """

    model: str
    samples: tuple[Sample, ...]
    random: bool
    names: tuple[str, ...]
    outputs: tuple[Sequence[Array], ...]

    def compare(self, run: Callable[[Sample], Sequence[Array]]) -> ReferenceReport:
        """Compare the outputs of a model or of an executable, which ``run`` computes for a sample, with these."""
        found = [run(sample) for sample in self.samples]
        compared = compare_outputs(self.names, self.outputs, found)
        return ReferenceReport(self.model, len(self.samples), self.random, tuple(compared))


@dataclass(frozen=True, eq=False)
class Preparation:
    """What was done with a model before it was read.

    Attributes:
        notes: about that, for people.
        precisions: of the weights of products of few rows.
        reference: what outputs are compared with besides; None: nothing.
        trials: the measurements that chose the precisions. They are part of the budget.
    """

    notes: tuple[str, ...] = ()
    precisions: tuple[PrecisionReport, ...] = ()
    reference: ReferenceOutputs | None = None
    trials: int = 0

    def compare(self, run: Callable[[Sample], Sequence[Array]]) -> tuple[ReferenceReport | None, tuple[str, ...]]:
        """Compare outputs with the reference's, if there is one. Returns the comparison, and notes about a failure.

        Args:
            run: computes the outputs of the executable for a sample.
        """
        if self.reference is None:
            return None, ()
        try:
            return self.reference.compare(run), ()
        except TilewrightError as error:  # a sample of another shape than the executable has
            return None, (f"the outputs were not compared with those of {self.reference.model}: {error}",)
