"""What the machine reaches: figures that are there, say where they come from, and cost nothing but themselves."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from tilewright.measure.limits import Limits, measure_limits
from tilewright.target import Target


def test_the_peak_is_the_best_of_all_and_says_which() -> None:
    found = Limits(fma=3e9, product=2e9, blas=1e9, cache_bandwidth=5e9)
    assert (found.peak, found.source, found.reachable) == (3e9, "fma", 2e9)
    found = Limits(fma=3e9, product=2e9, blas=4e9)
    assert (found.peak, found.source, found.reachable) == (4e9, "blas", 4e9)
    assert Limits(fma=3e9).reachable == 3e9  # no product was measured
    told = json.loads(json.dumps(Limits(blas=1e9).describe()))
    assert (told["peak"], told["peak_source"], told["blas"], told["fma"]) == (1e9, "blas", 1e9, None)


def test_this_machine_has_limits() -> None:
    found = measure_limits(1)
    figures = (found.fma, found.product, found.blas, found.cache_bandwidth, found.memory_bandwidth)
    assert all(figure is not None and 1e7 < figure < 1e15 for figure in figures)
    assert found.peak >= max(found.product or 0.0, found.blas or 0.0)
    assert found.innermost_bytes > 1024
    has = Target.parse().extensions
    assert (found.bf16_dot is not None) == bool({"avx512bf16", "bf16"} & {*has})
    assert found.dot is not None or not {"avx2", "dotprod"} & {*has}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere all kernels are for the same vectors")
def test_a_target_of_narrower_vectors_is_not_held_against_a_blas_of_wider_ones() -> None:
    found = measure_limits(1, ("sse4.2",))
    assert found.fma is not None
    assert found.blas is None


@pytest.fixture
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler of the test's own, for a library that was not compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiler = tmp_path / "compiler"
    monkeypatch.setenv("CC", str(compiler))
    return compiler


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",  # it fails
        'for out; do :; done; echo nonsense > "$out"',  # what it makes cannot be loaded
        # What it makes dies in the process that loads it.
        'for out; do :; done; echo "__attribute__((constructor)) void f(void) {__builtin_trap();}" '
        '| cc -x c -shared -fPIC - -o "$out"',
    ],
)
def test_without_code_of_our_own_numpy_is_what_is_known(script: str, no_library: Path) -> None:
    no_library.write_text(f"#!/bin/sh\n{script}\n")
    no_library.chmod(0o755)
    found = measure_limits(1)
    assert found.source == "blas"
    assert found.fma is None
    assert found.cache_bandwidth is not None


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = measure_limits(1)
    assert found.fma is not None
    assert found.product is not None
