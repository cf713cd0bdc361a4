"""The data that kernels are run on, and the check of what they make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tilewright.measure.arguments import TOLERANCE, Arguments, Parameter, Reference, parameters_of

IN = Parameter((3, 5), "float32", written=False)
OUT = Parameter((7,), "float32", written=True)


def function_of(text: str) -> Any:
    from tvm.script import from_source

    return from_source(f"# from tvm.script import tirx as T\n@T.prim_func(s_tir=True)\n{text}")


def test_what_is_stored_to_is_written() -> None:
    function = function_of(
        "def main(O: T.Buffer((2, 3), 'float32'), A: T.Buffer((2, 3), 'int8'), P: T.Buffer((2,), 'float32')):\n"
        "    for i, j in T.grid(2, 3):\n"
        "        with T.sblock('o'):\n"
        "            x, y = T.axis.remap('SS', [i, j])\n"
        "            O[x, y] = T.cast(A[x, y], 'float32')\n"
        "    for i in range(2):\n"
        "        with T.sblock('p'):\n"
        "            x = T.axis.spatial(2, i)\n"
        "            P[x] = T.float32(1)\n"
    )
    assert parameters_of(function) == (
        Parameter((2, 3), "float32", written=True),
        Parameter((2, 3), "int8", written=False),
        Parameter((2,), "float32", written=True),
    )


def test_where_nothing_is_stored_to_the_last_is_written() -> None:
    function = function_of(
        "def main(A: T.Buffer((2,), 'float32'), B: T.Buffer((2,), 'float32')):\n"
        "    T.call_packed('somebody', A.data, B.data)\n"
    )
    assert [p.written for p in parameters_of(function)] == [False, True]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool"])
def test_data_is_reproducible_in_range_aligned_and_shared(dtype: str) -> None:
    parameters = (Parameter((3, 50), dtype, written=False), Parameter((2,), dtype, written=True))
    first, second = (Arguments(parameters, "key").tensors[0].numpy() for _ in range(2))
    other = Arguments(parameters, "another key").tensors[0].numpy()
    assert first.dtype == dtype
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    if first.dtype.kind == "f":
        assert -1 <= first.min() < -0.5 < 0.5 < first.max() <= 1
    else:
        assert set(np.unique(first).tolist()) == set(range(2 if dtype == "bool" else 4))
    arguments = Arguments(parameters, "key")
    view = np.from_dlpack(arguments.tensors[1])
    assert view.ctypes.data % 64 == 0
    arguments.blank()
    np.testing.assert_array_equal(arguments.outputs[0], view)


def test_blank_outputs_are_no_result() -> None:
    arguments = Arguments((IN, OUT), "key")
    arguments.outputs[0].fill(1)
    reference = Reference(arguments.outputs)
    assert reference.mismatch(arguments.outputs) == ""
    arguments.blank()
    assert "NaN" in reference.mismatch(arguments.outputs)


def test_streamed_weights_are_others_in_each_call() -> None:
    weight, small = (Parameter(shape, "float32", written=False, weight=True) for shape in ((64, 256), (8,)))
    parameters = (Parameter((64, 256), "float32", written=False), weight, small, OUT)
    arguments = Arguments(parameters, "key", streamed=1 << 18)  # four times the weight
    calls: list[tuple[Any, ...]] = []
    function = arguments.called(lambda *given: calls.append(given))
    for _ in range(5):
        function(*arguments.tensors)
    places = [[np.from_dlpack(tensor).ctypes.data for tensor in call] for call in calls]
    assert len({place[1] for place in places}) == 4
    assert places[4] == places[0]
    assert all(place[1] % 64 == 0 for place in places)
    for column in (0, 2, 3):  # data, what is too small, and outputs stay
        assert {place[column] for place in places} == {np.from_dlpack(arguments.tensors[column]).ctypes.data}
    values = np.from_dlpack(calls[0][1])
    assert values.shape == (64, 256)
    assert -1 / 16 <= values.min() < -1 / 32 < 1 / 32 < values.max() <= 1 / 16


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_weights_of_bytes_are_streamed_too(dtype: str) -> None:
    weight = Parameter((1 << 16,), dtype, written=False, weight=True)
    calls: list[tuple[Any, ...]] = []
    arguments = Arguments((weight, OUT), "key", streamed=1 << 18)
    function = arguments.called(lambda *given: calls.append(given))
    for _ in range(4):
        function(*arguments.tensors)
    arrays = [np.from_dlpack(weights) for weights, _ in calls]
    assert len({array.ctypes.data for array in arrays}) == 4
    assert {(array.shape, str(array.dtype)) for array in arrays} == {((1 << 16,), dtype)}


def test_what_is_not_streamed_is_called_as_it_is() -> None:
    def function(*_: Any) -> None: ...

    weight = Parameter((64, 256), "float32", written=False, weight=True)
    assert Arguments((weight, OUT), "key").called(function) is function
    calls: list[tuple[Any, ...]] = []
    arguments = Arguments((weight, OUT), "key", streamed=1 << 16)  # as large as the weight: it leaves the caches alone
    arguments.called(lambda *given: calls.append(given))()
    assert calls == [arguments.tensors]


def test_a_function_tells_its_weights() -> None:
    function = function_of(
        "def main(A: T.Buffer((2,), 'float32'), W: T.Buffer((2,), 'float32'), B: T.Buffer((2,), 'float32')):\n"
        "    T.func_attr({'tilewright.weights': '1'})\n"
        "    T.call_packed('somebody', A.data, W.data, B.data)\n"
    )
    assert [p.weight for p in parameters_of(function)] == [False, True, False]


def check(right: Any, found: Any, dtype: str = "float32") -> str:
    def array(values: Any) -> NDArray[Any]:
        return np.asarray(values, dtype=dtype)

    return Reference([array(right)]).mismatch([array(found)])


def test_the_tolerance_is_of_the_largest_magnitude() -> None:
    assert check([100.0, 0.0], [100.0, 99 * TOLERANCE]) == ""
    assert check([100.0, 0.0], [100.0, 101 * TOLERANCE]) == (
        "largest error 0.101 where the reference's largest magnitude is 100"
    )


def test_one_wrong_element_of_many_is_found() -> None:
    right = np.random.default_rng(0).random((300, 1001), dtype=np.float32)
    found = right.copy()
    assert check(right, found) == ""
    found[299, 1000] += 0.01
    assert check(right, found)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_only_where_the_reference_has_them(bad: float) -> None:
    assert check([1.0, bad], [1.0, bad]) == ""
    assert check([1.0, bad], [1.0, 1.0])
    assert check([1.0, 1.0], [1.0, bad])
    assert check([1.0, bad], [1.0, -bad if np.isinf(bad) else 0.0])


def test_all_zeros_are_compared_absolutely() -> None:
    assert check([0.0, 0.0], [0.0, 1e-9]) == ""
    assert check([0.0, 0.0], [0.0, 1e-3])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "int64"])
def test_integers_differ_without_wrapping_round(dtype: str) -> None:
    assert check([0, 1], [0, 1], dtype) == ""
    assert check([0, 1], [1, 0], dtype)


def test_the_output_that_is_wrong_is_named() -> None:
    right = [np.ones(3, np.float32), np.ones(4, np.float32)]
    assert Reference(right).mismatch([right[0], right[1] * 2]).startswith("output 1: ")


def test_a_reference_is_a_copy() -> None:
    outputs = [np.ones(3, np.float32)]
    reference = Reference(outputs)
    outputs[0][0] = 5
    assert reference.mismatch(outputs)
    assert reference.bytes == 12
