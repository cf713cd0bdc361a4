"""Attention as models write it is found, and one function computes what several do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.agreement import network_error
from tests.graph.test_tokens import attention
from tests.models import TARGET, build_lean, defaults, normal, read, save
from tests.targets import require
from tilewright.graph.tasks import Extraction, extract
from tilewright.ops.registry import make_space

_LOWEST = float(np.finfo(np.float32).min)


def write(path: Path, tokens: int, *steps: tuple[Any, ...], batch: int = 2, output: str = "p", **more: Any) -> Path:
    """Attention of 3 heads of 8, with ``steps`` between the first product and the softmax.

    A step is the operator's name, its operands (``None`` for the scores), and the weights among these.
    """
    nodes: list[NodeProto] = []
    shape = [batch, tokens, 3, 8]
    for name in "qkv":
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes.append(helper.make_node("Transpose", [f"{name}0"], [name], perm=perm))
    nodes.append(helper.make_node("MatMul", ["q", "k"], ["s0"]))
    weights: dict[str, Any] = {}
    for i, (operator, operands, arrays) in enumerate(steps):
        weights |= arrays
        names = [f"s{i}" if operand is None else operand for operand in operands]
        nodes.append(helper.make_node(operator, names, [f"s{i + 1}"]))
    nodes += [
        helper.make_node("Softmax", [f"s{len(steps)}"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"]),
        helper.make_node("Transpose", ["o"], ["y"], perm=[0, 2, 1, 3]),
    ]
    inputs = {f"{name}0": shape for name in "qkv"} | more
    return save(path, nodes, inputs, shape, **weights)


def scale(number: float) -> tuple[Any, ...]:
    return "Mul", [None, "scale"], {"scale": np.asarray(number, dtype=np.float32)}


def joined(extraction: Extraction) -> Extraction:
    return extraction.with_algorithms({}, {form for form, _ in extraction.attentions})


def kinds(extraction: Extraction) -> set[str]:
    return {use.task.kind for use in extraction.uses}


def check(extraction: Extraction, folder: Path) -> None:
    """The network gives ONNX Runtime's outputs."""
    require(TARGET)
    error = network_error(build_lean(extraction, defaults(extraction), folder / "out"), extraction.network)
    assert error is not None
    assert error <= 1e-4


