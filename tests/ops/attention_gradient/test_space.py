"""The space of an attention's gradient: each program computes what NumPy does, whatever the sizes and the vectors."""

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
from tilewright.ops.attention import Attention, Dims
from tilewright.ops.attention_gradient import AttentionGradient, AttentionGradientSpace, attention_gradient
from tilewright.space.configs import sample
from tilewright.space.module import task_module
from tilewright.space.recorded import check_recorded
from tilewright.target import Target

Array = NDArray[Any]
_QUERY, _KEY, _DEPTH, _WIDTH = ("query", 0), ("key", 0), ("depth", 0), ("width", 0)
_BATCH = (("batch", 0), ("batch", 1))


def gradient(
    heads: int, queries: int, keys: int, depth: int, width: int, projected: bool = False, causal: bool = False
) -> AttentionGradient:
    """Two sequences; their operands lie in tensors of their own, or in one (batch, tokens, 3, heads, depth) tensor."""
    batch = (2, heads)
    extents = {_BATCH[0]: 2, _BATCH[1]: heads, _QUERY: queries, _KEY: keys, _DEPTH: depth, _WIDTH: width}

    def dims(*places: tuple[str, int]) -> Dims:
        return tuple((3 if place[0] == "fixed" else extents[place], place) for place in places)

    def operand(part: int, *axes: tuple[str, int]) -> Dims:
        if projected:
            return dims(_BATCH[0], axes[0], ("fixed", part), _BATCH[1], axes[1])
        return dims(*_BATCH, *axes)

    q, k, v = operand(0, _QUERY, _DEPTH), operand(1, _KEY, _DEPTH), operand(2, _KEY, _WIDTH)
    out = (_BATCH[0], _QUERY, _BATCH[1], _WIDTH)
    factor = 1 / math.sqrt(depth)
    form = Attention(batch, queries, keys, depth, width, q, k, v, out, factor, causal=causal, sums=True)
    dy = dims(*_BATCH, _QUERY, _WIDTH)
    if projected:
        return AttentionGradient(form, dy, q, k, v, joined=True)

    def tokens_first(row: tuple[str, int], column: tuple[str, int]) -> Dims:
        return dims(_BATCH[0], row, _BATCH[1], column)

    dq, dk, dv = tokens_first(_QUERY, _DEPTH), tokens_first(_KEY, _DEPTH), tokens_first(_KEY, _WIDTH)
    return AttentionGradient(form, dy, dq, dk, dv)


GRADIENTS: dict[str, AttentionGradient] = {
    "heads of one projection": gradient(2, 48, 48, 32, 32, projected=True),
    "odd tokens": gradient(1, 37, 37, 16, 16),
    "more keys than queries, odd columns": gradient(1, 19, 43, 24, 20),
    "few tokens": gradient(3, 5, 4, 8, 3),
    "causal": gradient(1, 53, 53, 16, 16, causal=True),
    "causal, more keys than queries": gradient(1, 20, 41, 8, 12, causal=True),
}


def axes_of(dims: Dims) -> str:
    letters = {_BATCH[0]: "b", _BATCH[1]: "h", _QUERY: "q", _KEY: "k", _DEPTH: "d", _WIDTH: "w"}
    return "".join(letters[place] for _, place in dims if place[0] != "fixed")


