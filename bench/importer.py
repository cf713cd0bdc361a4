"""Compares imported operators with ONNX Runtime, on models of one node with attributes of all kinds.

    python -m bench.importer [--family reductions] [--theirs] [--json importer.json]

Each model is read, cut into tasks and built with default schedules, as ``tune`` does first. If ONNX Runtime refuses a
model, the reference is the onnx package's evaluator. ``--theirs`` leaves out the rewritings and converters of
Tilewright, so that the table shows which of TVM's converters are wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench._importer_cases import FAMILIES, Array, Case
from tests.models import TARGET
from tilewright.cli.text import table
from tilewright.compiling.build import build
from tilewright.errors import TilewrightError
from tilewright.frontend.load import read_model
from tilewright.frontend.onnx import importer, model
from tilewright.frontend.onnx.data import open_model
from tilewright.graph.left_out import extract_all
from tilewright.tvm_compat import set_threads

#: The largest allowed differences, relative to the largest number of a result, by the result's dtype: choices.
TOLERANCES = {"float16": 5e-3, "float32": 2e-5, "float64": 1e-5}


def expect(case: Case) -> tuple[list[Array], bool]:
    """The right outputs of a case, and whether ONNX Runtime gave them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, ["CPUExecutionProvider"])
        return list(session.run(None, case.feeds)), True
    except Exception:  # ONNX Runtime's errors share no base class
        from onnx.reference import ReferenceEvaluator

        return list(ReferenceEvaluator(case.model).run(None, case.feeds)), False


def compute(case: Case, folder: Path) -> tuple[list[Array], list[str]]:
    """The outputs of a case as Tilewright computes them, and why operators of it are in segments."""
    path = folder / "case.onnx"
    onnx.save(case.model, str(path))
    model.prepare(path, {}, folder)
    network = read_model("case", open_model(folder / model.MODEL), open_model(folder / model.FOLDED), {})
    extraction = extract_all(network, TARGET)
    executable = build(extraction, {}, folder / "executable", {})
    results = executable(*[case.feeds[spec.name] for spec in extraction.network.inputs])
    return results, [reason for segment in extraction.network.segments for reason in segment.reasons]


def agrees(found: Array, right: Array) -> bool:
    """Whether a result is right."""
    if found.shape != right.shape or found.dtype != right.dtype:
        return False
    if right.dtype.kind != "f":
        return bool((found == right).all())
    bounded = right[np.isfinite(right)].astype(np.float64)
    scale = max(1.0, float(np.abs(bounded).max())) if bounded.size else 1.0
    tolerance = TOLERANCES[str(right.dtype)]
    close = np.allclose(
        found.astype(np.float64), right.astype(np.float64), tolerance, tolerance * scale, equal_nan=True
    )
    return bool(close)


def judge(case: Case) -> dict[str, Any]:
    """The outcome of a case, its reason, and whether it has a segment.

    The outcome is ``right``, ``wrong``, ``error``, ``refused`` (by ONNX Runtime, too) or ``no reference``.
    """
    with tempfile.TemporaryDirectory(prefix="tilewright-") as place:
        try:
            right, runs = expect(case)
        except Exception as exc:  # neither ONNX Runtime nor the evaluator runs it
            return {"outcome": "no reference", "why": str(exc)[:200]}
        try:
            found, reasons = compute(case, Path(place))
        except TilewrightError as exc:
            return {"outcome": "error" if runs else "refused", "why": str(exc)[:200]}
        except Exception as exc:  # an error of any class is a result of the bench
            return {"outcome": "error", "why": f"{type(exc).__name__}: {str(exc)[:200]}"}
    same = len(found) == len(right) and all(map(agrees, found, right))
    return {"outcome": "right" if same else "wrong", "segment": bool(reasons), "why": "; ".join(reasons)[:200]}


def only_theirs() -> None:
    """Leave out the rewritings and the converters of Tilewright."""
    importlib.import_module("tilewright.frontend.onnx.converting")  # it fills CONVERTERS, which is cleared below
    model.rewrite = lambda *_: False  # type: ignore[attr-defined]
    importer.CONVERTERS.clear()


def run(families: Iterable[str], show: bool) -> list[dict[str, Any]]:
    """Judge the cases of families. Returns one entry for each case."""
    entries = []
    for family in families:
        for case in FAMILIES[family]():
            entry = {"family": family, "operator": case.operator, "what": case.what, **judge(case)}
            entries.append(entry)
            if show and entry["outcome"] not in ("right", "refused"):
                print(f"{entry['outcome']}: {case.operator} {case.what}: {entry['why']}", flush=True)
    return entries


def summarise(entries: Sequence[dict[str, Any]]) -> str:
    """A table with one row for each operator."""
    rows: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    for entry in entries:
        row = rows[entry["operator"]]
        row[0] += 1
        place = {"right": 1, "wrong": 2, "error": 3, "refused": 4}.get(entry["outcome"])
        if place is not None:
            row[place] += 1
        row[5] += bool(entry.get("segment"))
    head = ("operator", "cases", "right", "wrong", "error", "refused by both", "in a segment")
    return table(head, [(name, *map(str, row)) for name, row in sorted(rows.items())])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(FAMILIES), action="append", help="default: all")
    parser.add_argument("--theirs", action="store_true", help="only TVM's converters")
    parser.add_argument("--json", type=Path, help="write all cases to this file")
    arguments = parser.parse_args()
    set_threads()
    if arguments.theirs:
        only_theirs()
    entries = run(arguments.family or FAMILIES, show=True)
    print(summarise(entries))
    if arguments.json:
        arguments.json.write_text(json.dumps(entries, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