def test_zeros_instead_of_nan_are_part_of_the_softmax(tmp_path: Path) -> None:
    """PyTorch's attention in an ONNX file: a row whose softmax is nan has zeros."""
    nodes = [
        helper.make_node("Transpose", ["q0"], ["q"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["k0"], ["k"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["v0"], ["v"], perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Add", ["s", "mask"], ["t"]),
        helper.make_node("Softmax", ["t"], ["p"], axis=-1),
        helper.make_node("IsNaN", ["p"], ["n"]),
        helper.make_node("Where", ["n", "zero", "p"], ["w"]),
        helper.make_node("MatMul", ["w", "v"], ["o"]),
        helper.make_node("Transpose", ["o"], ["y"], perm=[0, 2, 1, 3]),
    ]
    shape = [2, 9, 3, 8]
    mask = normal(9, 9)
    mask[4], mask[5, 2] = -math.inf, math.inf
    inputs = {f"{name}0": shape for name in "qkv"}
    zero = np.asarray(0.0, dtype=np.float32)
    model = save(tmp_path / "m.onnx", nodes, inputs, shape, mask=mask, zero=zero)
    extraction = extract(read(model), TARGET)
    ((form, count),) = extraction.attentions
    assert (count, form.finite, form.safe) == (1, True, False)
    for whole in (joined(extraction), extraction):
        assert not any("isnan" in use.task.name for use in whole.uses)
        check(whole, tmp_path)


@pytest.mark.parametrize("one", [True, False])
def test_one_function_takes_the_place_of_several(one: bool, tmp_path: Path) -> None:
    extraction = extract(read(attention(tmp_path / "m.onnx", 3, 21, 2, 16, masked=True, one=one)), TARGET)
    ((form, count),) = extraction.attentions
    assert (count, form.items, form.queries, form.depth, len(form.masks)) == (1, 6, 21, 16, 1)
    whole = joined(extraction)
    assert "attention" in kinds(whole)
    assert len(whole.uses) < len(extraction.uses)
    served = {make_space(use.task, TARGET).template for use in whole.uses if use.task.kind == "attention"}
    assert served == {"attention/1"}
    check(whole, tmp_path)
    # The separate tasks are those of the network.
    keys = {use.task.key for use in extraction.uses}
    assert {task.key for task in extraction.separate_tasks(form)} <= keys
    assert joined(whole).uses == whole.uses
    assert whole.with_algorithms({}).uses == extraction.uses


def test_a_constant_mask_of_later_keys_is_not_read(tmp_path: Path) -> None:
    tokens = 13
    seen = np.tri(tokens, dtype=bool)
    for number, (hidden, value) in enumerate([("Add", -math.inf), ("Add", _LOWEST), ("Where", _LOWEST)]):
        if hidden == "Add":
            mask = np.where(seen, 0.0, value).astype(np.float32)
            step: tuple[Any, ...] = ("Add", ["mask", None], {"mask": mask[None, None]})
        else:
            weights = {"seen": seen[None, None], "low": np.asarray(value, dtype=np.float32)}
            step = ("Where", ["seen", None, "low"], weights)
        extraction = extract(read(write(tmp_path / f"{number}.onnx", tokens, scale(0.35), step)), TARGET)
        ((form, _),) = extraction.attentions
        assert form.causal
        assert not form.masks
        assert form.scale == pytest.approx(0.35)
        if number:
            check(joined(extraction), tmp_path)


def test_an_input_is_a_mask_and_hides_whatever_it_says(tmp_path: Path) -> None:
    steps = [scale(0.5), ("Add", [None, "m"], {})]
    extraction = extract(read(write(tmp_path / "m.onnx", 9, *steps, m=[2, 1, 1, 9])), TARGET)
    ((form, _),) = extraction.attentions
    assert form.masks == (((2, ("batch", 0)), (1, ("fixed", 0)), (1, ("fixed", 0)), (9, ("key", 0))),)
    check(joined(extraction), tmp_path)


def test_the_queries_of_a_mask_lie_side_by_side(tmp_path: Path) -> None:
    """A weight is permuted when the executable is built, and an input once for all layers that read it."""
    steps = [("Add", [None, "m"], {}), ("Add", [None, "bias"], {"bias": normal(1, 3, 9, 9)})]
    extraction = extract(read(write(tmp_path / "m.onnx", 9, *steps, m=[2, 1, 9, 9])), TARGET)
    ((form, _),) = extraction.attentions
    assert [dims[-1] for dims in form.masks] == [(9, ("query", 0))] * 2
    whole = joined(extraction)
    assert whole.plan is not None
    assert len(whole.plan.calls) == 2
    check(whole, tmp_path)


@pytest.mark.parametrize(
    "steps",
    [
        [("Add", [None, "m"], {"m": normal(2, 3, 9, 9)}), scale(0.5)],  # the mask is scaled, too
        [("Mul", [None, "m"], {"m": normal(9)})],
        [("Sigmoid", [None], {})],
        [("Where", ["c", None, "low"], {"c": normal(9, 9) > 0, "low": np.asarray(_LOWEST, dtype=np.float32)})],
        [
            ("Add", [None, "n"], {"n": np.where(np.tri(9) > 0, 0, _LOWEST).astype(np.float32)[None, None]}),
            ("Add", [None, "m"], {"m": normal(9)}),  # with a finite mask of later keys, all of these count
        ],
    ],
    ids=["scaled mask", "factor of each key", "another function", "condition", "two finite masks"],
)
def test_what_is_no_attention_stays_as_it_is(steps: list[tuple[Any, ...]], tmp_path: Path) -> None:
    assert extract(read(write(tmp_path / "m.onnx", 9, *steps)), TARGET).attentions == ()


def test_few_queries_are_not_joined(tmp_path: Path) -> None:
    assert extract(read(write(tmp_path / "m.onnx", 2, scale(0.5))), TARGET).attentions == ()
