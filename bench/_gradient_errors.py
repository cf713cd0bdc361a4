"""How exact the gradients of a step are, and the weights after some steps: Tilewright and PyTorch against float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench._training_models import BATCH
from bench._training_steps import Steps
from tilewright.cli.text import table
from tilewright.measure.peer_process import PeerProcess
from tilewright.tensor import Array
from tilewright.training.live import LivePart

__all__ = ["measure_errors", "show_errors"]

#: The arms that are compared with float64.
_ARMS = ("tilewright", "eager", "eager-last")
#: A gradient below this share of the network's largest is a sum that cancels: nothing but rounding is left of it.
_CANCELS = 1e-5


class OurSteps(Steps):
    """Steps in which each part that has kernels runs in them, even if PyTorch's are faster."""

    def __init__(self, model: str, arm: str, threads: int, options: dict[str, Any], batch: int) -> None:
        LivePart.slower = property(lambda part: False)  # type: ignore[method-assign, assignment]
        super().__init__(model, arm, threads, options, batch)


def measure_errors(
    name: str, threads: int, options: Mapping[str, Any], steps: int = 0, batch: int = BATCH, last: bool = False
) -> dict[str, Any]:
    """The errors of all arms.

    Each is the largest difference to float64, relative to the largest number of the same parameter. Gradients that are
    0 but for rounding are left out, and counted.

    Args:
        name: of the network.
        threads: of each arm.
        options: of Tilewright.
        steps: after which weights are compared; 0: they are not.
        batch: how many inputs a batch has.
        last: whether images have their channels last in Tilewright's arm.
    """
    gradients, weights, parts = {}, {}, []
    for arm in (*_ARMS, "float64"):
        process = PeerProcess(threads)
        try:
            own = "tilewright-last" if last and arm == "tilewright" else arm
            process.start(OurSteps, (name, own, threads, dict(options), batch))
            gradients[arm] = process.call("compute_gradients")
            if steps:
                weights[arm] = process.call("train", steps)
            if arm == "tilewright":
                parts = process.call("find_states")
        finally:
            process.kill()
    exact = gradients["float64"]
    least = _CANCELS * max(float(np.abs(g).max(initial=0.0)) for g in exact)
    kept = [place for place, g in enumerate(exact) if np.abs(g).max(initial=0.0) > least]
    return {
        "batch": batch,
        "steps": steps,
        "parts": parts,
        "parameters": len(kept),
        "cancel": len(exact) - len(kept),
        "gradients": {arm: _find_errors(gradients[arm], exact, kept) for arm in _ARMS},
        "weights": {arm: _find_errors(weights[arm], weights["float64"]) for arm in _ARMS if weights},
    }


def _find_errors(found: Sequence[Array], exact: Sequence[Array], kept: Sequence[int] | None = None) -> dict[str, float]:
    """The largest error of a parameter, and the median."""
    errors = [
        float(np.abs(np.subtract(found[place], exact[place])).max() / (np.abs(exact[place]).max() or 1.0))
        for place in (range(len(exact)) if kept is None else kept)
    ]
    return {"worst": max(errors), "median": float(np.median(errors))}


def show_errors(networks: Mapping[str, Any]) -> str:
    """A row for each network."""
    rows = []
    for name, entry in networks.items():
        ours = f"{sum(state == 'running' for _, state, _ in entry['parts'])} of {len(entry['parts'])}"
        row = [name, str(entry["batch"]), ours, str(entry["parameters"]), str(entry["cancel"])]
        for kind in ("gradients", "weights"):
            found = entry[kind]
            row += [f"{found[arm]['worst']:.1e} ({found[arm]['median']:.0e})" if found else "" for arm in _ARMS]
        rows.append(row)
    header = ["network", "batch", "our parts", "parameters", "that cancel"]
    header += [f"{kind} {arm}" for kind in ("gradients", "weights") for arm in _ARMS]
    return table(header, rows)
