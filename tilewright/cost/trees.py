"""XGBoost's trees as plain arrays, which are checked before XGBoost reads them.

XGBoost trusts its own files: a node with a child or a feature that does not exist makes it read foreign memory. So
files of cost models hold trees as arrays, with one entry for each node of each tree. XGBoost's own format is made from
the arrays after they were checked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.tensor import Array

if TYPE_CHECKING:
    import xgboost

__all__ = ["Trees", "pack", "unpack"]

#: The most nodes and features that are read: a hundred times those of the shipped model.
_MOST_NODES = 10_000_000
_MOST_FEATURES = 1_000_000
#: The dtype of each array that has an entry a tree (``sizes``) or a node (all others).
_ARRAYS: dict[str, type[np.generic]] = {
    "sizes": np.int32,
    "left": np.int32,
    "right": np.int32,
    "feature": np.int32,
    "threshold": np.float32,
    "default_left": np.uint8,
}
#: The dtype of each single value.
_VALUES: dict[str, type[np.generic]] = {"features": np.int32, "base": np.float32}
#: UBJSON's letters for the types of numbers.
_LETTERS = {"f4": b"d", "i4": b"l", "u1": b"U", "i8": b"L"}

_UBJson: TypeAlias = "Mapping[str, _UBJson] | Sequence[_UBJson] | Array | str | int"


@dataclass(frozen=True)
class Trees:
    """The trees of a booster with one output. Nodes are in breadth-first order, tree after tree.

    Attributes:
        sizes: ``(trees,)`` the number of nodes of each tree.
        left: ``(nodes,)`` the place of the left child within its tree; -1 in a leaf.
        right: ``(nodes,)`` the place of the right child within its tree; -1 in a leaf.
        feature: ``(nodes,)`` the feature that the node compares.
        threshold: ``(nodes,)`` the number that the feature is compared with; the value of a leaf.
        default_left: ``(nodes,)`` 1 if a nan goes to the left child, otherwise 0.
        features: the number of features, without dimensions.
        base: the score before the first tree, without dimensions.
    """

    sizes: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    default_left: NDArray[np.uint8]
    features: NDArray[np.int32]
    base: NDArray[np.float32]

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Trees:
        """The trees of :meth:`arrays`.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays hold no trees, or trees that are not whole.
        """
        if "trees" in arrays and "sizes" not in arrays:
            raise ValueError("its trees are in XGBoost's own format, as before they were checked")
        for name, kind in (_ARRAYS | _VALUES).items():
            array = arrays[name]
            if array.dtype != kind or array.ndim != int(name in _ARRAYS):
                raise ValueError(f"its {name} are of {array.dtype} {array.shape}")
        found = cls(
            sizes=arrays["sizes"].astype(np.int32),
            left=arrays["left"].astype(np.int32),
            right=arrays["right"].astype(np.int32),
            feature=arrays["feature"].astype(np.int32),
            threshold=arrays["threshold"].astype(np.float32),
            default_left=arrays["default_left"].astype(np.uint8),
            features=arrays["features"].astype(np.int32),
            base=arrays["base"].astype(np.float32),
        )
        _check(found)
        return found

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, as a file holds them."""
        return asdict(self)


def pack(booster: xgboost.Booster) -> Trees:
    """The trees of a booster with one output."""
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    parameters = learner["learner_model_param"]
    sizes, lefts, rights, features, thresholds, default_lefts = [], [], [], [], [], []
    for tree in learner["gradient_booster"]["model"]["trees"]:
        left, right = np.asarray(tree["left_children"]), np.asarray(tree["right_children"])
        order = _order_breadth_first(left, right)  # without pruned nodes
        place = np.full(len(left) + 1, -1)  # the last entry is that of child -1, and stays -1
        place[order] = np.arange(len(order))
        sizes.append(len(order))
        lefts.append(place[left[order]])
        rights.append(place[right[order]])
        features.append(np.asarray(tree["split_indices"])[order])
        thresholds.append(np.asarray(tree["split_conditions"])[order])
        default_lefts.append(np.asarray(tree["default_left"])[order])
    return Trees(
        sizes=np.asarray(sizes, dtype=np.int32),
        left=np.concatenate(lefts).astype(np.int32),
        right=np.concatenate(rights).astype(np.int32),
        feature=np.concatenate(features).astype(np.int32),
        threshold=np.concatenate(thresholds).astype(np.float32),
        default_left=np.concatenate(default_lefts).astype(np.uint8),
        features=np.asarray(int(parameters["num_feature"]), dtype=np.int32),
        # XGBoost 3.1 writes a list of one number, earlier versions a number.
        base=np.asarray(float(parameters["base_score"].strip("[]")), dtype=np.float32),
    )


def _order_breadth_first(left: NDArray[np.int64], right: NDArray[np.int64]) -> list[int]:
    order = [0]
    for node in order:
        if left[node] >= 0:
            order += [int(left[node]), int(right[node])]
    return order


