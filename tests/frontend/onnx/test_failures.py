"""What fails in the importer, in a pass or in the compiler costs an operator its place, and is told in words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.frontend.onnx.small import by_runtime, make, model, read, same
from tests.models import TARGET, built, normal, runs
from tilewright.errors import MissingExtraError, ModelFormatError, UnsupportedOperatorError
from tilewright.executable.executable import load_executable
from tilewright.frontend.load import load
from tilewright.frontend.network import Network
from tilewright.frontend.onnx import importer
from tilewright.graph.left_out import extract_all

pytestmark = runs

TEXT = "g (float[64,512] x) => (float[64,512] y) { a = Relu(x) b = Elu(a) y = Tanh(b) }"


def saved(folder: Path, text: str = TEXT) -> Path:
    onnx.save(read(text), folder / "m.onnx")
    return folder / "m.onnx"


def reasons(network: Network) -> list[str]:
    return [reason for segment in network.segments for reason in segment.reasons]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("num_heads"), "'num_heads' is missing"),
        (IndexError("list index out of range"), "list index out of range"),
        (AssertionError(), "AssertionError"),
        (UnsupportedOperatorError("an Elu needs an alpha"), "an Elu needs an alpha"),
    ],
)
def test_a_converter_that_fails(error: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: importer.Operands) -> NoReturn:
        raise error

    monkeypatch.setitem(importer.CONVERTERS, ("", "Elu"), fail)
    network = load(saved(tmp_path))
    [reason] = reasons(network)
    assert reason.startswith("Elu (b): ")
    assert says in reason
    assert reason != "Elu (b): 'num_heads'"


def test_a_converter_of_another_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shorten(given: importer.Operands) -> Sequence[object]:
        from tvm import relax

        return [relax.op.strided_slice(given.inputs[0], [0], [0], [3])]

    monkeypatch.setitem(importer.CONVERTERS, ("", "Elu"), shorten)
    [reason] = reasons(load(saved(tmp_path)))
    assert "gives float32 [3, 512] instead of float32 [64, 512]" in reason


def test_an_importer_that_fails_beyond_an_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm.relax.frontend.onnx import onnx_frontend

    def fail(self: object, value: object) -> NoReturn:
        raise KeyError("y")

    monkeypatch.setattr(onnx_frontend.ONNXGraphImporter, "_parse_value_proto", fail)
    with pytest.raises(UnsupportedOperatorError, match=r"'y' is missing.*bug in Tilewright"):
        load(saved(tmp_path))


@pytest.mark.parametrize("where", ["tilewright.graph.tasks.rewrite", "tilewright.graph.tasks.fuse"])
def test_a_pass_that_fails(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass fails for one operator, which ONNX Runtime runs then."""
    network = load(saved(tmp_path, TEXT.replace(" Elu", " Erf")))

    def fail(subject: object, *rest: object) -> object:
        module = getattr(subject, "module", subject)
        if "erf" in str(module):
            raise KeyError("lanes")
        return untouched(subject, *rest)

    from tilewright.graph import tasks

    untouched = getattr(tasks, where.rpartition(".")[2])
    monkeypatch.setattr(where, fail)
    extraction = extract_all(network, TARGET)
    assert "'lanes' is missing" in " ".join(reasons(extraction.network))
    assert any(reason.startswith("Erf (b)") for reason in reasons(extraction.network))


def test_a_rewriting_of_the_file_that_fails_leaves_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilewright.frontend.onnx import folding
    from tilewright.frontend.onnx.model import prepare

    def fail(made: onnx.ModelProto, *_: object) -> NoReturn:
        del made.graph.node[:]
        raise KeyError("axis")

    for name in ("rewrite", "widen", "drop_empty", "keep_constants"):
        monkeypatch.setattr(folding, name, fail)
    monkeypatch.delenv("TILEWRIGHT_DEBUG", raising=False)
    folder = tmp_path / "read"
    folder.mkdir()
    prepare(saved(tmp_path), {}, folder)
    kinds = [node.op_type for node in onnx.load(folder / "folded.onnx").graph.node]
    assert kinds == ["Relu", "Elu", "Tanh"]


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (helper.make_node("Elu", ["x"], ["y"], alpha="much"), "alpha"),
        (helper.make_node("Elu", ["x"], ["y"], slope=1.0), "slope"),
        (helper.make_node("MaxPool", ["x"], ["y"]), "kernel_shape"),
        (helper.make_node("Softmax", ["x"], ["y"], axis=7), "axis"),
        (helper.make_node("Reshape", ["x", "x"], ["y"]), "float"),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_what_onnx_runtime_refuses_is_refused_with_its_reason(node: onnx.NodeProto, says: str, tmp_path: Path) -> None:
    made = model([node], {"x": ("float32", (1, 4, 8, 8))}, {"y": ("float32", None)})
    onnx.save(made, tmp_path / "m.onnx")
    with pytest.raises(ModelFormatError) as caught:
        load(tmp_path / "m.onnx")
    assert says in str(caught.value)
    assert str(tmp_path / "read") not in str(caught.value)


def test_a_kernel_without_which_a_part_cannot_run(tmp_path: Path) -> None:
    """ONNX Runtime has no convolution in float64, and Tilewright no NonZero."""
    text = "g (double[1,3,8,8] x) => (double[1,5,8,8] y, int64[4,n] z) { y = Conv(x, w) z = NonZero(y) }"
    made = read(text)
    made.graph.initializer.append(onnx.numpy_helper.from_array(normal(5, 3, 1, 1).astype(np.float64), "w"))
    onnx.save(made, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedOperatorError, match=r"Conv.*a part cannot be compiled.*NonZero"):
        load(tmp_path / "m.onnx")


def test_onnx_runtime_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = read("g (float[4,4] x) => (int64[2,n] y) { a = Exp(x) y = NonZero(a) }")
    _, executable = make(made, tmp_path)
    x = normal(4, 4)
    same(executable(x)[0], by_runtime(made, [x])[0])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"this needs onnxruntime.*pip install onnxruntime") as caught:
        load_executable(tmp_path / "out")
    assert "\n" not in str(caught.value)
    # Another process reads the model, where ONNX Runtime is. Without a segment it is not needed here.
    built(str(saved(tmp_path)), tmp_path / "plain")
    load_executable(tmp_path / "plain")
