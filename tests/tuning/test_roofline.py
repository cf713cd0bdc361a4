"""The roofline: limits that hold for spaces, and a measurement that gives numbers at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.models import TARGET, conv_model, read
from tests.toys import ToySpace, plain
from tests.tuning.replay import bowl, task
from tests.tuning.test_scheduler import network
from tilewright.graph.tasks import extract
from tilewright.jsonable import to_json_object
from tilewright.measure.limits import Limits
from tilewright.ops.registry import make_space
from tilewright.space.space import DesignSpace
from tilewright.tuning.budget import Budget
from tilewright.tuning.roofline import Roofline, measure_roofline


def convolution(path: Path) -> DesignSpace:
    uses = extract(read(conv_model(path / "m.onnx")), TARGET).uses
    return next(make_space(use.task, TARGET) for use in uses if use.task.kind == "contraction")


def test_arithmetic_or_bytes_whichever_takes_longer(tmp_path: Path) -> None:
    space = convolution(tmp_path)
    assert Roofline(1e9, 1e15).possible(space) == space.task.flop / 1e9
    least = 4 * (8 * 10 * 10 + 16 * 8 * 3 * 3 + 16 + 16 * 10 * 10)
    assert least / 1e9 < Roofline(1e15, 1e9).possible(space) < 2 * least / 1e9


def test_what_the_first_caches_cannot_hold_comes_out_of_the_next_ones(tmp_path: Path) -> None:
    space = convolution(tmp_path)
    limits = Limits(fma=1e15, innermost_bandwidth=4e9, cache_bandwidth=1e9)
    small, large = (Roofline.of(replace(limits, innermost_bytes=size)) for size in (0, 1 << 30))
    assert small.possible(space) > 3.9 * large.possible(space)


def test_bounds_are_above_all_that_was_measured_and_goals_are_matrix_products() -> None:
    roofline = Roofline.of(Limits(fma=3e9, product=2e9, blas=1e9, innermost_bandwidth=6e9, cache_bandwidth=5e9))
    assert roofline.flops > 3e9
    assert roofline.bandwidth > 6e9
    assert roofline.reachable == 2e9
    assert Roofline(1e9, 1e9).reachable == 1e9


def test_a_space_without_closed_form_has_its_arithmetic() -> None:
    space = ToySpace(plain(3), task=replace(task("toy"), flop=5e6))
    assert Roofline(1e9, 1e9).possible(space) >= 5e-3


def test_each_kind_of_products_has_its_own_bound() -> None:
    limits = Limits(fma=1e9, innermost_bandwidth=1e15, cache_bandwidth=1e15, dot=4e9, bf16_dot=2e9)
    roofline, unknown = Roofline.of(limits), Roofline.of(replace(limits, dot=None, bf16_dot=None))
    for products, halves, factor in ((1, False, 1), (4, False, 4), (2, True, 2)):
        for each in (roofline, unknown):
            assert each.bound(1e6, 0, products, halves) == pytest.approx(each.bound(1e6, 0) / factor)
    assert roofline.bound(1e6, 0, 2) == roofline.bound(1e6, 0, 4)  # pairs of int16 are products of bytes


def test_this_machine_has_limits() -> None:
    found = measure_roofline(1)
    assert np.isfinite([found.flops, found.bandwidth]).all()
    assert min(found.flops, found.bandwidth) > 1e7
    assert found.reachable <= found.flops


def test_a_report_names_the_peak_and_where_it_comes_from() -> None:
    limits = Limits(fma=3e9, product=2e9, blas=1e9, cache_bandwidth=5e9, memory_bandwidth=4e9)
    tuner, _ = network({"a": bowl}, Budget(trials=8), roofline=Roofline.of(limits))
    tuner.run()
    told = json.loads(json.dumps(to_json_object(tuner.report())))["roofline"]
    assert (told["peak"], told["peak_source"]) == (3e9, "fma")
    assert (told["product"], told["blas"], told["memory_bandwidth"]) == (2e9, 1e9, 4e9)
    tuner, _ = network({"a": bowl}, Budget(trials=8))
    tuner.run()
    assert tuner.report().roofline is None