def unpack(trees: Trees, threads: int) -> xgboost.Booster:
    """A booster that predicts with ``trees`` on ``threads`` threads.

    Raises:
        ValueError: XGBoost refuses the trees.
    """
    import xgboost

    booster = xgboost.Booster({"nthread": threads})
    try:
        booster.load_model(bytearray(_write_document(trees)))
    except xgboost.core.XGBoostError as exc:
        raise ValueError(f"XGBoost cannot read its trees: {str(exc).splitlines()[0]}") from exc
    return booster


def _check(trees: Trees) -> None:
    """Raise ``ValueError`` unless the arrays are whole trees of finite numbers."""
    sizes, left, right = (array.astype(np.int64) for array in (trees.sizes, trees.left, trees.right))
    nodes, features = int(sizes.sum()), int(trees.features)
    if not len(sizes) or sizes.min() < 1 or nodes > _MOST_NODES or not 1 <= features <= _MOST_FEATURES:
        raise ValueError(f"it has {len(sizes)} trees, {nodes} nodes and {features} features")
    if any(len(array) != nodes for array in (left, right, trees.feature, trees.threshold, trees.default_left)):
        raise ValueError(f"its arrays are not of {nodes} nodes each")
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place, size = np.arange(nodes) - first, np.repeat(sizes, sizes)
    leaf = (left == -1) & (right == -1)
    # Children come after their parents, so that every way down ends.
    inner = (left > place) & (left < size) & (right > place) & (right < size)
    children = np.concatenate([(left + first)[~leaf], (right + first)[~leaf]])
    if not (leaf | inner).all() or (np.bincount(children, minlength=nodes) != (place > 0)).any():
        raise ValueError("its nodes are no trees")
    if trees.feature.min() < 0 or trees.feature.max() >= features or trees.default_left.max() > 1:
        raise ValueError("its trees compare features that do not exist")
    if not np.isfinite(trees.threshold).all() or not np.isfinite(trees.base):
        raise ValueError("its trees hold numbers that are not finite")


def _write_document(trees: Trees) -> bytes:
    """XGBoost's own file as UBJSON, in which numbers are exact."""
    features, count = str(int(trees.features)), len(trees.sizes)
    ends = np.cumsum(trees.sizes).tolist()
    written = [
        _describe_tree(trees, slice(end - size, end), number, features)
        for number, (size, end) in enumerate(zip(trees.sizes.tolist(), ends, strict=True))
    ]
    model: dict[str, _UBJson] = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count)},
        "iteration_indptr": list(range(count + 1)),
        "tree_info": [0] * count,
        "trees": written,
    }
    # The scores of both losses are sums of leaves, so the objective of either loss predicts the same.
    learner: dict[str, _UBJson] = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {
            "base_score": _write_decimal(trees.base),
            "boost_from_average": "1",
            "num_class": "0",
            "num_feature": features,
            "num_target": "1",
        },
        "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    # Version 2.1.0 is the oldest whose files have these fields. Every later version reads them.
    return _write_ubjson({"learner": learner, "version": [2, 1, 0]})


def _describe_tree(trees: Trees, nodes: slice, number: int, features: str) -> dict[str, _UBJson]:
    """A tree as XGBoost stores it, with zeros for the statistics of its training."""
    left, right = trees.left[nodes], trees.right[nodes]
    parents = np.full(len(left), 2**31 - 1, dtype=np.int32)
    for children in (left, right):
        inner = np.flatnonzero(children >= 0)
        parents[children[inner]] = inner
    nothing = np.zeros(len(left), dtype=np.float32)
    return {
        "base_weights": nothing,
        "categories": np.zeros(0, dtype=np.int32),
        "categories_nodes": np.zeros(0, dtype=np.int32),
        "categories_segments": np.zeros(0, dtype=np.int64),
        "categories_sizes": np.zeros(0, dtype=np.int64),
        "default_left": trees.default_left[nodes],
        "id": number,
        "left_children": left,
        "loss_changes": nothing,
        "parents": parents,
        "right_children": right,
        "split_conditions": trees.threshold[nodes],
        "split_indices": trees.feature[nodes],
        "split_type": np.zeros(len(left), dtype=np.uint8),
        "sum_hessian": nothing,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": features,
            "num_nodes": str(len(left)),
            "size_leaf_vector": "1",
        },
    }


def _write_decimal(number: NDArray[np.float32]) -> str:
    """A float32 in the fewest digits, as XGBoost writes it. XGBoost 2 reads 0.5 from a text with more digits."""
    return np.format_float_scientific(np.float32(number), trim="-", exp_digits=1).replace("e+", "E").replace("e", "E")


def _write_ubjson(value: _UBJson) -> bytes:
    """A value in UBJSON."""
    if isinstance(value, str):
        return b"S" + _write_text(value)
    if isinstance(value, np.ndarray):
        kind = value.dtype.str[1:]
        numbers = value.astype(value.dtype.newbyteorder(">")).tobytes()
        return b"[$" + _LETTERS[kind] + b"#L" + struct.pack(">q", len(value)) + numbers
    if isinstance(value, Mapping):
        return b"{" + b"".join(_write_text(key) + _write_ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, Sequence):
        return b"[" + b"".join(map(_write_ubjson, value)) + b"]"
    return b"L" + struct.pack(">q", value)


def _write_text(text: str) -> bytes:
    content = text.encode()
    return b"L" + struct.pack(">q", len(content)) + content
