"""How the tasks of a network share what they find: a value that a method has."""

from __future__ import annotations

from dataclasses import dataclass, field

from tilewright.share.cluster import ClusterMethod, agglomerative_clusters, clique_clusters
from tilewright.share.similarity import Measure, ProgramLikeness, overlap

__all__ = ["Sharing"]


@dataclass(frozen=True)
class Sharing:
    """How tasks share. One task of each cluster represents the others and lends them its best configs.

    Attributes:
        measure: the similarity of two tasks, 0 to 1.
        cluster: groups similar tasks.
        threshold: tasks less similar than this share nothing. (At 0.3 the recorded networks have as many clusters as by
            the published measure, and what dependents borrow is 8 % slower than their best in the median, not 16 %.)
        top: how many of the representative's best configs a dependent tries at a time.
        only_borrows: whether dependents try these and no proposals of their own, as published. They are tuned like any
            other task only if none of these works, or if time is left when all representatives are done.
    """

    measure: Measure = field(default_factory=ProgramLikeness)
    cluster: ClusterMethod = agglomerative_clusters
    threshold: float = 0.3
    top: int = 2
    only_borrows: bool = False

    @classmethod
    def published(cls) -> Sharing:
        """Schedule Sharing (Yu, TVM conference 2019; apache/tvm #4188).

        Tasks are similar as far as their tuning spaces overlap. Maximal cliques at a similarity of 0.01 are clusters,
        and dependents measure the ten best configs of their representatives.
        """
        return cls(overlap, clique_clusters, 0.01, top=10, only_borrows=True)
