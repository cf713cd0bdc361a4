"""XGBoost's trees as plain arrays, which are checked before XGBoost sees them.

XGBoost believes its own files: a node whose child or feature does not exist makes it read memory that is not its own.
So trees are kept as arrays, one entry for each node of each tree, and XGBoost's file is made of them anew.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xgboost

__all__ = ["pack", "unpack"]

#: Far more than any model here has: a hundred times the one that comes with Tilewright.
_MOST_NODES = 10_000_000
_MOST_FEATURES = 1_000_000
#: The arrays and their types: nodes of each tree; then, for each node, the children's places in the tree (-1: a leaf),
#: the feature that it looks at, what the feature is compared with (of a leaf: its value), and where a nan goes.
_ARRAYS = {
    "sizes": np.int32,
    "left": np.int32,
    "right": np.int32,
    "feature": np.int32,
    "threshold": np.float32,
    "default_left": np.uint8,
}
#: UBJSON's letters for the types of numbers.
_LETTERS = {"f4": b"d", "i4": b"l", "u1": b"U", "i8": b"L"}


def pack(booster: xgboost.Booster) -> dict[str, NDArray[Any]]:
    """The trees of a booster of one output as arrays, nodes in the order of breadth, with ``features`` and ``base``."""
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _ARRAYS}
    for tree in learner["gradient_booster"]["model"]["trees"]:
        left, right = np.asarray(tree["left_children"]), np.asarray(tree["right_children"])
        order = _breadth_first(left, right)  # pruned nodes are left out
        place = np.full(len(left) + 1, -1)  # that of child -1, which there is none, is -1
        place[order] = np.arange(len(order))
        found = {
            "sizes": [len(order)],
            "left": place[left[order]],
            "right": place[right[order]],
            "feature": np.asarray(tree["split_indices"])[order],
            "threshold": np.asarray(tree["split_conditions"])[order],
            "default_left": np.asarray(tree["default_left"])[order],
        }
        for name, values in found.items():
            parts[name].append(np.asarray(values, dtype=_ARRAYS[name]))
    parameters = learner["learner_model_param"]
    arrays: dict[str, NDArray[Any]] = {name: np.concatenate(values) for name, values in parts.items()}
    arrays["features"] = np.asarray(int(parameters["num_feature"]), dtype=np.int32)
    # XGBoost 3.1 writes a list of one, earlier ones a number.
    arrays["base"] = np.asarray(float(parameters["base_score"].strip("[]")), dtype=np.float32)
    return arrays


def _breadth_first(left: NDArray[Any], right: NDArray[Any]) -> list[int]:
    order = [0]
    for node in order:
        if left[node] >= 0:
            order += [int(left[node]), int(right[node])]
    return order


def unpack(arrays: Mapping[str, NDArray[Any]], threads: int) -> xgboost.Booster:
    """The booster of :func:`pack`, to predict with.

    Raises:
        KeyError: an array is missing.
        ValueError: they are no trees.
    """
    import xgboost

    _check(arrays)
    booster = xgboost.Booster({"nthread": threads})
    try:
        booster.load_model(bytearray(_document(arrays)))
    except xgboost.core.XGBoostError as exc:
        raise ValueError(f"XGBoost cannot read its trees: {str(exc).splitlines()[0]}") from exc
    return booster


def _check(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ``ValueError`` where the arrays are not what :func:`pack` gives: whole trees, of finite numbers."""
    if "trees" in arrays and "sizes" not in arrays:
        raise ValueError("its trees are in XGBoost's own format, as before they were checked")
    for name, kind in (_ARRAYS | {"features": np.int32, "base": np.float32}).items():
        array = arrays[name]
        if array.dtype != kind or array.ndim != int(name in _ARRAYS):
            raise ValueError(f"its {name} are of {array.dtype} {array.shape}")
    sizes, left, right = (arrays[name].astype(np.int64) for name in ("sizes", "left", "right"))
    nodes, features = int(sizes.sum()), int(arrays["features"])
    if not len(sizes) or sizes.min() < 1 or nodes > _MOST_NODES or not 1 <= features <= _MOST_FEATURES:
        raise ValueError(f"it has {len(sizes)} trees, {nodes} nodes and {features} features")
    if any(len(arrays[name]) != nodes for name in _ARRAYS if name != "sizes"):
        raise ValueError(f"its arrays are not of {nodes} nodes each")
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place, size = np.arange(nodes) - first, np.repeat(sizes, sizes)
    leaf = (left == -1) & (right == -1)
    # Children come after their parents, so no way down ends where it began.
    inner = (left > place) & (left < size) & (right > place) & (right < size)
    children = np.concatenate([(left + first)[~leaf], (right + first)[~leaf]])
    if not (leaf | inner).all() or (np.bincount(children, minlength=nodes) != (place > 0)).any():
        raise ValueError("its nodes are no trees")
    if arrays["feature"].min() < 0 or arrays["feature"].max() >= features or arrays["default_left"].max() > 1:
        raise ValueError("its trees look at features that there are not")
    if not np.isfinite(arrays["threshold"]).all() or not np.isfinite(arrays["base"]):
        raise ValueError("its trees hold numbers that are not finite")


