"""The inputs of executables: values of other types are converted if no number changes, and refused otherwise."""

from __future__ import annotations

import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import built, conv_model, normal
from tilewright.errors import ShapeError
from tilewright.executable.inputs import to_array
from tilewright.tensor import TensorSpec


def spec(dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec("x", shape, dtype)


F64 = np.array([1.5, -2.25, np.inf, -np.inf, 2.0**-149, -0.0])
EXACT: list[tuple[Any, str]] = [
    (F64, "float32"),
    (np.array([np.nan, 1.0]), "float32"),
    (np.array([1.5, 65504.0], np.float16), "float32"),
    (np.array([0.1, 1e30], np.float32), "float64"),
    (np.array([0.1], ">f4"), "float32"),
    (np.array([2**24, -(2**24), 0], np.int64), "float32"),
    (np.array([2**40], np.int64), "float32"),
    (np.array([-(2**63)], np.int64), "float32"),
    (np.array([True, False]), "float32"),
    (np.array([1.0, 0.0], np.float32), "bool"),
    (np.array([3.0, -2.0]), "int64"),
    (np.array([-(2.0**63)]), "int64"),
    (np.array([255], np.int64), "uint8"),
    (np.array([5], np.uint64), "int8"),
    ([1, 2, 3], "int32"),
    ([1, 2, 3], "float32"),
    ([0.1, 1e-50, -3], "float32"),
    ([0.1], "float16"),
    ([[1.0, 2.0], (3, 4)], "float32"),
    ([True, 0.0], "bool"),
    ([float("inf"), float("nan")], "float32"),
    ([2**63 - 1], "int64"),
    (np.float32(0.1), "float64"),
    (0.1, "float32"),
    (np.float64(0.1), "float32"),  # a Python float
    (7, "int8"),
    (True, "float32"),
    (range(4), "int64"),
]


@pytest.mark.parametrize(("value", "dtype"), EXACT, ids=str)
def test_what_converts_without_a_loss_is_taken(value: Any, dtype: str) -> None:
    plain = np.asarray(value)
    made = to_array(value, spec(dtype, *plain.shape))
    assert (made.dtype, made.shape) == (np.dtype(dtype), plain.shape)
    np.testing.assert_array_equal(made, plain.astype(dtype))


CHANGED: list[tuple[Any, str, str]] = [
    (np.array([0.1]), "float32", "0.1, which is no float32; convert it yourself if that is meant"),
    (np.array([1.0, 1e300]), "float32", "1e+300"),
    (np.array([70000.0], np.float32), "float16", "70000"),
    (np.array([2**24 + 1], np.int64), "float32", "16777217"),
    (np.array([2**63 - 1], np.int64), "float32", "9223372036854775807"),
    (np.array([2**63 - 1], np.int64), "float64", "9223372036854775807"),
    (np.array([2**64 - 1], np.uint64), "float64", "18446744073709551615"),
    (np.array([2.0**63]), "int64", "which is no int64"),
    (np.array([2.0**31], np.float32), "int32", "which is no int32"),
    (np.array([np.nan]), "int32", "nan"),
    (np.array([np.inf]), "int64", "inf"),
    (np.array([-1], np.int64), "uint64", "-1"),
    (np.array([-1], np.int8), "uint8", "-1"),
    (np.array([2**63], np.uint64), "int64", "9223372036854775808"),
    (np.array([300], np.int64), "uint8", "300"),
    (np.array([2.0], np.float32), "bool", "2.0"),
    ([1.5], "int32", "1.5"),
    ([2**24 + 1], "float32", "16777217"),
    ([1e300], "float32", "1e+300"),
    (np.float32(0.1), "float16", "which is no float16"),
    ([300], "uint8", "300"),
]


@pytest.mark.parametrize(("value", "dtype", "says"), CHANGED, ids=str)
def test_what_would_change_is_refused(value: Any, dtype: str, says: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(says)) as caught:
        to_array(value, spec(dtype, *np.shape(value)))
    assert str(caught.value).startswith(f"input 'x' is {dtype} {list(np.shape(value))}, but ")


NONE: list[Any] = [
    *("text", b"bytes", bytearray(b"1"), None, object(), ["1.0"], [None], {"a": 1}, {1, 2}, (n for n in (1, 2))),
    *([[1.0], [1.0, 2.0]], [10**30], [Fraction(1, 3)], [1j], np.array([1j]), np.array(["2020-01-01"], "M8[D]")),
    *(np.array([1.0, 2.0], np.longdouble), np.ma.masked_equal([1.0, 2.0], 2.0), np.zeros(2, [("a", "f4")])),
]


@pytest.mark.parametrize("value", NONE, ids=[f"{number}-{type(value).__name__}" for number, value in enumerate(NONE)])
def test_what_has_no_numbers_is_refused(value: Any) -> None:
    with pytest.raises(ShapeError, match="input 'x' is float32") as caught:
        to_array(value, spec("float32", 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1.0, [1.0], [[1.0, 2.0]], np.zeros((2, 1)), [], np.zeros(3, np.float32)], ids=str)
def test_another_shape_is_refused(value: Any) -> None:
    remedy = "reshape it" if np.size(value) == 2 else "give that shape, or tune again with a --shape for each"
    with pytest.raises(ShapeError, match=rf"is float32 \[2\], but .* was given; {remedy}"):
        to_array(value, spec("float32", 2))


def test_an_array_of_the_right_kind_is_not_copied() -> None:
    array = normal(4, 6)
    assert to_array(array, spec("float32", 4, 6)) is array
    view = array.T[::2]
    assert to_array(view, spec("float32", 3, 4)) is view


class Foreign:
    """An array of another library."""

    def __init__(self, device: object) -> None:
        self.device = device

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([1.0, 2.0])


class Device:
    def __init__(self, kind: str) -> None:
        self.type = kind


def test_arrays_of_other_libraries() -> None:
    np.testing.assert_array_equal(to_array(Foreign("cpu"), spec("float32", 2)), [1.0, 2.0])
    np.testing.assert_array_equal(to_array(Foreign(Device("cpu")), spec("float32", 2)), [1.0, 2.0])
    with pytest.raises(ShapeError, match=r"a tensor on 'cuda' was given; bring it to the CPU first, with \.cpu\(\)"):
        to_array(Foreign(Device("cuda")), spec("float32", 2))


def test_tensors_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6.0).reshape(2, 3)
    kinds = (tensor, tensor.double(), tensor.half(), tensor.bfloat16(), tensor.int(), tensor.clone().requires_grad_())
    for given in (*kinds, torch.complex(tensor, -tensor).conj().imag):
        np.testing.assert_array_equal(to_array(given, spec("float32", 2, 3)), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(to_array(tensor.T, spec("float32", 3, 2)), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(to_array(torch.nn.Parameter(tensor), spec("int64", 2, 3)), tensor.numpy())
    with pytest.raises(ShapeError, match=r"0\.1.*which is no float32; convert it yourself"):
        to_array(torch.tensor([0.1], dtype=torch.float64), spec("float32", 1))
    for given in (tensor.to_sparse(), tensor.to("meta"), torch.complex(tensor, tensor)):
        with pytest.raises(ShapeError, match="input 'x' is float32"):
            to_array(given, spec("float32", 2, 3))


def test_an_executable_takes_lists_and_tensors(tmp_path: Path) -> None:
    _, executable = built(conv_model(tmp_path / "m.onnx"), tmp_path / "out")
    x = normal(1, 8, 10, 10)
    (right,) = executable(x)
    wide = np.zeros((1, 8, 10, 20), np.float32)
    wide[..., ::2] = x
    for given in (x.tolist(), x.astype(np.float64), np.asfortranarray(x), wide[..., ::2]):
        np.testing.assert_array_equal(executable(given)[0], right)
        assert len(executable.time([given], 2)) == 2
    if "torch" in sys.modules:
        np.testing.assert_array_equal(executable(sys.modules["torch"].from_numpy(x))[0], right)
    with pytest.raises(ShapeError, match="has 1 input and got 2 arrays"):
        executable(x, x)
