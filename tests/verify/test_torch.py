"""The reference of a PyTorch program is the program itself, in double precision."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import build_lean, defaults
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.graph.tasks import extract
from tilewright.target import Target
from tilewright.tensor import TensorSpec
from tilewright.verify.inputs import find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import open_reference
from tilewright.verify.subject import judge_executable

torch = pytest.importorskip("torch")


def test_an_executable_of_a_program(tmp_path: Path) -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.GELU(), torch.nn.Flatten(),
        torch.nn.Linear(8 * 64, 10), torch.nn.Softmax(-1),
    ).eval()  # fmt: skip
    network = load(torch.export.export(module, (torch.randn(1, 3, 8, 8),)))
    with open_reference(network) as reference:
        trials = find_trials(network, reference)
    assert trials.precision == "float64"
    assert trials.problem == ""
    assert trials.dtypes == ("float32",)
    extraction = extract(network, Target.parse())
    build_lean(extraction, defaults(extraction), tmp_path / "out")
    verdict = judge_executable(tmp_path / "out", trials)
    assert verdict.right
    assert verdict.error is not None
    assert verdict.error < 1e-5
    other = dataclasses.replace(network, weights={name: -array for name, array in network.weights.items()})
    extraction = extract(other, Target.parse())
    build_lean(extraction, defaults(extraction), tmp_path / "out")
    assert judge_executable(tmp_path / "out", trials).wrong


def test_ids_masks_and_constants() -> None:
    class Encoder(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(30, 16)
            self.layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.layer(self.table(ids), src_key_padding_mask=mask == 0), torch.zeros(2)

    module, arguments = Encoder().eval(), (torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 7, dtype=torch.long))
    program = torch.export.export(module, arguments)
    inputs = tuple(TensorSpec(name, (1, 7), "int64") for name in ("ids", "mask"))
    network = Network("m", None, inputs, (), {}, None, program)
    with open_reference(network) as reference:
        trials = find_trials(network, reference)
    assert trials.precision == "float64"
    assert trials.problem == ""
    ids = np.concatenate([trial.inputs[0].reshape(-1) for trial in trials.trials])
    assert ids.min() >= 0
    assert 8 < ids.max() < 30

    def run(arrays: Any) -> list[Any]:
        with torch.no_grad():
            return [t.numpy() for t in module(*map(torch.from_numpy, arrays))]

    assert judge(run, trials).right
    assert judge(lambda arrays: run([arrays[0], 1 - arrays[1]]), trials).wrong
