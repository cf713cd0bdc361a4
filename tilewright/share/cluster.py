"""Clusters of similar tasks, each with a representative that is tuned for the others.

:func:`clique_clusters` is that of published Schedule Sharing (Yu, TVM conference 2019), and
:func:`agglomerative_clusters` is scikit-learn's. Both give the same clusters for tasks in any order: tasks are sorted
by key, and ties go to the first key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import TilewrightError

__all__ = ["Cluster", "ClusterMethod", "agglomerative_clusters", "clique_clusters", "maximal_cliques"]

#: The most cliques that are looked at, because n tasks may have 3^(n/3). A task in none of them is a cluster of its
#: own.
_MOST_CLIQUES = 20_000


@dataclass(frozen=True)
class Cluster:
    """Tasks that share, by their keys.

    Attributes:
        representative: the task that is tuned for all.
        members: all tasks, sorted, the representative too.
    """

    representative: str
    members: tuple[str, ...]


class ClusterMethod(Protocol):
    """Groups tasks."""

    def __call__(
        self, keys: Sequence[str], similarity: NDArray[np.float64], threshold: float = ...
    ) -> tuple[Cluster, ...]:
        """The clusters of the tasks ``keys`` by their ``(n, n)`` similarities. Each task is in one."""
        ...


def clique_clusters(
    keys: Sequence[str], similarity: NDArray[np.float64], threshold: float = 0.01
) -> tuple[Cluster, ...]:
    """The clusters by maximal cliques of the graph of similar tasks, as published.

    A task in several cliques joins the one with the largest sum of similarities to it. The representative of a cluster
    is the member with the largest sum of similarities to the others.

    Args:
        keys: of the tasks, no two equal.
        similarity: ``(n, n)``, symmetric.
        threshold: the least similarity of two tasks with an edge.

    Returns:
        the clusters, ordered by their first members. Each task is in one.

    Raises:
        TilewrightError: keys repeat, or the matrix does not fit their number.
    """
    names, matrix = _sorted(keys, similarity)
    home: dict[int, tuple[float, tuple[int, ...]]] = {}
    for clique in islice(maximal_cliques(matrix >= threshold), _MOST_CLIQUES):
        for i in clique:
            entry = (-float(matrix[i, list(clique)].sum()), clique)
            home[i] = min(home.get(i, entry), entry)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in range(len(names)):
        groups.setdefault(home[i][1] if i in home else (i,), []).append(i)
    return _clusters(names, matrix, list(groups.values()))


def maximal_cliques(edges: NDArray[np.bool_]) -> Iterator[tuple[int, ...]]:
    """The maximal cliques of a symmetric ``(n, n)`` graph, each ascending.

    This is algorithm 457 (Bron & Kerbosch, 1973) with the pivot of Tomita et al. (2006): candidates that are neighbours
    of the pivot need not be tried. The diagonal of the graph does not count.
    """
    near = [set(np.flatnonzero(row).tolist()) - {i} for i, row in enumerate(edges)]

    def extend(clique: list[int], candidates: set[int], done: set[int]) -> Iterator[tuple[int, ...]]:
        if not candidates and not done:
            yield tuple(sorted(clique))
            return
        pivot = min(candidates | done, key=lambda v: (-len(near[v] & candidates), v))
        for v in sorted(candidates - near[pivot]):
            yield from extend([*clique, v], candidates & near[v], done & near[v])
            candidates = candidates - {v}
            done = done | {v}

    if near:
        yield from extend([], set(range(len(near))), set())


def agglomerative_clusters(
    keys: Sequence[str],
    similarity: NDArray[np.float64],
    threshold: float = 0.01,
    linkage: Literal["average", "complete", "single"] = "complete",
) -> tuple[Cluster, ...]:
    """The clusters by scikit-learn's ``AgglomerativeClustering`` on 1 - similarity.

    Args:
        keys: of the tasks, no two equal.
        similarity: ``(n, n)``, symmetric, from 0 to 1.
        threshold: the least similarity of clusters that are joined.
        linkage: the similarity of two clusters is that of their least similar members (``complete``), of their most
            similar members (``single``), or the mean over all pairs of members (``average``). With ``complete``,
            clusters are cliques, though not maximal ones.

    Returns:
        the clusters, ordered by their first members. Each task is in one.

    Raises:
        TilewrightError: keys repeat, or the matrix does not fit their number.
    """
    names, matrix = _sorted(keys, similarity)
    if len(names) < 2:
        return _clusters(names, matrix, [[i] for i in range(len(names))])
    from sklearn.cluster import AgglomerativeClustering  # the import takes half a second

    # scikit-learn does not join clusters at a distance of exactly the threshold, but equal similarity shall suffice.
    limit = float(np.nextafter(1.0 - threshold, 2.0))
    model = AgglomerativeClustering(n_clusters=None, metric="precomputed", linkage=linkage, distance_threshold=limit)
    labels = model.fit_predict(1.0 - matrix)
    return _clusters(names, matrix, [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)])


def _sorted(keys: Sequence[str], similarity: NDArray[np.float64]) -> tuple[list[str], NDArray[np.float64]]:
    if len(set(keys)) != len(keys):
        raise TilewrightError("tasks are told apart by their keys, but some of these are equal; give each task once")
    if similarity.shape != (len(keys), len(keys)):
        raise TilewrightError(
            f"{len(keys)} tasks have a ({len(keys)}, {len(keys)}) matrix of similarities, but this is "
            f"{similarity.shape}; make it with similarity_matrix"
        )
    order = sorted(range(len(keys)), key=lambda i: keys[i])
    return [keys[i] for i in order], similarity[np.ix_(order, order)]


def _clusters(names: list[str], matrix: NDArray[np.float64], groups: list[list[int]]) -> tuple[Cluster, ...]:
    found = []
    for group in groups:
        sums = matrix[np.ix_(group, group)].sum(axis=1)
        # Sums of the same numbers in another order may differ in their last digit.
        first = int(np.flatnonzero(sums >= sums.max() - 1e-9)[0])
        found.append(Cluster(names[group[first]], tuple(names[i] for i in group)))
    return tuple(sorted(found, key=lambda cluster: cluster.members))
