"""Other algorithms for convolutions of a network that was cut into tasks already."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.models import TARGET, normal, read, save
from tilewright.graph.convolution import ALGORITHMS, Algorithm, Convolution
from tilewright.graph.tasks import Extraction, extract


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    """Two equal convolutions with weights of their own, one with the first one's weights, and a lone one."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w1"], ["c3"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c3", "r1"], ["s"]),
        helper.make_node("Conv", ["s", "w3"], ["y"]),
    ]
    weights = {"w1": normal(32, 32, 3, 3), "w2": normal(32, 32, 3, 3, seed=1), "w3": normal(16, 32, 3, 3, seed=2)}
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    return extract(read(save(path, nodes, {"x": [1, 32, 12, 12]}, [1, 16, 10, 10], **weights)), TARGET)


def names(extraction: Extraction) -> dict[str, int]:
    return {use.task.name.split()[0]: use.weight for use in extraction.uses}


@pytest.mark.parametrize("algorithm", ALGORITHMS[1:])
def test_only_the_functions_of_these_convolutions_are_others(extraction: Extraction, algorithm: Algorithm) -> None:
    (often, _), (once, _) = extraction.rewritten.convolutions
    before = {use.task.key for use in extraction.uses}
    one = extraction.with_algorithms({once: algorithm})
    lost = [use for use in extraction.uses if use.task.key not in {other.task.key for other in one.uses}]
    assert [use.weight for use in lost] == [1]
    both = extraction.with_algorithms({often: algorithm, once: algorithm})
    kinds = {use.task.kind for use in both.uses if use.task.key not in before}
    assert kinds == ({"winograd"} if algorithm.startswith("fused") else {"winograd", "contraction"})
    assert both.plan is not None
    assert len(both.recipes) == len(extraction.recipes) == 3  # the first weights are transformed once for two uses
    assert all(recipe.steps[0][0] == "winograd" for recipe in both.recipes)


def test_the_way_back_is_the_network_as_it_was(extraction: Extraction) -> None:
    choice: dict[Convolution, Algorithm] = {conv: "winograd4" for conv, _ in extraction.rewritten.convolutions}
    changed = extraction.with_algorithms(choice)
    back = changed.with_algorithms({})
    assert back.uses == extraction.uses
    assert back.recipes == extraction.recipes
    assert back.plan == extraction.plan


def test_at_once_and_one_after_the_other_are_the_same(extraction: Extraction) -> None:
    algorithms: dict[Convolution, Algorithm] = {
        conv: "fused_winograd2" for conv, _ in extraction.rewritten.convolutions
    }
    at_once = extract(extraction.network, TARGET, algorithms)
    later = extraction.with_algorithms({}).with_algorithms(algorithms)
    assert [(use.task, use.weight) for use in later.uses] == [(use.task, use.weight) for use in at_once.uses]
    arrays = [recipe.apply(extraction.network.weights) for recipe in later.recipes]
    for array, recipe in zip(arrays, at_once.recipes, strict=True):
        np.testing.assert_array_equal(array, recipe.apply(extraction.network.weights))


def test_unknown_convolutions_and_the_direct_algorithm_change_nothing(extraction: Extraction) -> None:
    (often, _), _ = extraction.rewritten.convolutions
    same = extraction.with_algorithms({often: "direct"})
    assert same.uses == extraction.uses
    assert names(same) == names(extraction)
