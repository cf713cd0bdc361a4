"""Compares the convolutions of a network with the peak of the machine.

    python -m bench.kernels --json kernels.json --budget 60s --network resnet50

Each distinct direct convolution is tuned alone, by annealing without a prior. Then its best kernel takes turns with
three products of 2048 x 2048 float32 matrices: Tilewright's own on packed operands, NumPy's, and PyTorch's if it is
installed. Each runs in its own process, with the same number of threads, and is stopped while it is not its turn. The
peak is the fastest product. The result is the ratio within a round, because the noise of a shared machine affects both
sides.

The machine's limit (multiply-adds on registers alone) is measured first, printed, and written with all single figures
as ``limits``. Variables that choose the code of OpenBLAS are removed from the environment first:
``OPENBLAS_CORETYPE=Haswell`` halves NumPy's speed on an AVX-512 machine.

The JSON file is written after each layer, and layers that it holds are not measured again.

    python -m bench.kernels --family depthwise,transposed,pointwise_small,attention --json families.json --budget 10s

With ``--family``, the kernels of families (``bench._families``) take the place of a network's convolutions, and each is
compared with its own roofline, too: the time in which the machine's multiply-adds, or its caches, would be done with
the task, measured beside the kernel. A share of the roofline counts what is fused with a kernel as work.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench import _entrants
from bench._families import CONVOLUTION, FAMILIES, Kernel, roles
from bench.network import model
from tilewright.cli.text import table
from tilewright.errors import MeasureError
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.measure.limits import measure_limits
from tilewright.measure.peers import Entrant, Peer, race
from tilewright.measure.pool import LocalPool
from tilewright.methods.autotvm import quick
from tilewright.ops.registry import make_space
from tilewright.processor import model_name
from tilewright.records import open_store
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.budget import Budget
from tilewright.tuning.roofline import Roofline
from tilewright.tuning.tuner import TaskTuner

#: Candidates per round, as in tuning a network.
ROUND = 16
RESAMPLES = 2000
#: They tell OpenBLAS which processor it is on.
MISLEADING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("kernels.json"))
    parser.add_argument("--budget", default="60s", help="of tuning one layer, without the comparison")
    parser.add_argument("--network", default="resnet50", help="a file, or the short name of a light network")
    parser.add_argument("--family", help=f"kernels of families instead, comma-separated: {', '.join(FAMILIES)}")
    parser.add_argument("--layers", type=int, help="only so many layers, those with the most arithmetic first")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each in the comparison")
    parser.add_argument("--block-seconds", type=float, default=0.25, help="about how long a turn lasts")
    parser.add_argument("--one-core", action=argparse.BooleanOptionalAction, default=True, help="compare on one, too")
    parser.add_argument("--records", type=Path, help="by default empty ones, so that nothing is known beforehand")
    arguments = parser.parse_args()
    seconds = Budget.parse(arguments.budget).seconds
    assert seconds is not None
    for variable in MISLEADING:  # for all processes that are started from here
        os.environ.pop(variable, None)
    target = Target.parse()
    counts = [target.cores, 1] if arguments.one_core and target.cores > 1 else [target.cores]
    done: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    families = arguments.family.split(",") if arguments.family else []
    if unknown := set(families) - FAMILIES.keys():
        parser.error(f"families are {', '.join(FAMILIES)}, not {', '.join(sorted(unknown))}")
    about = {"network": arguments.family or arguments.network, "machine": model_name(), "threads": target.cores}
    if done and {key: done[key] for key in about} != about:
        parser.error(f"{arguments.json} is of another network or machine; name another file with --json")
    limits = {str(count): measure_limits(count).describe() for count in counts}
    done = {**about, "date": time.strftime("%Y-%m-%d"), "layers": {}, **done, "limits": limits}

    store: Store = MemoryStore() if arguments.records is None else open_store(arguments.records)
    kernels = [(name, kernel) for name in families for kernel in FAMILIES[name](target)] or [
        ("convolution", Kernel(use.task, use.weight, multiply_adds(use.task)))
        for use in extract(load(model(arguments.network)), target).uses
        if roles(use.task) == CONVOLUTION
    ]
    for family, kernel in kernels[: arguments.layers]:
        if kernel.task.key in done["layers"]:
            continue
        print(f"+ {kernel.task.name}", flush=True)
        layer = tuned(kernel, target, store, seconds) | {"family": family}
        if layer["config"] is not None:
            for threads in counts:
                layer["cores"][str(threads)] = compared(
                    kernel.task, target, layer, threads, arguments.rounds, arguments.block_seconds
                )
        done["layers"][kernel.task.key] = layer
        done |= summary(done["layers"], str(target.cores))
        part = arguments.json.with_name(arguments.json.name + ".part")
        part.write_text(json.dumps(done, indent=2) + "\n")
        os.replace(part, arguments.json)
    show(done)


def multiply_adds(task: Task) -> float:
    """The operations of the convolution alone, without bias, activation, or whatever else was fused with it."""
    from tvm.s_tir import Schedule

    from tilewright.space.module import task_module

    schedule = Schedule(task_module(task))
    block = schedule.get(schedule.get_sblock("contraction"))
    return 2.0 * math.prod(int(v.dom.extent) for v in block.iter_vars)


def moved_bytes(task: Task) -> float:
    """Bytes of all operands and results."""
    from tilewright.space.module import task_module

    buffers = task_module(task)["main"].params
    return float(sum(4 * math.prod(int(extent) for extent in buffer.ty.shape) for buffer in buffers))


def tuned(kernel: Kernel, target: Target, store: Store, seconds: float) -> dict[str, Any]:
    """Tune one task alone."""
    deadline = time.monotonic() + seconds
    space = make_space(kernel.task, target)
    store.describe(kernel.task)
    rng = np.random.default_rng(0)
    with LocalPool(target, on_measurement=lambda m: store.add([m])) as pool:
        tuner = TaskTuner(space, target, pool, store, rng, quick())
        racing = deadline - 0.05 * seconds
        while time.monotonic() < racing and not tuner.exhausted:
            tuner.round(ROUND, racing)
        tuner.race(3, deadline)
    return {
        "name": kernel.task.name,
        "weight": kernel.weight,
        "flop": kernel.flop,
        "template": space.template,
        "trials": tuner.trials,
        "failed": sum(tuner.failures.values()),
        "tuned_seconds": tuner.best_seconds if math.isfinite(tuner.best_seconds) else None,
        "config": None if tuner.best_config is None else tuner.best_config.tolist(),
        "cores": {},
    }


def compared(
    task: Task, target: Target, layer: dict[str, Any], threads: int, rounds: int, block_seconds: float
) -> dict[str, Any]:
    """The best kernel against the peak, by turns, all on ``threads`` threads, and against its roofline."""
    space, limits = make_space(task, target), measure_limits(threads)
    possible = Roofline.of(limits).possible(space)
    if not space.has_loop_nest and limits.cache_bandwidth is not None:  # it moves its tensors, each once
        possible = max(possible, moved_bytes(task) / limits.cache_bandwidth)
    entrants = [Entrant("kernel", _entrants.kernel, (task, target, layer["config"]))]
    entrants.append(Entrant("tilewright", _entrants.own_product, (threads,)))
    entrants.append(Entrant("numpy", _entrants.numpy_product, (threads,)))
    if find_spec("torch") is not None:
        entrants.append(Entrant("torch", _entrants.torch_product, (threads,)))
    try:
        ours, *products = race(entrants, rounds, block_seconds, threads)
    except MeasureError as error:
        return {"error": str(error)}
    products = [product for product in products if not product.error and product.blocks]
    if ours.error or not products:
        return {"error": ours.error or "no matrix product could be timed"}
    rates = {product.name: _entrants.PRODUCT_FLOP / median(product) for product in products}
    peak = max(products, key=lambda product: rates[product.name])
    return {
        "gflops": layer["flop"] / median(ours) / 1e9,
        "peak_gflops": {name: rate / 1e9 for name, rate in rates.items()},
        "peak": peak.name,
        "rounds": len(ours.blocks),
        "of_roofline": possible / median(ours),
        **of_peak(ours, layer["flop"], peak),
    }


def median(peer: Peer) -> float:
    """Of all runs, in seconds."""
    return float(np.median(np.concatenate([np.asarray(block) for block in peer.blocks.values()])))


def of_peak(ours: Peer, flop: float, peak: Peer) -> dict[str, float]:
    """The share of the peak: the median of the rounds' ratios, with the 95 % interval of a bootstrap over rounds."""
    rounds = sorted(ours.blocks.keys() & peak.blocks.keys())
    ratios = np.asarray(
        [
            (flop / np.median(ours.blocks[number])) / (_entrants.PRODUCT_FLOP / np.median(peak.blocks[number]))
            for number in rounds
        ]
    )
    draws = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return {"of_peak": float(np.median(ratios)), "of_peak_low": float(low), "of_peak_high": float(high)}


