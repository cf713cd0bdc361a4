"""The share of a network's time in each part that ONNX Runtime runs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from tests.frontend.onnx.small import make, read
from tests.models import TARGET, normal, runs
from tilewright.cli.bench import text
from tilewright.compare.shares import find_shares, measure_shares
from tilewright.compiling.build import build
from tilewright.executable.manifest import read_manifest
from tilewright.executable.program import KernelTime
from tilewright.frontend.load import load_buckets
from tilewright.frontend.shapes import ShapeRequest
from tilewright.graph.buckets import extract_buckets


def test_shares_are_of_the_time_of_all_calls() -> None:
    times = [
        KernelTime("conv", (9.0, 1.0, 1.0)),
        KernelTime("@0", (9.0, 2.0, 2.0)),
        KernelTime("", (9.0, 1.0, 1.0)),
        KernelTime("@1", (9.0, 4.0, 4.0)),
    ]
    assert find_shares(times, 2) == [0.25, 0.5]
    assert find_shares([], 1) == [None]


@runs
def test_shares_of_an_executable(tmp_path: Path) -> None:
    make(read("g (float[64,256] x) => (int64[2,n] y) { t = Transpose(x) a = MatMul(x, t) y = NonZero(a) }"), tmp_path)
    entries = read_manifest(tmp_path / "out")["segments"]
    assert "NonZero" in entries[0]["operators"]
    [share] = measure_shares(tmp_path / "out", len(entries), 0)
    assert share is not None
    assert 0.0 < share <= 1.0


@runs
def test_shares_in_a_bucket(tmp_path: Path) -> None:
    made = read("g (float[N,64] x, float k) => (int64[2,n] y) { a = MatMul(x, w) b = Mul(a, k) y = NonZero(b) }")
    made.graph.initializer.append(numpy_helper.from_array(normal(64, 32), "w"))
    onnx.save(made, tmp_path / "m.onnx")
    shapes = (("x", ((4, 8), (64,))),)
    networks = load_buckets(tmp_path / "m.onnx", ShapeRequest(shapes, values={"k": (2.0,)}))
    build(extract_buckets(networks, TARGET), {}, tmp_path / "out", {})
    manifest = read_manifest(tmp_path / "out")
    assert [bucket["segments"] for bucket in manifest["buckets"]] == [[0], [1]]
    [share] = measure_shares(tmp_path / "out", 1, 0, bucket=1)
    assert share is not None
    assert 0.0 < share <= 1.0


def test_an_executable_that_cannot_be_run_has_no_shares(tmp_path: Path) -> None:
    assert measure_shares(tmp_path, 2, 0) == [None, None]


@pytest.mark.parametrize(("share", "says"), [(0.125, "12.5 % of the time"), (None, "an unknown share of the time")])
def test_bench_says_them(share: float | None, says: str) -> None:
    figures = {"min_ms": 1.0, "median_ms": 2.0}
    said = text(
        {
            "executable": figures,  # type: ignore[typeddict-item]
            "peers": {},
            "blocks": 1,
            "threads": 1,
            "caches": "warm",
            "machine": "m",
            "date": "d",
            "overhead_us": None,
            "segments": [{"operators": ["NonZero", "Shape"], "share": share}],
        }
    )
    assert f"segment 1, run by ONNX Runtime (NonZero, Shape): {says}" in said
