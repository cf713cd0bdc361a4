"""The registry: which template makes a task's space, and what it says where none does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.models import TARGET
from tests.targets import LANES, lane_target
from tilewright.errors import SpaceError
from tilewright.graph.tasks import task_of
from tilewright.ops import (
    TEMPLATES,
    Template,
    attention,
    attention_gradient,
    contraction,
    depthwise_gradient,
    elementwise,
    make_space,
    norms,
    pixel_sums,
    recurrent,
    rows,
    token_product,
    winograd,
)
from tilewright.ops.elementwise.elementary import silu
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.task import Task

_SAME = (1, 1), (1, 1, 1, 1), (1, 1)
_GRADIENT = pixel_sums.WeightGradient((2, 16, 8, 8), (16, 16, 3, 3), *_SAME)
_DEPTHWISE = pixel_sums.WeightGradient((2, 16, 8, 8), (16, 1, 3, 3), *_SAME, 16)
_DATA_GRADIENT = depthwise_gradient.DataGradient((2, 16, 8, 8), (4, 4), (3, 3), (2, 2), (1, 1))
_STATISTICS = pixel_sums.Statistics((2, 16, 8, 8), products=False)
_TILING = winograd.Tiling.of(2, 1, 8, 8, (1, 1, 1, 1))
_RNN = recurrent.Cell("rnn", 3, 2, 24, (False,), ((recurrent.Activation("tanh"),),), "h", block=8)
_ROWS = ((1, ("batch", 0)), (8, ("query", 0)), (8, ("depth", 0)))
_KEYS = ((1, ("batch", 0)), (8, ("key", 0)), (8, ("depth", 0)))
_VALUES = (*_KEYS[:2], (8, ("width", 0)))
_OUT = (("batch", 0), ("query", 0), ("width", 0))
_ATTENTION = attention.Attention((1,), 8, 8, 8, 8, _ROWS, _KEYS, _VALUES, _OUT)
_ATTENTION_GRADIENT = attention_gradient.AttentionGradient(
    dataclasses.replace(_ATTENTION, sums=True),
    _ATTENTION.extents(_OUT),
    _ROWS,
    _KEYS,
    _VALUES,
)
_BYTE_ATTENTION = attention.ByteAttention((1,), 8, 8, 8, 8, _ROWS, _KEYS, _VALUES, _OUT, (0, 0))
#: An expression of each family: its function, the kind of its task, and the template that serves it.
FAMILIES: dict[str, tuple[Any, str, str]] = {
    "convolution": (contraction.conv2d((1, 2, 8, 8, 8), (2, 2, 3, 3, 8, 8), *_SAME), "contraction", "contraction"),
    "depthwise": (contraction.depthwise_conv2d((1, 2, 8, 8, 8), (2, 3, 3, 8), *_SAME), "contraction", "depthwise"),
    "dense": (contraction.dense(4, (2, 16, 8), 16), "contraction", "contraction"),
    "weight gradient": (pixel_sums.weight_gradient(_GRADIENT, (2, 2, 8, 8, 8), (2, 2, 8, 8, 8)), *["pixel_sums"] * 2),
    "depthwise gradient": (pixel_sums.depthwise_gradient(_DEPTHWISE, (2, 2, 8, 8, 8)), "pixel_sums", "pixel_sums"),
    "data gradient": (
        depthwise_gradient.data_gradient(_DATA_GRADIENT, (2, 2, 4, 4, 8)),
        *["depthwise_gradient"] * 2,
    ),
    "statistics": (pixel_sums.channel_statistics(_STATISTICS, (2, 2, 8, 8, 8)), "pixel_sums", "pixel_sums"),
    "channel sum": (pixel_sums.channel_sum((2, 2, 8, 8, 8), 16), "pixel_sums", "pixel_sums"),
    "token product": (token_product.token_product(token_product.TokenProduct(32, 16, 16)), *["token_product"] * 2),
    "norm in training": (norms.training_norm(norms.TrainingNorm(16, 32, 1e-5)), *["training_norm"] * 2),
    "gradient of a norm": (norms.norm_gradient(norms.NormGradient(16, 32)), *["norm_gradient"] * 2),
    "token sum": (pixel_sums.token_sum(32, 16, 8), "pixel_sums", "pixel_sums"),
    "norm sums": (pixel_sums.norm_sums(32, 16, 8), "pixel_sums", "pixel_sums"),
    "softmax": (rows.softmax((8, 24), 8, True), "rows", "rows"),
    "layer norm": (rows.layer_norm((8, 24), 8, 1e-5), "rows", "rows"),
    "layer norm gradient": (rows.layer_norm_gradient((8, 24), 8), "rows", "rows"),
    "row moments": (rows.row_moments((8, 24), 8, 1e-5), "rows", "rows"),
    "log sum exp": (rows.log_sum_exp((8, 24), 8), "rows", "rows"),
    "products": (winograd.products(_TILING, (16, 2, 2, 8, 8)), "contraction", "contraction"),
    "transform": (winograd.data_transform(_TILING, (1, 2, 8, 8, 8)), "winograd", "winograd_transform"),
    "inverse": (winograd.inverse_transform(_TILING, 2, 8), "winograd", "winograd_transform"),
    "whole": (winograd.fused(_TILING, (1, 2, 8, 8, 8), (16, 2, 2, 8, 8)), "winograd", "winograd"),
    "formula": (elementwise.apply_formula(silu, (8, 24), "silu"), "auto", "elementwise"),
    "recurrent": (recurrent.recurrent(_RNN), "recurrent", "recurrent"),
    "attention": (attention.attention(_ATTENTION), "attention", "attention"),
    "attention gradient": (attention_gradient.attention_gradient(_ATTENTION_GRADIENT), *["attention_gradient"] * 2),
    "byte attention": (attention.byte_attention(_BYTE_ATTENTION), *["byte_attention"] * 2),
    "layer norm of bytes": (rows.byte_layer_norm((8, 24), 1e-5), "rows", "rows"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_expression_is_served_by_its_template(name: str) -> None:
    function, kind, template = FAMILIES[name]
    task = task_of(name, function)
    assert task.kind == kind
    serving = next(t for t in TEMPLATES if t.serves(task, TARGET))
    assert serving.name == template
    assert make_space(task, TARGET).template.partition("/")[0] == template
    assert TEMPLATES[-1].serves(task, TARGET)  # the generic one serves every task


@pytest.mark.parametrize("name", FAMILIES)
def test_a_task_holds_no_mark(name: str) -> None:
    """Its key and its text are those of the function as it was before there were marks."""
    assert "tilewright.template" not in task_of(name, FAMILIES[name][0]).ir
    assert "tilewright.detail" not in task_of(name, FAMILIES[name][0]).ir


def test_templates_have_names_of_their_own() -> None:
    names = [template.name for template in TEMPLATES]
    assert len(set(names)) == len(names)


class Mine:
    """A template from outside, which serves dense layers alone."""

    name = "mine"
    kind = "contraction"

    def serves(self, task: Task, target: Target) -> bool:
        return task.name.startswith("dense")

    def space(self, task: Task, target: Target) -> DesignSpace:
        return TEMPLATES[-1].space(task, target)


def test_the_first_template_that_serves_makes_the_space() -> None:
    templates: tuple[Template, ...] = (Mine(), *TEMPLATES)
    dense = task_of("dense", FAMILIES["dense"][0])
    assert make_space(dense, TARGET, templates).template == "auto/1"
    convolution = task_of("conv", FAMILIES["convolution"][0])
    assert make_space(convolution, TARGET, templates).template == "contraction/4"


def test_a_task_that_no_template_serves_is_refused() -> None:
    convolution = task_of("conv", FAMILIES["convolution"][0])
    with pytest.raises(SpaceError, match=r"mine do not serve .* put TEMPLATES after your own"):
        make_space(convolution, TARGET, (Mine(),))
    with pytest.raises(SpaceError, match=r"kind is 'contraction', but that of .* is 'rows'"):
        make_space(task_of("softmax", FAMILIES["softmax"][0]), TARGET, (Mine(),))
    first = "'depthwise_gradient', 'summed', 'rows'"
    named = (
        "'quads', 'recurrent', 'attention', 'byte_attention', 'attention_gradient', 'token_product', "
        "'training_norm', 'norm_gradient', 'excitation', 'expansion', 'mlp', 'winograd' or 'auto'"
    )
    with pytest.raises(SpaceError, match=f"'contraction', 'pixel_sums', 'computed_sums', {first}, {named}"):
        make_space(Task("k", "n", "other", 1.0, ""), TARGET)
    with pytest.raises(SpaceError, match="cannot be read"):
        make_space(Task("k", "n", "auto", 1.0, "{}"), TARGET)


def test_a_task_has_a_space_of_its_own_on_each_target() -> None:
    """A form is read once for each task, but knobs are made for each target."""
    task = task_of("softmax", FAMILIES["softmax"][0])
    for lanes in LANES:
        vectors = next(knob for knob in make_space(task, lane_target(lanes)).knobs if knob.name == "vector")
        assert vectors.choices == ((lanes,), (2 * lanes,), (4 * lanes,))


def test_a_template_that_fails_says_which_and_why() -> None:
    class Broken(Mine):
        name = "broken"

        def space(self, task: Task, target: Target) -> DesignSpace:
            raise KeyError("vector")

    templates: tuple[Template, ...] = (Broken(), *TEMPLATES)
    dense = task_of("dense", FAMILIES["dense"][0])
    with pytest.raises(SpaceError, match=r"the template 'broken' of 'dense .*' failed: 'vector' is missing"):
        make_space(dense, TARGET, templates)
    convolution = task_of("conv", FAMILIES["convolution"][0])
    assert make_space(convolution, TARGET, templates).template == "contraction/4"