def summary(layers: dict[str, Any], threads: str) -> dict[str, Any]:
    """What all layers come to, each counted once; None where a layer has no result."""
    shares = [layer["cores"].get(threads, {}).get("of_peak") for layer in layers.values()]
    known = [share for share in shares if share is not None]
    families: dict[str, list[float]] = {}
    for layer in layers.values():
        share = layer["cores"].get(threads, {}).get("of_roofline")
        families.setdefault(layer.get("family", "convolution"), []).extend([] if share is None else [share])
    return {
        "geomean_of_peak": geometric_mean(known),
        "lowest_of_peak": min(known, default=None),
        "layers_without_result": len(shares) - len(known),
        "families": {name: geometric_mean(found) for name, found in families.items()},
    }


def geometric_mean(figures: list[float]) -> float | None:
    """None of no figures."""
    return float(np.exp(np.mean(np.log(figures)))) if figures else None


def show(done: dict[str, Any]) -> None:
    counts = list(dict.fromkeys(count for layer in done["layers"].values() for count in layer["cores"]))
    rows = []
    for layer in done["layers"].values():
        row = [layer["name"], str(layer["weight"]), str(layer["trials"])]
        for count in counts:
            entry = layer["cores"].get(count, {})
            if "of_peak" in entry:
                row += [f"{entry['gflops']:.1f}", f"{max(entry['peak_gflops'].values()):.1f}"]
                row.append(f"{entry['of_peak']:.3f} ({entry['of_peak_low']:.3f} .. {entry['of_peak_high']:.3f})")
                row.append(f"{entry['of_roofline']:.2f}" if "of_roofline" in entry else "-")
            else:
                row += ["-"] * 4
        rows.append(row)
    head = ["layer", "weight", "trials"]
    for count in counts:
        head += [f"GFLOP/s x{count}", "peak", "of peak (95 % interval)", "of roofline"]
    print(table(head, rows))
    if done.get("geomean_of_peak") is not None:
        print(f"of peak: geometric mean {done['geomean_of_peak']:.3f}, lowest {done['lowest_of_peak']:.3f}")
    for family, share in done.get("families", {}).items():
        if share is not None:
            print(f"of the roofline: {family}, geometric mean {share:.3f}")
    for count, limits in done.get("limits", {}).items():
        single = ", ".join(
            f"{name} {limits[name] / 1e9:.1f}" for name in ("fma", "product", "blas") if limits[name] is not None
        )
        print(f"peak x{count}: {limits['peak'] / 1e9:.1f} GFLOP/s, by {limits['peak_source']} ({single})")
    print(f"medians; {done['network']}, {done['machine']}, {done['threads']} threads, {done['date']}")


if __name__ == "__main__":
    main()
