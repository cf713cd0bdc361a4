"""Executables of which ONNX Runtime runs a part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from tests.agreement import one_thread
from tests.models import built, runs
from tilewright.errors import MeasureError, OutputError, ShapeError
from tilewright.executable.executable import Executable, load_executable
from tilewright.tensor import Array

pytestmark = runs

MODELS = {
    "an open output": "g (float[300,99] x) => (int64[2,n] y, float[300,99] z) {a = Relu(x) y = NonZero(a) z = Exp(x)}",
    "texts": "g (string[2] s, float[64,512] x) => (string[2] t, float[64,512] y) { t = Identity(s) y = Relu(x) }",
    "a computed branch": """g (bool c, float[64,512] x) => (float[64,512] y) {
        a = Relu(x)
        b = If(c) <then_branch = t () => (float[64,512] q) { q = Exp(a) },
                   else_branch = e () => (float[64,512] r) { r = Neg(a) }>
        y = Tanh(b)
    }""",
    "a computed shape": "g (float[64,512] x, int64[2] s) => (float[a,b] y) { z = Relu(x) y = Reshape(z, s) }",
    "only texts": "g (string[3] s) => (string[3] t) { t = Identity(s) }",
    "a sequence": "g (float[4] x, int64 i) => (float[n] y) { s = SequenceConstruct(x, x) y = SequenceAt(s, i) }",
}


def write(text: str, path: Path) -> Path:
    onnx.save(parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text), path)
    return path


def draw(executable: Executable) -> list[Array]:
    rng = np.random.default_rng(0)
    drawn: list[Array] = []
    for spec in executable.inputs:
        if spec.kind == "T":
            drawn.append(np.array(["ab", "c", "d"][: spec.shape[0]], dtype=object))
        elif spec.kind == "b":
            drawn.append(np.asarray(True))
        elif spec.kind == "i":
            drawn.append(np.asarray([512, 64] if spec.shape else 1))
        else:
            drawn.append(rng.standard_normal(spec.shape).astype(np.float32))
    return drawn


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_onnx_runtime(name: str, tmp_path: Path) -> None:
    path = write(MODELS[name], tmp_path / "m.onnx")
    _, executable = built(path, tmp_path / "out")
    inputs = draw(executable)
    session = onnxruntime.InferenceSession(str(path), one_thread(), providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(zip([spec.name for spec in executable.inputs], inputs, strict=True)))
    for _ in range(2):
        for found, right in zip(executable(*inputs), expected, strict=True):
            assert found.dtype == np.asarray(right).dtype
            if found.dtype == object:
                assert np.array_equal(found, right)
            else:
                np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("divided")
    built(write(MODELS["an open output"], folder / "m.onnx"), folder / "out")
    return folder / "out"


def test_operators_whose_results_nobody_reads_are_left_out(tmp_path: Path) -> None:
    """ONNX Runtime refuses to run a segment without results."""
    text = "g (float[64,64] x) => (float[64,64] y) { y = Relu(x) g = Greater(x, y) n = NonZero(g) }"
    _, executable = built(write(text, tmp_path / "m.onnx"), tmp_path / "out")
    assert not executable.manifest.get("segments")
    assert executable(np.ones((64, 64), np.float32))[0].sum() == 64 * 64


def test_inputs_by_name(tmp_path: Path) -> None:
    _, executable = built(write(MODELS["texts"], tmp_path / "m.onnx"), tmp_path / "out")
    s, x = np.array(["a", "b"], dtype=object), np.ones((64, 512), np.float32)
    for t, y in (executable(s, x), executable(x=x, s=s), executable(**{"x": x, "s": s})):
        assert t.tolist() == ["a", "b"]
        np.testing.assert_array_equal(y, x)
    with pytest.raises(ShapeError, match="by the names s, x, but 'z' was given"):
        executable(s=s, z=x)
    with pytest.raises(ShapeError, match="by the names s, x, but 'x' is missing"):
        executable(s=s)
    with pytest.raises(ShapeError, match=r"some in order and 'x' by name; give all by name: s, x"):
        executable(s, x=x)
    with pytest.raises(
        ShapeError, match=r"each input \(s, x\), in this order or by name, but it has 2 inputs and got 1"
    ):
        executable(s)
    with pytest.raises(ShapeError, match=r"\(s, x\), but a dict was given; write \*\*"):
        executable({"s": s, "x": x})


def test_the_profile_has_the_segment(divided: Path) -> None:
    executable = load_executable(divided)
    profile = executable.profile(draw(executable), 2)
    assert profile is not None
    assert [time.kernel for time in profile if time.kernel.startswith("@")] == ["@0"]
    assert executable.overhead(3) is not None


def test_what_onnx_runtime_refuses_is_an_error(tmp_path: Path) -> None:
    _, executable = built(write(MODELS["a computed shape"], tmp_path / "m.onnx"), tmp_path / "out")
    x = np.zeros((64, 512), dtype=np.float32)
    with pytest.raises(MeasureError, match="ONNX Runtime runs failed"):
        executable(x, np.asarray([5, 7]))
    assert executable(x, np.asarray([512, 64]))[0].shape == (512, 64)


def test_numbers_are_no_texts(tmp_path: Path) -> None:
    _, executable = built(write(MODELS["only texts"], tmp_path / "m.onnx"), tmp_path / "out")
    with pytest.raises(ShapeError, match="give texts"):
        executable(np.zeros(3))


def test_a_changed_segment_is_refused(divided: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(divided, copy)
    file = copy / "segment0.onnx"
    file.write_bytes(file.read_bytes() + b"\x00")
    with pytest.raises(OutputError, match=r"segment0\.onnx is not the file that was written"):
        load_executable(copy)


def test_without_onnx_runtime_the_message_says_what_to_install(divided: Path) -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import tilewright\n"
        f"try: tilewright.load_executable({str(divided)!r})\n"
        "except tilewright.TilewrightError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "this needs onnxruntime, which is not installed; install it with: pip install onnxruntime"


def test_the_manifest_says_what_runs_in_onnx_runtime(divided: Path) -> None:
    (entry,) = json.loads((divided / "manifest.json").read_text(encoding="utf-8"))["segments"]
    assert entry["reasons"] == ["NonZero (y): its result 'y' is a tensor whose shape is decided while it runs"]


@pytest.mark.parametrize("shared", [False, True])
def test_products_of_bytes(shared: bool, tmp_path: Path) -> None:
    """Without VNNI, ONNX Runtime's own choice would limit the sum of two products to int16.

    Its exact kernels do not take a weight that two operators read. Then small sums must be right at least.
    """
    level = 7 if shared else 127
    numbers = ", ".join([str(level)] * 64 * 16)
    model = write(
        f"""g (uint8[2,64] x, bool[2] c) => (int32[n,16] y, int32[n,16] z) <int8[64,16] w = {{{numbers}}}> {{
            r = Compress<axis = 0>(x, c)
            y = MatMulInteger(r, w)
            z = {"MatMulInteger(r, w)" if shared else "Identity(y)"}
        }}""",
        tmp_path / "m.onnx",
    )
    executable = built(model, tmp_path / "out")[1]
    y, z = executable(np.full((2, 64), 255, np.uint8), np.array([True, False]))
    assert y.shape == z.shape == (1, 16)
    assert (y == 64 * 255 * level).all()
    assert (z == y).all()