def draw(form: AttentionGradient) -> tuple[dict[str, Array], list[Array]]:
    """Arrays for the parameters, and the results in float64."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {n: rng.standard_normal(s).astype(np.float32) for n, s in form.shapes.items()}
    attention = form.attention

    def read(name: str, dims: Dims) -> tuple[str, Array]:
        at = tuple(place[1] if place[0] == "fixed" else slice(None) for _, place in dims)
        return axes_of(dims), arrays[name].astype(np.float64)[at]

    def product(out: str, *operands: tuple[str, Array]) -> Array:
        found = np.einsum(",".join(axes for axes, _ in operands) + "->" + out, *(array for _, array in operands))
        return np.asarray(found)

    q, k, v = (read(name, getattr(attention, name)) for name in "qkv")
    dy = read("gradient", form.gradient)
    scores = attention.scale * product("bhqk", q, k)
    if attention.causal:
        seen = np.tri(attention.queries, attention.keys, attention.keys - attention.queries, dtype=bool)
        scores = np.where(seen, scores, -np.inf)
    sums = np.log(np.exp(scores).sum(-1))
    p = np.exp(scores - sums[..., None])
    out = attention.extents(attention.out)
    result = product(axes_of(out), ("bhqk", p), v)
    arrays["out"], arrays["sums"] = result.astype(np.float32), sums.reshape(-1, attention.queries).astype(np.float32)
    slopes = attention.scale * p * (product("bhqk", dy, v) - product("bhq", dy, (axes_of(out), result))[..., None])
    dq, dk, dv = (axes_of(dims) for dims in (form.dq, form.dk, form.dv))
    wanted = [product(dq, ("bhqk", slopes), k), product(dk, ("bhqk", slopes), q), product(dv, ("bhqk", p), dy)]
    for name in form.results:
        arrays[name].fill(np.nan)
    return arrays, wanted


def run(module: Any, target: Target, form: AttentionGradient, drawn: tuple[dict[str, Array], list[Array]]) -> None:
    import tvm

    arrays, wanted = drawn
    tensors = {name: tvm.runtime.tensor(array) for name, array in arrays.items()}
    call_kernel(module, target, *tensors.values())
    for name, dims, want in zip(("dq", "dk", "dv"), (form.dq, form.dk, form.dv), wanted, strict=True):
        at = tuple(place[1] if place[0] == "fixed" else slice(None) for _, place in dims)
        found = tensors[form.result_of(name)].numpy()[at]
        np.testing.assert_allclose(found, want, rtol=0, atol=5e-6 * np.abs(want).max(), err_msg=name)


def space_of(form: AttentionGradient, target: Target) -> AttentionGradientSpace:
    space = make_space(task_of("attention_gradient", attention_gradient(form)), target)
    assert isinstance(space, AttentionGradientSpace)
    return space


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
@pytest.mark.parametrize("name", GRADIENTS)
def test_programs_compute_what_numpy_does(name: str) -> None:
    target = host_target()
    form = GRADIENTS[name]
    space, drawn = space_of(form, target), draw(form)
    for config in [space.default(), *sample(space, np.random.default_rng(1), 1)]:
        run(space.schedule(config).mod, target, form, drawn)


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
def test_the_expression_computes_what_numpy_does() -> None:
    form = GRADIENTS["causal, more keys than queries"]
    task = task_of("attention_gradient", attention_gradient(form))
    run(task_module(task), host_target(), form, draw(form))


@pytest.mark.parametrize("lanes", [lanes for lanes in LANES if lanes != host_target().lanes])
def test_programs_for_other_vectors(lanes: int) -> None:
    target = lane_target(lanes)
    for name in ("odd tokens", "causal, more keys than queries"):
        if not lack(target):
            form = GRADIENTS[name]
            space = space_of(form, target)
            run(space.schedule(space.default()).mod, target, form, draw(form))


@pytest.mark.parametrize("lanes", LANES)
def test_tiles_fit_the_registers(lanes: int) -> None:
    target = lane_target(lanes)
    for form in [*GRADIENTS.values(), gradient(1, 100_000, 100_000, 64, 64)]:
        space = space_of(form, target)
        assert space.valid(space.default()[None]).all()
        drawn = sample(space, np.random.default_rng(0), 200)
        c = {knob.name: knob.table.take(drawn[:, i], axis=0) for i, knob in enumerate(space.knobs)}
        for rows, vectors in (
            (c["keys"], c["queries"]),
            (c["keys"], c["columns"]),
            (c["queries"][:, 1:], c["columns"]),
        ):
            assert (rows[:, 0] * vectors[:, 0] <= max(1, target.registers - 2)).all()
        if form.attention.keys == 100_000:  # scores of more vectors would leave the cache
            assert (c["queries"][:, 0] == 1).all()


def test_arithmetic_is_counted() -> None:
    form = GRADIENTS["heads of one projection"]
    assert 2 * form.work <= task_of("gradient", attention_gradient(form)).flop <= 4 * form.work


def test_a_gradient_survives_its_description() -> None:
    for form in GRADIENTS.values():
        assert AttentionGradient.parse(form.detail) == form
        check_recorded(task_of("attention_gradient", attention_gradient(form)))


@pytest.mark.parametrize("detail", ["", "{}", "[1]", '{"gradient": []}'])
def test_a_description_of_no_gradient_is_refused(detail: str) -> None:
    with pytest.raises(FormError, match="description of its operands"):
        AttentionGradient.parse(detail)


def test_an_inconsistent_description_is_refused() -> None:
    good = GRADIENTS["odd tokens"]
    changes: list[dict[str, Any]] = [{"gradient": good.gradient[1:]}, {"dq": good.dk}, {"dv": good.dv[::-1]}]
    changes += [{"joined": True}, {"attention": dataclasses.replace(good.attention, sums=False)}]
    for change in changes:
        with pytest.raises(FormError, match="rule number"):
            AttentionGradient.parse(dataclasses.replace(good, **change).detail)
