"""Compares the embeddings of real sentences by all-MiniLM-L6 in int8 and with bfloat16 products with those in float32.

    python -m bench.embeddings --folder /tmp/embeddings --json embeddings.json
    python -m bench.embeddings --folder /tmp/embeddings --json embeddings.json --blocks 8

Sentences are news (:mod:`bench._sentences`). Models are quantised as ``tilewright quantize`` does it, and calibrated on
other sentences than those that are compared. Tokens are averaged with the mask, as the model's card says. ``rows`` of
the JSON file have for each way and runtime the cosines between a sentence's embedding and that of the float32 model in
ONNX Runtime: ``lowest``, ``median``, ``reached``, the share of sentences whose cosine is at least ``goal``; and with
``--blocks`` ``median_ms``, by turns. The folder keeps models and executables, which have default schedules. What the
folder and the JSON file hold is not made again.

Without an instruction for bfloat16 products, plain code multiplies the same rounded numbers. It is not timed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._modern import fetch
from bench._sentences import read_sentences, tokenise
from bench.precision import build_default
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.compare import peers
from tilewright.executable.executable import load_executable
from tilewright.measure.compare import latency
from tilewright.measure.peers import Entrant, race
from tilewright.processor import model_name
from tilewright.quantising import QuantisingPlan, quantise
from tilewright.quantising.accuracy import run_model
from tilewright.quantising.rounding import mark_products
from tilewright.tensor import Array
from tilewright.tvm_compat import wanted_threads

__all__ = ["WAYS", "compare_embeddings", "pool"]

#: How models are quantised, as options of ``tilewright quantize`` and as those of a plan.
WAYS: dict[str, dict[str, Any]] = {
    "--calibrate": {},
    "--calibrate --method percentile": {"calibration": "percentile"},
    "--calibrate --only MatMul": {"only": ("MatMul",)},
    "--calibrate --only MatMul --only Gemm --exclude '*/layer.?/output/dense/*'": {
        "only": ("MatMul", "Gemm"),
        "exclude": ("*/layer.?/output/dense/*",),
    },
    "--dynamic": {"dynamic": True},
}
_FLOAT32, _BF16 = "float32", "bf16"
#: The cosine that each sentence should reach.
_GOAL, _GOAL_BF16 = 0.99, 0.9999
_BLOCK_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=200, help="that are compared")
    parser.add_argument("--samples", type=int, default=80, help="sentences to calibrate with")
    parser.add_argument("--ways", default=",".join([_FLOAT32, *WAYS, _BF16]), help="comma-separated")
    parser.add_argument("--folder", type=Path, default=Path("embeddings"), help="for models and executables")
    parser.add_argument("--blocks", type=int, default=0, help="turns of each executable; 0: they are not timed")
    parser.add_argument("--json", type=Path, default=Path("embeddings.json"))
    arguments = parser.parse_args()
    ways = arguments.ways.split(",")
    if not set(ways) <= {_FLOAT32, *WAYS, _BF16}:
        parser.error(f"--ways are some of {', '.join([_FLOAT32, *WAYS, _BF16])}, not {arguments.ways!r}")
    done: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    rows: list[dict[str, Any]] = done.get("rows", [])
    calibrating, testing = map(tokenise, read_sentences(arguments.samples, arguments.sentences))
    plain = fetch("minilm").path
    wanted = embed_plain(plain, testing)
    folders: dict[str, Path] = {}
    for number, way in enumerate([_FLOAT32, *WAYS, _BF16]):
        if way not in ways:
            continue
        folders[way] = arguments.folder / f"way{number}"
        model = _write_model(way, plain, folders[way], calibrating)
        if any(row["way"] == way for row in rows):
            continue
        print(f"+ {way}", flush=True)
        rows += _compare_way(way, model, folders[way] / "executable", testing, wanted)
        date = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        done = {"rows": rows, "sentences": len(testing), "samples": len(calibrating), "date": date}
        write_json(arguments.json, done | {"machine": model_name()})
    if arguments.blocks:
        _time({way: folder for way, folder in folders.items() if way != _BF16}, rows, arguments.blocks)
        write_json(arguments.json, done | {"rows": rows, "machine": model_name()})
    show(rows)
    print(f"{len(testing)} sentences; {model_name()}, {wanted_threads()} threads")


def embed_plain(model: Path, samples: Sequence[Mapping[str, Array]]) -> NDArray[np.float64]:
    """The embeddings by the float32 model in ONNX Runtime. ``(samples, width)``"""
    return _embed([outputs[0] for outputs in run_model(model, samples)], samples)


def _embed(tokens: Sequence[Array], samples: Sequence[Mapping[str, Array]]) -> NDArray[np.float64]:
    return np.stack([pool(found, sample["attention_mask"]) for found, sample in zip(tokens, samples, strict=True)])


def pool(tokens: Array, mask: Array) -> NDArray[np.float64]:
    """The mean of the tokens that a mask leaves.

    Args:
        tokens: ``(1, length, width)``.
        mask: ``(1, length)``, of 0 and 1.
    """
    weights = np.asarray(mask, np.float64)[0, :, None]
    found: NDArray[np.float64] = (np.asarray(tokens, np.float64)[0] * weights).sum(axis=0) / weights.sum()
    return found


def compare_embeddings(found: NDArray[np.float64], wanted: NDArray[np.float64], goal: float) -> dict[str, float]:
    """The cosines of the angles between embeddings: the lowest, the median, and the share that reaches the goal.

    Args:
        found: the embeddings. ``(sentences, width)``
        wanted: those in float32.
        goal: the cosine that each should have.
    """
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (found * wanted).sum(axis=1) / lengths
    return {
        "lowest": float(cosines.min()),
        "median": float(np.median(cosines)),
        "reached": float((cosines >= goal).mean()),
        "goal": goal,
    }


def _write_model(way: str, plain: Path, folder: Path, calibrating: Sequence[Mapping[str, Array]]) -> Path:
    """The model of a way, made unless its folder has it."""
    model = folder / "model.onnx"
    if way == _FLOAT32:
        folder.mkdir(parents=True, exist_ok=True)
        return plain
    if model.exists():
        return model
    folder.mkdir(parents=True, exist_ok=True)
    if way == _BF16:
        mark_products(plain, model)
    else:
        options = WAYS[way]
        stacked = {name: np.stack([sample[name] for sample in calibrating]) for name in calibrating[0]}
        found = quantise(QuantisingPlan(plain, model, () if options.get("dynamic") else (stacked,), **options))
        print(f"+ {way}: on integers {found.operators}; too wide {found.wide}", flush=True)
    return model


def _compare_way(
    way: str, model: Path, out: Path, samples: Sequence[Mapping[str, Array]], wanted: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """The rows of a way: Tilewright's, and ONNX Runtime's of what it computes, too."""
    if not out.exists():
        build_default(model, out, "native")
    executable = load_executable(out)
    names = [spec.name for spec in executable.inputs]
    found = {"tilewright": [executable(*(sample[name] for name in names))[0] for sample in samples]}
    if way not in (_FLOAT32, _BF16):
        found["onnxruntime"] = [outputs[0] for outputs in run_model(model, samples)]
    goal = _GOAL_BF16 if way in (_BF16, _FLOAT32) else _GOAL
    return [
        {"way": way, "runtime": runtime, **compare_embeddings(_embed(tokens, samples), wanted, goal)}
        for runtime, tokens in found.items()
    ]


def _time(folders: Mapping[str, Path], rows: Sequence[dict[str, Any]], blocks: int) -> None:
    """Let the executables take turns, and put the medians into their rows."""
    entrants = [Entrant(way, peers.executable, (str(folder / "executable"),)) for way, folder in folders.items()]
    for peer in race(entrants, blocks, _BLOCK_SECONDS, wanted_threads()):
        for row in rows:
            if row["way"] == peer.name and row["runtime"] == "tilewright" and not peer.error:
                row["median_ms"] = latency(peer)["median_ms"]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    head = ["how", "runtime", "lowest cosine", "median", "at least the goal", "ms"]
    cells = [
        [
            row["way"],
            row["runtime"],
            f"{row['lowest']:.5f}",
            f"{row['median']:.5f}",
            f"{100 * row['reached']:.0f} % ({row['goal']})",
            f"{row['median_ms']:.2f}" if "median_ms" in row else "-",
        ]
        for row in rows
    ]
    print(table(head, cells))


if __name__ == "__main__":
    main()
