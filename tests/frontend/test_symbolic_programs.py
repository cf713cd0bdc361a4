"""PyTorch programs with symbolic dimensions: shapes bind their symbols."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import TARGET, build_lean, normal, runs
from tilewright.errors import ModelFormatError, ShapeError
from tilewright.frontend.load import load, load_buckets
from tilewright.frontend.shapes import ShapeRequest
from tilewright.graph.buckets import extract_buckets

torch = pytest.importorskip("torch")


class Pixels(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A product for each column of images of any number and width."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 16)

    def forward(self, x: Any) -> Any:
        rows = x.mean(2).transpose(1, 2).reshape(x.shape[0] * x.shape[3], 8)
        return self.layer(rows).view(x.shape[0], -1, 16)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a program of x [N, 8, 4, W], where N is at most 16, and W from 4 to 64."""
    path = tmp_path_factory.mktemp("program") / "m.pt2"
    dims = {"x": {0: torch.export.Dim("batch", max=16), 3: torch.export.Dim("width", min=4, max=64)}}
    made = torch.export.export(Pixels().eval(), (torch.randn(2, 8, 4, 16),), dynamic_shapes=dims)
    torch.export.save(made, str(path))
    return path


@runs
def test_shapes_bind_symbols(program: Path, tmp_path: Path) -> None:
    networks = load_buckets(program, [{"x": (1, 8, 4, 16)}, {"x": (3, 8, 4, 32)}])
    assert [network.outputs[0].shape for network in networks] == [(1, 16, 16), (3, 32, 16)]
    executable = build_lean(extract_buckets(networks, TARGET), {}, tmp_path / "out")
    module = torch.export.load(str(program)).module()
    for network in networks:
        x = normal(*network.inputs[0].shape)
        np.testing.assert_allclose(executable(x)[0], module(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match=r"takes x \[1, 8, 4, 16\] or x \[3, 8, 4, 32\]"):
        executable(normal(2, 8, 4, 16))
    assert load(tmp_path / "out/model.pt2", {"x": (2, 8, 4, 16)}).inputs[0].shape == (2, 8, 4, 16)


def test_open_symbols_are_named_with_options_that_work(program: Path) -> None:
    with pytest.raises(ShapeError, match=r"'x' is \[s\d+,8,4,s\d+\]; fix it with --shape x=1,8,4,(\d+)$") as caught:
        load(program)
    width = int(str(caught.value).rpartition(",")[2])
    assert 4 <= width <= 64
    symbol = str(caught.value).partition("[")[2].partition(",")[0]
    request = ShapeRequest(((symbol, ((2,), (4,))), ("x", ((2,), (8,), (4,), (16,)))))
    assert load_buckets(program, request)[0].inputs[0].shape == (2, 8, 4, 16)


def test_shapes_that_a_program_does_not_take(program: Path) -> None:
    with pytest.raises(ShapeError, match=r"cannot take x=17,8,4,16: Guard failed: .*<= 16"):
        load(program, {"x": (17, 8, 4, 16)})
    with pytest.raises(ShapeError, match="--fix is for ONNX files"):
        load(program, ShapeRequest(values={"x": (1,)}))


def test_an_extent_that_is_more_than_arithmetic_is_refused(program: Path, tmp_path: Path) -> None:
    """SymPy evaluates the texts of extents."""
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(tmp_path / "m.pt2", "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("models/model.json"):
                content = json.dumps(json.loads(content)).replace("Symbol('s", "__import__('os").encode()
            target.writestr(member.filename, content)
    with pytest.raises(ModelFormatError, match="more than arithmetic of symbols"):
        load(tmp_path / "m.pt2", {"x": (1, 8, 4, 16)})
