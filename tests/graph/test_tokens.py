"""Dense layers, attention, softmax and layer norm: right with any schedule, and without copies in between."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from tests.agreement import compare_with
from tests.models import TARGET, agrees, build_lean, built, defaults, design_space, normal, read, save
from tests.targets import require
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.compare import relative_error
from tilewright.space.configs import sample

few = settings(max_examples=4, deadline=None, derandomize=True)


def right(path: Path, configs: int = 2) -> Extraction:
    """With default schedules and with random ones, the model gives ONNX Runtime's outputs."""
    require(TARGET)
    extraction = extract(read(path), TARGET)
    spaces = {use.task.key: design_space(use.task, TARGET) for use in extraction.uses}
    drawn = {key: sample(s, np.random.default_rng(0), configs) for key, s in spaces.items() if s.template[0] != "a"}
    choices = [defaults(extraction)]
    for i in range(configs):
        chosen = {key: spaces[key].schedule(c[i % len(c)]).mod["main"] for key, c in drawn.items()}
        choices.append(choices[0] | chosen)
    error_of = compare_with(extraction.network)
    assert error_of is not None
    for functions in choices:
        assert error_of(build_lean(extraction, functions, path.with_name("out"))) <= 1e-4
    return extraction


def single(value: float) -> NDArray[np.float32]:
    return np.asarray([value], np.float32)


def kinds(extraction: Extraction) -> list[str]:
    return sorted(use.task.kind for use in extraction.uses for _ in range(use.weight))


def test_a_dense_layer_of_one_number(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    right(save(tmp_path / "m.onnx", nodes, {"x": [1, 1]}, [1, 16], w=normal(1, 16), b=normal(16)))


@few
@given(
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=2),
    depth=st.sampled_from([5, 16, 40]),
    outputs=st.sampled_from([2, 5, 8, 17, 24, 36]),
)
def test_dense(rows: list[int], depth: int, outputs: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["b", "m"], ["a"]),
        helper.make_node("Div", ["a", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["f"]),
        helper.make_node("Mul", ["a", "f"], ["g"]),
        helper.make_node("Mul", ["g", "half"], ["h"]),
        helper.make_node("Add", ["r", "h"], ["y"]),
    ]
    weights = {"w": normal(depth, outputs), "b": normal(outputs)}
    weights |= {"root": single(math.sqrt(2)), "one": single(1), "half": single(0.5)}
    shape = [*rows, outputs]
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"x": [*rows, depth], "r": shape}
        extraction = right(save(Path(folder, "m.onnx"), nodes, inputs, shape, **weights))
    assert kinds(extraction) == ["contraction"]


def attention(path: Path, batch: int, tokens: int, heads: int, depth: int, masked: bool, one: bool) -> Path:
    """Multi-head attention with a residual and a layer norm; queries, keys and values from one dense layer or three."""
    width = heads * depth
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Any] = {"wo": normal(width, width, seed=9) / width**0.5, "scale": single(depth**-0.5)}
    weights |= {"g": normal(width, seed=7), "s": normal(width, seed=8)}
    if one:
        weights |= {"w": normal(width, 3 * width) / width**0.5, "parts": np.asarray([width] * 3)}
        nodes += [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("Split", ["p", "parts"], ["q0", "k0", "v0"], axis=-1),
        ]
    else:
        for i, name in enumerate("qkv"):
            weights["w" + name] = normal(width, width, seed=i) / width**0.5
            nodes.append(helper.make_node("MatMul", ["x", "w" + name], [name + "0"]))
    weights |= {"split": np.asarray([0, 0, heads, depth]), "merge": np.asarray([0, 0, width])}
    for name in "qkv":
        nodes.append(helper.make_node("Reshape", [name + "0", "split"], [name + "1"]))
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes.append(helper.make_node("Transpose", [name + "1"], [name], perm=perm))
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["t"]),
        helper.make_node("Mul", ["t", "scale"], ["u"]),
        helper.make_node("Add", ["u", "mask"], ["um"]) if masked else helper.make_node("Identity", ["u"], ["um"]),
        helper.make_node("Softmax", ["um"], ["z"], axis=-1),
        helper.make_node("MatMul", ["z", "v"], ["o0"]),
        helper.make_node("Transpose", ["o0"], ["o1"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["o1", "merge"], ["o"]),
        helper.make_node("MatMul", ["o", "wo"], ["d"]),
        helper.make_node("Add", ["x", "d"], ["n"]),
        helper.make_node("LayerNormalization", ["n", "g", "s"], ["y"], axis=-1, epsilon=1e-5),
    ]
    inputs: dict[str, Any] = {"x": [batch, tokens, width]}
    if masked:
        inputs["mask"] = [batch, 1, 1, tokens]
    return save(path, nodes, inputs, [batch, tokens, width], **weights)


@few
@given(
    batch=st.sampled_from([1, 3]),
    tokens=st.sampled_from([3, 8, 19, 24]),
    heads=st.integers(1, 3),
    depth=st.sampled_from([2, 4, 8, 16]),
    masked=st.booleans(),
    one=st.booleans(),
)
def test_attention_copies_nothing(batch: int, tokens: int, heads: int, depth: int, masked: bool, one: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        extraction = right(attention(Path(folder, "m.onnx"), batch, tokens, heads, depth, masked, one))
    assert not extraction.fallbacks
    assert kinds(extraction) == ["contraction"] * (4 if one else 6) + ["rows"] * 2


def test_a_mask_is_added_by_the_product(tmp_path: Path) -> None:
    path = attention(tmp_path / "m.onnx", 2, 16, 2, 8, True, True)
    assert kinds(agrees(path, tmp_path / "out")) == ["contraction"] * 4 + ["rows"] * 2


@few
@given(rows=st.integers(1, 40), columns=st.integers(2, 70), last=st.booleans())
def test_softmax(rows: int, columns: int, last: bool) -> None:
    shape = [rows, columns] if last else [columns, rows]
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1 if last else 0)
    with tempfile.TemporaryDirectory() as folder:
        right(save(Path(folder, "m.onnx"), [node], {"x": shape}, shape))


@pytest.mark.parametrize("shape", [[5, 12], [2, 3, 33], [4, 4]])
def test_layer_norm(shape: list[int], tmp_path: Path) -> None:
    node = helper.make_node("LayerNormalization", ["x", "g", "s"], ["y"], axis=-1)
    right(save(tmp_path / "m.onnx", [node], {"x": shape}, shape, g=normal(shape[-1]), s=normal(shape[-1], seed=1)))


@pytest.mark.parametrize(("batch", "first"), [(1, False), (3, True)])
def test_pytorch_encoder(batch: int, first: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=first, activation="gelu")
    net = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    data = torch.randn(batch, 12, 32)
    extraction, executable = built(torch.export.export(net, (data,)), tmp_path / "out")
    (result,) = executable(data.numpy())
    assert relative_error(result, net(data).detach().numpy()) <= 1e-4
    # Four dense layers and two products of batches a layer, two norms and a softmax; and nothing else.
    assert kinds(extraction) == ["contraction"] * 12 + ["rows"] * 6
