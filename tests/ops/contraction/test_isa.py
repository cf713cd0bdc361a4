"""One template for every vector extension: what this machine cannot run is compiled, and its instructions looked at."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.kernels import assembly
from tests.models import conv_model, read
from tilewright.errors import TargetError
from tilewright.graph.tasks import extract
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.target import Target

CPUS = {
    "llvm:core-avx2": (8, 16, r"vfmadd\w+ps\s.*%ymm"),
    "llvm:skylake-avx512": (16, 32, r"vfmadd\w+ps\s.*%zmm"),
    "llvm:cortex-a76:aarch64-linux-gnu": (4, 32, r"fmla\s+v\d+\.4s"),
}


@pytest.mark.parametrize("text", list(CPUS))
def test_the_template_fills_the_registers_of_the_target(text: str, tmp_path: Path) -> None:
    lanes, registers, instruction = CPUS[text]
    target = Target.parse(text)
    assert (target.lanes, target.registers) == (lanes, registers)
    extraction = extract(read(conv_model(tmp_path / "m.onnx")), target)
    task = next(use.task for use in extraction.uses if use.task.kind == "contraction")
    space = make_space(task, target)
    rng = np.random.default_rng(0)
    for config in [space.default(), *sample(space, rng, 2)]:
        assert re.search(instruction, assembly(space.schedule(config).mod, target))


def test_more_registers_allow_larger_tiles(tmp_path: Path) -> None:
    def accumulators(text: str) -> float:
        target = Target.parse(text)
        task = extract(read(conv_model(tmp_path / "m.onnx")), target).uses[0].task
        space = make_space(task, target)
        nest = space.loop_nest(sample(space, np.random.default_rng(0), 300))
        return float(nest.extra[:, nest.extra_names.index("accumulators")].max())

    assert accumulators("llvm:skylake-avx512") > accumulators("llvm:core-avx2")


def test_an_unknown_cpu_of_another_architecture() -> None:
    with pytest.raises(TargetError, match="znver3"):
        Target.parse("llvm:znver3:aarch64-linux-gnu")
