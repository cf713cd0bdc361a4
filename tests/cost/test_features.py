from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np

from tests.toys import TableSpace
from tilewright.cost.features import View, curve_features, features, itervar_features
from tilewright.cost.model import KnobTable
from tilewright.space.configs import sample
from tilewright.space.loop_nest import Annotation, LoopNest


def nest() -> LoopNest:
    """for i in parallel(4): for j in vectorized(8): C[i, j] += A[i, j] * B[-j]."""
    return LoopNest(
        axes=("i", "j"),
        buffers=("A", "B"),
        axis=np.asarray([[0, 1]], dtype=np.int8),
        extents=np.asarray([[4, 8]], dtype=np.float32),
        annotations=np.asarray([[Annotation.PARALLEL, Annotation.VECTORIZED]], dtype=np.int8),
        touched=np.asarray([[[128, 32], [32, 32]]], dtype=np.float32),
        strides=np.asarray([[[8, 1], [0, -1]]], dtype=np.float32),
        reuse=np.asarray([[[1, 1], [4, 1]]], dtype=np.float32),
        arithmetic=np.asarray([[1, 1, 0]], dtype=np.float32),
        extra=np.asarray([[0.75]], dtype=np.float32),
        extra_names=("balance",),
    )


def feature_names(nest: LoopNest) -> list[str]:
    """The names of the columns, such as ``loop2.length`` and ``A.loop0.reuse``."""
    loops = range(nest.extents.shape[1])
    return [
        *(f"loop{i}.{what}" for what in ("length", "topdown", "bottomup", "axis") for i in loops),
        *(f"loop{i}.{kind.name.lower()}" for i in loops for kind in Annotation),
        *(f"{b}.loop{i}.{what}" for what in ("touched", "stride", "reuse") for b in nest.buffers for i in loops),
        *("add", "multiply", "other"),
        *nest.extra_names,
    ]


def test_each_column_is_what_its_name_says() -> None:
    table = itervar_features(nest())
    assert table.dtype == np.float32
    named = dict(zip(feature_names(nest()), table[0].tolist(), strict=True))
    log1 = {value: float(np.log2(np.float32(1 + value))) for value in (1, 4, 8, 32, 128)}
    expected = {
        **{"loop0.length": 2, "loop1.length": 3, "loop0.topdown": 2, "loop1.topdown": 5},
        **{"loop0.bottomup": 5, "loop1.bottomup": 3, "loop0.axis": 0, "loop1.axis": 1},
        **{"loop0.serial": 0, "loop0.parallel": 1, "loop0.vectorized": 0, "loop0.unrolled": 0},
        **{"loop1.serial": 0, "loop1.parallel": 0, "loop1.vectorized": 1, "loop1.unrolled": 0},
        **{"A.loop0.touched": log1[128], "A.loop1.touched": log1[32]},
        **{"B.loop0.touched": log1[32], "B.loop1.touched": log1[32]},
        **{"A.loop0.stride": log1[8], "A.loop1.stride": 1, "B.loop0.stride": 0, "B.loop1.stride": -1},
        **{"A.loop0.reuse": 1, "A.loop1.reuse": 1, "B.loop0.reuse": log1[4], "B.loop1.reuse": 1},
        **{"add": 1, "multiply": 1, "other": 0, "balance": 0.75},
    }
    assert named == expected


def test_rows_do_not_depend_on_their_company() -> None:
    space = TableSpace()
    configs = sample(space, np.random.default_rng(0), 5000)  # more than one chunk
    table = features(space.loop_nest(configs))
    assert table.shape == (5000, len(feature_names(space.loop_nest(configs[:1]))))
    assert np.isfinite(table).all()
    for row in (0, 2047, 2048, 4999):
        assert (features(space.loop_nest(configs[row : row + 1]))[0] == table[row]).all()


def test_the_nest_is_left_as_it_was() -> None:
    before, after = nest(), nest()
    itervar_features(after)
    for field in dataclasses.fields(LoopNest):
        assert np.array_equal(getattr(before, field.name), getattr(after, field.name))


def test_no_programs_have_no_rows() -> None:
    space = TableSpace()
    assert len(features(space.loop_nest(np.empty((0, 5), dtype=np.int32)))) == 0


def test_a_knob_table_is_served_as_it_is() -> None:
    values = np.asarray([[1.0, 2.0]], dtype=np.float32)
    assert features(KnobTable(values)) is values


def test_curves_are_of_loops_whose_working_set_fits() -> None:
    curves = curve_features(nest())[0].reshape(2, 2, 20)  # buffers A and B; reuse and entered; 2^5 to 2^24 bytes
    log1 = {value: float(np.log2(np.float32(1 + value))) for value in (1, 4)}
    # A touches 32 bytes in the inner loop, which is entered 4 times, and 128 in both.
    assert curves[0, 0].tolist() == [log1[1]] * 20
    assert curves[0, 1].tolist() == [2.0] * 20
    assert curves[1, 0].tolist() == [log1[4]] * 20
    small = dataclasses.replace(nest(), touched=np.asarray([[[128, 64], [32, 32]]], dtype=np.float32))
    assert curve_features(small)[0].reshape(2, 2, 20)[0, 0].tolist() == [0.0] + [log1[1]] * 19


def test_every_view_has_its_columns() -> None:
    widths = {view: features(nest(), view).shape[1] for view in get_args(View)}
    assert widths == {"itervar": 32, "curve": 81, "both": 112}
    assert features(KnobTable(np.ones((3, 2), dtype=np.float32)), "curve").shape == (3, 2)
