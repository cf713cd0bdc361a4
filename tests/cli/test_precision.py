"""``tilewright tune --precision``: what it refuses before it tunes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.models import conv_model
from tilewright.cli import app


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("m.onnx", ["--precision", "bf61"], "float32 or bf16, but this is 'bf61'; did you mean 'bf16'?"),
        ("m.onnx", ["--precision", "bf16", "--fix", "x=1"], "--fix cannot be combined"),
        ("m.onnx", ["--precision", "bf16", "--fleet", "local"], "tuned on this machine"),
        ("m.pt2", ["--precision", "bf16"], "takes an ONNX file"),
    ],
)
def test_what_bf16_is_not_for(name: str, options: list[str], says: str, tmp_path: Path) -> None:
    model = conv_model(tmp_path / name)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["tune", str(model), "--budget", "5s", "--out", str(out), *options])
    assert done.exit_code == 2
    assert says in done.output
    assert not out.exists()
