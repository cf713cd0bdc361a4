"""Measures how long 100,000 configs of a convolution take to sample, featurise and score, on one core.

    make bench BENCH=configs

The convolution is 256 -> 256, 3x3, on a 56x56 map, with bias and relu. The cost model was fitted to 64 artificial
latencies.
"""

from __future__ import annotations

import os
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy is imported: the claim is about one core

import numpy as np  # noqa: E402

from tilewright.cost.model import KnobTable, Programs  # noqa: E402
from tilewright.cost.xgb import XGBoostModel  # noqa: E402
from tilewright.ops.registry import make_space  # noqa: E402
from tilewright.processor import model_name  # noqa: E402
from tilewright.space.configs import knob_values, sample, size  # noqa: E402
from tilewright.space.space import Configs, DesignSpace  # noqa: E402
from tilewright.target import Target  # noqa: E402
from tilewright.task import Task  # noqa: E402

COUNT = 100_000


def convolution() -> Task:
    """The task in blocked layout, as the contraction template serves it."""
    import tvm
    from tvm import te, topi

    x, w, b = (
        te.placeholder(shape, name=name)
        for shape, name in (((1, 32, 56, 56, 8), "x"), ((32, 32, 3, 3, 8, 8), "w"), ((32, 8), "b"))
    )
    pad = topi.nn.pad(x, [0, 0, 1, 1, 0], name="pad")
    k = [te.reduce_axis((0, extent), name=name) for extent, name in ((32, "rc"), (3, "kh"), (3, "kw"), (8, "ri"))]
    product = te.compute(
        (1, 32, 56, 56, 8),
        lambda n, o, i, j, v: te.sum(pad[n, k[0], i + k[1], j + k[2], k[3]] * w[o, k[0], k[1], k[2], k[3], v], axis=k),
        name="contraction",
    )
    y = te.compute(
        product.shape, lambda n, o, i, j, v: te.max(product[n, o, i, j, v] + b[o, v], tvm.tirx.const(0.0, "float32"))
    )
    function = te.create_prim_func([x, w, b, y]).with_attr("tilewright.contraction", "boppl/rrrr")
    module = tvm.IRModule({"main": function})
    return Task("bench", "conv2d 3x3 256x56x56", "contraction", 2.0 * 256 * 256 * 9 * 56 * 56, tvm.ir.save_json(module))


def programs(space: DesignSpace, configs: Configs) -> Programs:
    return space.loop_nest(configs) if space.has_loop_nest else KnobTable(knob_values(space, configs))


def main() -> None:
    target = Target.parse()
    space = make_space(convolution(), target)
    rng = np.random.default_rng(0)
    model = XGBoostModel(threads=1)
    model.fit([programs(space, sample(space, rng, 64))], [rng.uniform(1e-3, 1e-2, 64)])
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for _ in range(3):
        begin = time.perf_counter()
        configs = sample(space, rng, COUNT)
        sampled = time.perf_counter()
        nests = programs(space, configs)
        nested = time.perf_counter()
        model.predict(nests)
        rows.append((sampled - begin, nested - sampled, time.perf_counter() - nested))
    sampling, nesting, scoring = min(rows, key=sum)
    print(f"{space.template}, {size(space):.3g} configs; {len(configs)} of them, best of 3, one core of {model_name()}")
    if len(configs) < COUNT:
        print(f"  the space has fewer than {COUNT} valid configs, so this does not show the claim")
    print(f"  sample            {sampling:6.2f} s")
    print(f"  closed form       {nesting:6.2f} s")
    print(f"  features, scores  {scoring:6.2f} s")
    print(f"  together          {sampling + nesting + scoring:6.2f} s   (at most 2)")


if __name__ == "__main__":
    main()
