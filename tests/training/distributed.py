"""One of two processes that train a model together, in our kernels and in eager PyTorch. Run by a test."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tests.training.models import Digits
from tilewright.training import report

MOST_STEPS = 2000  # until the kernels are there, which a busy machine delays


def main(rank: int, folder: Path, options: dict[str, Any]) -> None:
    """Train until the kernels of both processes run, and for three steps at least.

    Prints the largest difference of a gradient in each step, relative to the largest, and the states of parts.
    """
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Digits()
    eager = copy.deepcopy(model)
    pairs = (
        (torch.compile(DistributedDataParallel(model), backend="tilewright", options=options), model),
        (DistributedDataParallel(eager), eager),
    )
    optimizers = [torch.optim.SGD(weights.parameters(), lr=0.1) for _, weights in pairs]
    torch.manual_seed(rank)  # each has data of its own
    worst: list[float] = []
    running = torch.zeros(1)
    while (len(worst) < MOST_STEPS and not running) or len(worst) < 3:
        x, y = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))
        for (called, _), optimizer in zip(pairs, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(called(x), y).backward()
            optimizer.step()
        gradients = [(a.grad, b.grad) for a, b in zip(model.parameters(), eager.parameters(), strict=True)]
        worst.append(max(float((a - b).abs().max() / b.abs().max()) for a, b in gradients))
        states = [part.state for graph in report(model).graphs for part in graph.parts]
        running = torch.tensor([float(set(states) == {"running"})])
        distributed.all_reduce(running, distributed.ReduceOp.MIN)  # both take the same number of steps
    print(json.dumps({"worst": worst, "states": states}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
