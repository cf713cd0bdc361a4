"""The space of attention: each program computes what NumPy does, whatever the sizes, the masks and the vectors."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.targets import LANES, host_target, lack, lane_target
from tilewright.errors import FormError
from tilewright.graph.tasks import task_of
from tilewright.ops import make_space
from tilewright.ops.attention import Attention, AttentionSpace, AttentionTemplate, Dims, attention
from tilewright.space.configs import sample
from tilewright.space.module import task_module
from tilewright.space.recorded import check_recorded
from tilewright.target import Target
from tilewright.task import Task

Array = NDArray[Any]
_BATCH: Dims = ((2, ("batch", 0)), (3, ("batch", 1)))
_QUERY, _KEY = ("query", 0), ("key", 0)


def projected(batch: int, heads: int, queries: int, depth: int, **more: Any) -> Attention:
    """All operands in one (batch, tokens, 3, heads, depth) tensor, and the result as (batch, tokens, heads, depth)."""
    begin = ("batch", 0)

    def operand(rows: str, columns: str, part: int) -> Dims:
        return (
            (batch, begin),
            (queries, (rows, 0)),
            (3, ("fixed", part)),
            (heads, ("batch", 1)),
            (depth, (columns, 0)),
        )

    q, k, v = operand("query", "depth", 0), operand("key", "depth", 1), operand("key", "width", 2)
    out = (begin, _QUERY, ("batch", 1), ("width", 0))
    sizes = {"scale": 1 / math.sqrt(depth)} | more
    return Attention((batch, heads), queries, queries, depth, depth, q, k, v, out, **sizes)


def apart(queries: int, keys: int, depth: int, width: int, **more: Any) -> Attention:
    """Operands of their own; the keys lie transposed."""
    q = (*_BATCH, (queries, _QUERY), (depth, ("depth", 0)))
    k = (*_BATCH, (depth, ("depth", 0)), (keys, _KEY))
    v = (*_BATCH, (keys, _KEY), (width, ("width", 0)))
    out = (("batch", 0), ("batch", 1), _QUERY, ("width", 0))
    return Attention((2, 3), queries, keys, depth, width, q, k, v, out, **more)


ATTENTIONS: dict[str, Attention] = {
    "heads of one projection": projected(1, 2, 40, 32),
    "odd tokens of a batch": projected(3, 2, 37, 24),
    "few tokens": projected(2, 3, 5, 8),
    "two tokens": projected(1, 1, 2, 3),
    "causal": projected(1, 2, 53, 16, causal=True),
    "causal, more keys than queries": apart(9, 41, 8, 8, causal=True),
    "padded keys": apart(
        19, 23, 12, 20, masks=(((2, ("batch", 0)), (1, ("fixed", 0)), (1, ("fixed", 0)), (23, _KEY)),)
    ),
    "safe": apart(7, 33, 16, 16, safe=True, masks=(((7, _QUERY), (33, _KEY)),)),
    "two masks": apart(18, 20, 4, 36, masks=(((3, ("batch", 1)), (18, _QUERY), (20, _KEY)), ((20, _KEY),))),
    "stripes": apart(20, 300, 8, 12, masks=(((20, _QUERY), (300, _KEY)),)),
    "causal stripes": projected(1, 1, 290, 8, causal=True),
    "sums": projected(2, 1, 19, 8, sums=True),
    "sums of causal stripes": projected(1, 2, 290, 8, causal=True, sums=True),
}


def draw(form: Attention) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {n: (2 * rng.standard_normal(s)).astype(np.float32) for n, s in form.shapes.items()}
    for name in arrays:
        if name.startswith("mask"):
            arrays[name][rng.random(arrays[name].shape) < 0.3] = -np.inf
            if form.safe:
                arrays[name][3] = -np.inf
    for name in ("out", "sums")[: 1 + form.sums]:
        arrays[name].fill(np.nan)
    return arrays


def reference(form: Attention, arrays: dict[str, Array]) -> Array:
    """The results in float64, flat and one after the other."""
    letters = {("batch", i): chr(ord("A") + i) for i in range(len(form.batch))}
    letters |= {_QUERY: "q", _KEY: "k", ("depth", 0): "d", ("width", 0): "w"}

    def read(name: str, dims: Dims) -> tuple[str, Array]:
        at = tuple(place[1] if place[0] == "fixed" else slice(None) for _, place in dims)
        return "".join(letters[p] for _, p in dims if p[0] != "fixed"), arrays[name].astype(np.float64)[at]

    batch = "".join(letters["batch", i] for i in range(len(form.batch)))
    operands = [read(name, getattr(form, name)) for name in ("q", "k", "v")]
    scores = form.scale * np.einsum(f"{operands[0][0]},{operands[1][0]}->{batch}qk", operands[0][1], operands[1][1])
    for i, dims in enumerate(form.masks):
        axes, mask = read(f"mask{i}", dims)
        ones = np.ones((*form.batch, form.queries, form.keys))
        scores = scores + np.einsum(f"{batch}qk,{axes}->{batch}qk", ones, np.maximum(mask, -1e300))
    if form.causal:
        seen = np.tri(form.queries, form.keys, form.keys - form.queries, dtype=bool)
        scores = np.where(seen, scores, -np.inf)
    top = np.maximum(scores.max(-1, keepdims=True), -1e200)
    e = np.exp(scores - top)
    with np.errstate(invalid="ignore"):
        weights = e / np.maximum(e.sum(-1, keepdims=True), 1e-30 if form.safe else 0.0)
    out = "".join(letters[p] for p in form.out)
    result = np.asarray(np.einsum(f"{batch}qk,{operands[2][0]}->{out}", weights, operands[2][1]))
    sums = np.log(e.sum(-1, keepdims=True)) + top if form.sums else np.zeros(0)
    return np.concatenate([result.ravel(), sums.ravel()])


def run(module: Any, target: Target, form: Attention, arrays: dict[str, Array]) -> Array:
    import tvm

    tensors = {name: tvm.runtime.tensor(array) for name, array in arrays.items()}
    call_kernel(module, target, *tensors.values())
    return np.concatenate([tensors[name].numpy().ravel() for name in ("out", "sums")[: 1 + form.sums]])


def agree(found: Array, wanted: Array, what: object) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5, err_msg=str(what))


def space_of(form: Attention, target: Target) -> AttentionSpace:
    space = make_space(task_of("attention", attention(form)), target)
    assert isinstance(space, AttentionSpace)
    return space


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
@pytest.mark.parametrize("name", ATTENTIONS)
def test_programs_compute_what_numpy_does(name: str) -> None:
    target, form = host_target(), ATTENTIONS[name]
    space, arrays = space_of(form, target), draw(form)
    wanted = reference(form, arrays)
    for config in [space.default(), *sample(space, np.random.default_rng(1), 1)]:
        agree(run(space.schedule(config).mod, target, form, arrays), wanted, config)


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
def test_the_expression_computes_what_numpy_does() -> None:
    form = ATTENTIONS["padded keys"]
    task, arrays = task_of("attention", attention(form)), draw(form)
    agree(run(task_module(task), host_target(), form, arrays), reference(form, arrays), "the expression")


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
def test_a_row_that_reads_no_key_is_zero_only_if_it_is_safe() -> None:
    target = host_target()
    for safe in (True, False):
        form = dataclasses.replace(ATTENTIONS["safe"], safe=safe)
        arrays = draw(ATTENTIONS["safe"])
        space = space_of(form, target)
        row = run(space.schedule(space.default()).mod, target, form, arrays).reshape(form.shapes["out"])[:, :, 3]
        assert (row == 0.0).all() if safe else np.isnan(row).all()


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
@pytest.mark.parametrize("name", ["safe", "stripes"])
def test_rows_without_a_softmax_are_zeros_if_it_is_finite(name: str) -> None:
    target = host_target()
    form = dataclasses.replace(ATTENTIONS[name], safe=False, finite=True)
    arrays, space = draw(form), space_of(form, target)
    mask = arrays["mask0"]
    mask[2], mask[3, 5], mask[4, 1] = -np.inf, np.nan, np.inf
    configs = [space.default()] if name == "safe" else sample(space, np.random.default_rng(3), 2)
    for config in configs:
        found = run(space.schedule(config).mod, target, form, arrays).reshape(form.shapes["out"])
        np.testing.assert_array_equal(found[:, :, 2:5], 0.0)
        others = np.r_[0:2, 5 : form.queries]
        with np.errstate(invalid="ignore"):
            wanted = reference(form, arrays).reshape(form.shapes["out"])
        agree(found[:, :, others], wanted[:, :, others], config)


@pytest.mark.parametrize("lanes", [lanes for lanes in LANES if lanes != host_target().lanes])
def test_programs_for_other_vectors(lanes: int) -> None:
    target = lane_target(lanes)
    for form in (ATTENTIONS["two masks"], ATTENTIONS["sums"]):
        if not lack(target):
            arrays, space = draw(form), space_of(form, target)
            agree(run(space.schedule(space.default()).mod, target, form, arrays), reference(form, arrays), lanes)


@pytest.mark.parametrize("lanes", LANES)
def test_tiles_fit_the_registers_and_stripes_the_cache(lanes: int) -> None:
    target = lane_target(lanes)
    forms = [*ATTENTIONS.values(), projected(1, 1, 200_000, 64)]
    for form in forms:
        space = space_of(form, target)
        assert space.valid(space.default()[None]).all()
        drawn = sample(space, np.random.default_rng(0), 200)
        c = {knob.name: knob.table.take(drawn[:, i], axis=0) for i, knob in enumerate(space.knobs)}
        registers = c["keys"][:, 0] * c["queries"][:, 0]
        assert (registers <= max(1, target.registers - 2)).all()
        if form.keys == 200_000:  # whole rows of scores would take 3 MB and more for one vector
            assert (c["stripe"][:, 0] > 0).all()


def test_arithmetic_is_counted() -> None:
    form = ATTENTIONS["heads of one projection"]
    assert 2 * form.work <= task_of("attention", attention(form)).flop <= 4 * form.work


def test_an_attention_survives_its_description() -> None:
    for form in ATTENTIONS.values():
        assert Attention.parse(form.detail) == form


@pytest.mark.parametrize("detail", ["", "{}", "[1]", '{"queries": 4}'])
def test_a_description_of_no_attention_is_refused(detail: str) -> None:
    with pytest.raises(FormError, match="description of its operands"):
        Attention.parse(detail)


def test_an_inconsistent_description_is_refused() -> None:
    good = ATTENTIONS["padded keys"]
    changes: list[dict[str, Any]] = [{"queries": 0}, {"keys": 22}, {"q": good.k}, {"out": good.out[::-1]}]
    changes += [{"scale": math.inf}, {"masks": (((9, _KEY),),)}, {"causal": True, "queries": 99}]
    for change in changes:
        with pytest.raises(FormError, match="rule number"):
            Attention.parse(dataclasses.replace(good, **change).detail)


def test_a_function_of_another_attention_is_refused() -> None:
    """The description must be that of the function."""
    one = task_of("attention", attention(ATTENTIONS["causal"]))
    lied = Task(one.key, one.name, one.kind, one.flop, one.ir.replace('causal\\": true', 'causal\\": false'))
    assert lied.ir != one.ir
    template = AttentionTemplate()
    assert template.serves(one, host_target())
    assert not template.serves(lied, host_target())
    with pytest.raises(FormError, match="another than that of the 'attention'"):
        template.space(lied, host_target())


def test_a_recorded_function_is_accepted() -> None:
    for form in ATTENTIONS.values():
        check_recorded(task_of("attention", attention(form)))
