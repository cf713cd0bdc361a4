"""A rewritten operator computes the same in ONNX Runtime: all cases of ``bench.importer``, without compiling them."""

from __future__ import annotations

from typing import Any

import pytest

from bench._importer_cases import FAMILIES, Case
from tests.frontend.onnx.rewriting.computed import check_same, rewritten, run


def runs_in_onnx_runtime(case: Case) -> list[Any] | None:
    try:
        return run(case.model, case.feeds)
    except Exception:  # ONNX Runtime's errors share no base class
        return None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_is_computed(family: str) -> None:
    tried = 0
    for case in FAMILIES[family]():
        right = runs_in_onnx_runtime(case)
        if right is None:
            continue
        made = rewritten(case.model)
        try:
            check_same(run(made, case.feeds), right)
        except Exception as exc:
            raise AssertionError(f"{case.operator} {case.what}: {exc}") from exc
        tried += 1
    assert tried > 20
