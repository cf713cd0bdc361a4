"""Clusters: what is published, against lists of all cliques; and the same for tasks in any order."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.errors import TilewrightError
from tilewright.share.cluster import (
    Cluster,
    ClusterMethod,
    agglomerative_clusters,
    clique_clusters,
    maximal_cliques,
)

METHODS = pytest.mark.parametrize("method", [clique_clusters, agglomerative_clusters], ids=["cliques", "agglomerative"])


@st.composite
def matrices(draw: Any, most: int = 9) -> NDArray[np.float64]:
    """Symmetric, 1 on the diagonal; with many ties and many zeros."""
    count = draw(st.integers(0, most))
    matrix = np.eye(count)
    for i, j in combinations(range(count), 2):
        matrix[i, j] = matrix[j, i] = draw(st.sampled_from([0.0, 0.0, 0.005, 0.01, 0.1, 0.3, 0.9, 1.0]))
    return matrix


def names(count: int) -> list[str]:
    return [f"task{i}" for i in range(count)]


@given(matrices())
def test_cliques_are_all_the_maximal_ones_and_each_comes_once(matrix: NDArray[np.float64]) -> None:
    edges, count = matrix >= 0.01, len(matrix)
    complete = [
        set(group)
        for size in range(1, count + 1)
        for group in combinations(range(count), size)
        if all(edges[i, j] for i, j in combinations(group, 2))
    ]
    expected = sorted(tuple(sorted(one)) for one in complete if not any(one < other for other in complete))
    assert sorted(maximal_cliques(edges)) == expected


@METHODS
@given(matrices())
def test_each_task_is_in_one_cluster_of_which_one_represents(
    method: ClusterMethod, matrix: NDArray[np.float64]
) -> None:
    keys = names(len(matrix))
    clusters = method(keys, matrix)
    assert sorted(key for cluster in clusters for key in cluster.members) == sorted(keys)
    for cluster in clusters:
        assert cluster.representative in cluster.members
        places = [keys.index(key) for key in cluster.members]
        assert (matrix[np.ix_(places, places)] >= 0.01).all()  # both by cliques
        sums = matrix[np.ix_(places, places)].sum(axis=1)
        assert sums[cluster.members.index(cluster.representative)] == pytest.approx(sums.max())


@METHODS
@given(matrices(), st.data())
def test_the_order_of_tasks_does_not_matter(
    method: ClusterMethod, matrix: NDArray[np.float64], data: st.DataObject
) -> None:
    keys = names(len(matrix))
    order = data.draw(st.permutations(range(len(keys))))
    assert method([keys[i] for i in order], matrix[np.ix_(order, order)]) == method(keys, matrix)


def test_a_task_between_two_cliques_goes_where_its_sum_is_larger() -> None:
    matrix = np.eye(5)
    for i, j, value in ((0, 1, 0.5), (0, 2, 0.2), (1, 2, 0.2), (2, 3, 0.9), (3, 4, 0.1), (2, 4, 0.1)):
        matrix[i, j] = matrix[j, i] = value
    expected = (Cluster("a", ("a", "b")), Cluster("c", ("c", "d", "e")))
    assert clique_clusters("abcde", matrix) == expected


def test_the_threshold_decides() -> None:
    matrix = np.asarray([[1.0, 0.3], [0.3, 1.0]])
    methods: list[ClusterMethod] = [clique_clusters, agglomerative_clusters]
    for method in methods:
        assert len(method("ab", matrix, 0.3)) == 1
        assert len(method("ab", matrix, 0.31)) == 2


def test_linkage_decides_what_a_chain_is() -> None:
    chain = np.asarray([[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]])
    assert [len(agglomerative_clusters("abc", chain, 0.2, k)) for k in ("single", "average", "complete")] == [1, 1, 2]
    assert agglomerative_clusters("abc", chain, 0.2, "single") == (Cluster("b", ("a", "b", "c")),)


def test_more_cliques_than_anyone_can_list_end_in_time() -> None:
    parts = np.arange(90) // 3  # 3^30 cliques
    matrix = np.where(parts[:, None] == parts[None, :], 0.0, 0.5)
    np.fill_diagonal(matrix, 1.0)
    clusters = clique_clusters([f"{i:02}" for i in range(90)], matrix)
    assert sorted(key for cluster in clusters for key in cluster.members) == [f"{i:02}" for i in range(90)]


@METHODS
def test_what_is_no_matrix_of_these_tasks_is_refused(method: ClusterMethod) -> None:
    with pytest.raises(TilewrightError, match="equal"):
        method(["a", "a"], np.eye(2))
    with pytest.raises(TilewrightError, match="similarity_matrix"):
        method(["a", "b"], np.eye(3))
