"""How long 100,000 configs of a convolution take to sample, featurise and score, on one core.

    make bench BENCH=configs

The convolution is 256 -> 256, 3x3, on a 14x14 map, with bias and relu. The cost model was fitted to 64
made-up latencies.
"""

from __future__ import annotations

import os
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy is imported: the claim is about one core

import numpy as np  # noqa: E402

from tilewright.cost.model import KnobTable, Programs  # noqa: E402
from tilewright.cost.xgb import XGBoostModel  # noqa: E402
from tilewright.space.configs import knob_values, sample, size  # noqa: E402
from tilewright.space.registry import make_space  # noqa: E402
from tilewright.space.space import Configs, DesignSpace  # noqa: E402
from tilewright.target import Target, _model_name  # noqa: E402
from tilewright.task import Task  # noqa: E402

COUNT = 100_000


def convolution() -> Task:
    """The task, made as networks make theirs: one TIR function."""
    import tvm
    from tvm import te, topi

    shapes = (((1, 256, 14, 14), "x"), ((256, 256, 3, 3), "w"), ((1, 256, 1, 1), "b"))
    x, w, b = (te.placeholder(shape, name=name) for shape, name in shapes)
    y = topi.nn.relu(topi.add(topi.nn.conv2d(x, w, 1, 1, 1, data_layout="NCHW", kernel_layout="OIHW"), b))
    module = tvm.IRModule({"main": te.create_prim_func([x, w, b, y])})
    return Task("bench", "conv2d 3x3 256x14x14", "contraction", 2.0 * 256 * 256 * 9 * 14 * 14, tvm.ir.save_json(module))


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
    print(
        f"{space.template}, {size(space):.3g} configs; {len(configs)} of them, best of 3, one core of {_model_name()}"
    )
    print(f"  sample            {sampling:6.2f} s")
    print(f"  closed form       {nesting:6.2f} s")
    print(f"  features, scores  {scoring:6.2f} s")
    print(f"  together          {sampling + nesting + scoring:6.2f} s   (at most 2)")


if __name__ == "__main__":
    main()
