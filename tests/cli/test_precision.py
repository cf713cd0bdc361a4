"""``tilewright tune --precision`` and ``--reference``: what they refuse before anything is tuned."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.models import conv_model
from tilewright.cli import app


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("m.onnx", ["--precision", "bf61"], "float32, bf16 or auto, but this is 'bf61'; did you mean 'bf16'?"),
        ("m.onnx", ["--precision", "bf16", "--fix", "x=1"], "--fix cannot be combined"),
        ("m.onnx", ["--precision", "bf16", "--fleet", "local"], "tuned on this machine"),
        ("m.pt2", ["--precision", "bf16"], "takes an ONNX file"),
        ("m.pt2", ["--precision", "auto"], "--precision auto takes an ONNX file"),
        ("m.onnx", ["--precision", "auto", "--fleet", "local"], "--precision auto is for one model"),
        ("m.onnx", ["--precision", "auto", "--max-error", "0"], "above 0 and below 1, but this is 0; try 0.01"),
        ("m.onnx", ["--precision", "auto", "--max-error", "nan"], "above 0 and below 1, but this is nan"),
        ("m.onnx", ["--precision", "auto", "--max-error", "10"], "above 0 and below 1, but this is 10"),
        ("m.onnx", ["--precision", "bf16", "--max-error", "0.1"], "but the precision is bf16; add --precision auto"),
        ("m.onnx", ["--max-error", "0.1"], "but the precision is float32; add --precision auto"),
        ("m.onnx", ["--reference", "missing.onnx"], "missing.onnx cannot be read"),
        ("m.onnx", ["--reference", "m.onnx", "--fix", "x=1"], "--fix cannot be combined"),
        ("m.onnx", ["--reference", "m.onnx", "--fleet", "local"], "tuned on this machine"),
        ("m.pt2", ["--reference", "m.pt2"], "compares two ONNX files"),
    ],
)
def test_what_is_refused(name: str, options: list[str], says: str, tmp_path: Path) -> None:
    model = conv_model(tmp_path / name)
    out = tmp_path / "out"
    options = [str(tmp_path / option) if option == name else option for option in options]
    done = CliRunner().invoke(app, ["tune", str(model), "--budget", "5s", "--out", str(out), *options])
    assert done.exit_code == 2
    assert says in done.output
    assert not out.exists()