def _document(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """XGBoost's file, as UBJSON, in which numbers are exact."""
    sizes = arrays["sizes"].tolist()
    features, count = str(int(arrays["features"])), len(sizes)
    ends = np.cumsum(sizes).tolist()
    trees = [
        _tree({name: arrays[name][end - size : end] for name in _ARRAYS if name != "sizes"}, number, features)
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count)},
        "iteration_indptr": list(range(count + 1)),
        "tree_info": [0] * count,
        "trees": trees,
    }
    # Both losses' scores are the sum of the leaves, so the objective of either will do.
    learner = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {
            "base_score": _decimal(arrays["base"]),
            "boost_from_average": "1",
            "num_class": "0",
            "num_feature": features,
            "num_target": "1",
        },
        "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    # The oldest version whose files have these fields: every later one reads them.
    return _ubjson({"learner": learner, "version": [2, 1, 0]})


def _tree(nodes: Mapping[str, NDArray[Any]], number: int, features: str) -> dict[str, Any]:
    """A tree as XGBoost keeps it, with zeros for what it only keeps to tell about its training."""
    count = len(nodes["left"])
    parents = np.full(count, 2**31 - 1, dtype=np.int32)
    for side in ("left", "right"):
        inner = np.flatnonzero(nodes[side] >= 0)
        parents[nodes[side][inner]] = inner
    nothing = np.zeros(count, dtype=np.float32)
    return {
        "base_weights": nothing,
        "categories": np.zeros(0, dtype=np.int32),
        "categories_nodes": np.zeros(0, dtype=np.int32),
        "categories_segments": np.zeros(0, dtype=np.int64),
        "categories_sizes": np.zeros(0, dtype=np.int64),
        "default_left": nodes["default_left"],
        "id": number,
        "left_children": nodes["left"],
        "loss_changes": nothing,
        "parents": parents,
        "right_children": nodes["right"],
        "split_conditions": nodes["threshold"],
        "split_indices": nodes["feature"],
        "split_type": np.zeros(count, dtype=np.uint8),
        "sum_hessian": nothing,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": features,
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
    }


def _decimal(number: NDArray[Any]) -> str:
    """A float32 as XGBoost writes it, in the fewest digits: XGBoost 2 takes 0.5 where there are more."""
    return np.format_float_scientific(np.float32(number), trim="-", exp_digits=1).replace("e+", "E").replace("e", "E")


def _ubjson(value: Any) -> bytes:
    """A value of dictionaries, lists, texts, integers and arrays of numbers in UBJSON."""
    if isinstance(value, dict):
        return b"{" + b"".join(_text(key) + _ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, np.ndarray):
        kind = value.dtype.str[1:]
        numbers = value.astype(value.dtype.newbyteorder(">")).tobytes()
        return b"[$" + _LETTERS[kind] + b"#L" + struct.pack(">q", len(value)) + numbers
    if isinstance(value, list):
        return b"[" + b"".join(map(_ubjson, value)) + b"]"
    if isinstance(value, str):
        return b"S" + _text(value)
    return b"L" + struct.pack(">q", value)


def _text(text: str) -> bytes:
    content = text.encode()
    return b"L" + struct.pack(">q", len(content)) + content
