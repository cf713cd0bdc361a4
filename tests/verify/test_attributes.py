"""Attributes of ONNX nodes, as ONNX's reference evaluator passes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilewright.verify.attributes import Attributes

GIVEN = Attributes({"i": 3, "j": np.int64(4), "f": np.float32(0.5), "s": "VALID", "list": [1, 2], "none": None})


def test_values_and_defaults() -> None:
    assert [GIVEN.integer(name, 7) for name in ("i", "j", "none", "absent")] == [3, 4, 7, 7]
    assert [GIVEN.number(name, 0.25) for name in ("f", "i", "none")] == [0.5, 3.0, 0.25]
    assert [GIVEN.text(name, "NOTSET") for name in ("s", "none")] == ["VALID", "NOTSET"]
    assert [GIVEN.integers("list"), GIVEN.integers("none"), GIVEN.numbers("list")] == [[1, 2], [], [1.0, 2.0]]


@pytest.mark.parametrize(
    "read",
    [
        lambda: GIVEN.integer("f", 0),
        lambda: GIVEN.number("s", 0.0),
        lambda: GIVEN.text("i", ""),
        lambda: GIVEN.integers("i"),
    ],
)
def test_other_types_are_refused(read: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="the attribute "):
        read()
