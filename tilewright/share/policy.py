"""How the tasks of a network share what they find: a value that a method has."""

from __future__ import annotations

from dataclasses import dataclass, field

from tilewright.share.cluster import ClusterMethod, agglomerative_clusters, clique_clusters
from tilewright.share.similarity import Measure, ProgramLikeness, overlap

__all__ = ["Sharing"]


@dataclass(frozen=True)
class Sharing:
    """How tasks share.

    Attributes:
        measure: the similarity of tasks.
        cluster: what groups them.
        threshold: tasks less similar than this share nothing. (At 0.3 the recorded networks have as many clusters as by
            the published measure, and what dependents borrow is 8 % slower than their best in the median, not 16 %.)
        top: how many of the representative's best a dependent tries at a time, where borrowing is worth that.
        credit: how often borrowed configs are expected to win before any was compared; None: as similarity says.
        model: whether what a task measures corrects the cost model of the others, where the method can do that.
        earlier: tasks of earlier networks whose design spaces are made, at most; 0: none.
        seconds: to make them in, and at most a twentieth of the budget; what is begun is finished.
    """

    measure: Measure = field(default_factory=ProgramLikeness)
    cluster: ClusterMethod = agglomerative_clusters
    threshold: float = 0.3
    top: int = 3
    credit: float | None = None
    model: bool = True
    earlier: int = 24
    seconds: float = 3.0

    @classmethod
    def published(cls) -> Sharing:
        """The overlap of tuning spaces and maximal cliques, at a similarity of 0.01, the best ten.

        Loans are trusted in advance, as the paper did. Different from it: where they disappoint, tasks are tuned.
        """
        return cls(overlap, clique_clusters, 0.01, top=10, credit=1.0, model=False)
