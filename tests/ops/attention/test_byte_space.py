"""The space of attention of bytes: each program gives NumPy's bytes, to a quantum where a probability is a tie."""

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
from tilewright.ops.attention import ByteAttention, ByteAttentionSpace, ByteAttentionTemplate, Dims, byte_attention
from tilewright.space.configs import sample
from tilewright.space.module import task_module
from tilewright.space.recorded import check_recorded
from tilewright.space.space import PLAIN_CODE, name_instruction
from tilewright.target import Target
from tilewright.task import Task

Array = NDArray[Any]
_BEGIN, _QUERY, _KEY = ("batch", 0), ("query", 0), ("key", 0)


def projected(batch: int, heads: int, tokens: int, depth: int, **more: Any) -> ByteAttention:
    """All operands in one (batch, tokens, 3, heads, depth) tensor, and the result as (batch, tokens, heads, depth)."""

    def operand(rows: str, columns: str, part: int) -> Dims:
        middle = (3, ("fixed", part)), (heads, ("batch", 1))
        return ((batch, _BEGIN), (tokens, (rows, 0)), *middle, (depth, (columns, 0)))

    q, k, v = operand("query", "depth", 0), operand("key", "depth", 1), operand("key", "width", 2)
    out = (_BEGIN, _QUERY, ("batch", 1), ("width", 0))
    sizes = {"masked": (0, 0)} | more
    return ByteAttention((batch, heads), tokens, tokens, depth, depth, q, k, v, out, **sizes)


def apart(queries: int, keys: int, depth: int, width: int, **more: Any) -> ByteAttention:
    """Operands of their own, of two heads."""
    q: Dims = ((2, _BEGIN), (queries, _QUERY), (depth, ("depth", 0)))
    k: Dims = ((keys, _KEY), (2, _BEGIN), (depth, ("depth", 0)))
    v: Dims = ((2, _BEGIN), (keys, _KEY), (width, ("width", 0)))
    sizes = {"masked": (0, 0)} | more
    return ByteAttention((2,), queries, keys, depth, width, q, k, v, (_BEGIN, _QUERY, ("width", 0)), **sizes)


ATTENTIONS: dict[str, ByteAttention] = {
    "odd tokens of a batch": projected(2, 2, 37, 24, tables=(True, True)),
    "few tokens": projected(1, 3, 5, 8, tables=(False, True)),
    "rounded twice": apart(
        19, 22, 12, 20, masked=(0, 1, 0), masks=(((1, ("fixed", 0)), (22, _KEY)),), tables=(True, False), roundings=2
    ),
    "not rounded": apart(40, 70, 32, 48, masked=(2,), masks=(((40, _QUERY), (70, _KEY)), ((2, _BEGIN), (70, _KEY)))),
}


def draw(form: ByteAttention) -> dict[str, Array]:
    """Operands. Scores are exact in float32, since the scales are powers of two and masks their multiples."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for name, (shape, dtype) in form.kinds.items():
        bytes_ = rng.integers(0, 256, shape).astype(dtype)
        arrays[name] = bytes_ if dtype == "uint8" else (-bytes_ / 64).astype(np.float32)
    arrays["zeros"] = np.asarray([131, 120, 125, 117], np.int32)
    scales = []
    for step in form.steps:
        first = step.factor == 0
        scales += [2.0**-10 / math.sqrt(form.depth / 8) if first and step.rounded else 2.0**-14 if first else 0.125]
        scales[-1] = 2.0 ** round(math.log2(scales[-1]))
        scales += [0.5] * len(step.masks)
        scales += [-129.0, 126.0] if step.rounded else []
    arrays["scales"] = np.asarray([*scales, *[255.0, 1.25][: form.roundings], 0.006], np.float32)
    arrays["out"].fill(77)
    return arrays


def reference(form: ByteAttention, arrays: dict[str, Array]) -> Array:
    """The result before it is rounded, in float64."""
    letters = {("batch", i): chr(ord("A") + i) for i in range(len(form.batch))}
    letters |= {_QUERY: "q", _KEY: "k", ("depth", 0): "d", ("width", 0): "w"}
    zeros = dict(zip("qkvo", arrays["zeros"].astype(float), strict=True))
    batch, scales = "".join(letters["batch", i] for i in range(len(form.batch))), arrays["scales"].astype(np.float64)

    def read(name: str, dims: Dims) -> tuple[str, Array]:
        at = tuple(place[1] if place[0] == "fixed" else slice(None) for _, place in dims)
        found = arrays[name][at]
        found = arrays[f"{name}_table"][found] if f"{name}_table" in arrays else found
        return "".join(letters[p] for _, p in dims if p[0] != "fixed"), found.astype(np.float64) - zeros.get(name, 0)

    (q, left), (k, right), (v, values) = (read(name, getattr(form, name)) for name in "qkv")
    scores = np.einsum(f"{q},{k}->{batch}qk", left, right)
    ones = np.ones(scores.shape)
    for step in form.steps:
        scores = scores * scales[step.factor]
        for i, own in enumerate(step.masks):
            axes, mask = read(f"mask{own}", form.masks[own])
            scores = scores + scales[step.factor + 1 + i] * np.einsum(f"{batch}qk,{axes}->{batch}qk", ones, mask)
        if step.rounded:
            scores = np.rint(np.clip(scores, *(scales[place] for place in step.limits)))
    e = np.exp(scores - scores.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    for place in range(*form.ends):
        weights = np.rint(np.minimum(weights * scales[place], 255))
    out = "".join(letters[p] for p in form.out)
    result = np.einsum(f"{batch}qk,{v}->{out}", weights, values) * scales[form.ends[1]]
    return np.asarray(np.clip(result + zeros["o"], 0, 255))


def agree(module: Any, target: Target, form: ByteAttention, arrays: dict[str, Array], what: object) -> None:
    import tvm

    tensors = {name: tvm.runtime.tensor(array) for name, array in arrays.items()}
    call_kernel(module, target, *tensors.values())
    found, wanted = tensors["out"].numpy().astype(float), reference(form, arrays)
    assert np.abs(found - wanted).max() < 2.0, what
    assert (np.abs(found - wanted) < 0.6).mean() > 0.98, what
    assert len(np.unique(found)) > 40, "the operands say something"


def space_of(form: ByteAttention, target: Target) -> ByteAttentionSpace:
    space = make_space(task_of("attention", byte_attention(form)), target)
    assert isinstance(space, ByteAttentionSpace)
    return space


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
@pytest.mark.parametrize("name", ATTENTIONS)
def test_programs_compute_what_numpy_does(name: str) -> None:
    target, form = host_target(), ATTENTIONS[name]
    space, arrays = space_of(form, target), draw(form)
    for config in [space.default(), *sample(space, np.random.default_rng(1), 1)]:
        agree(space.schedule(config).mod, target, form, arrays, config)


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
@pytest.mark.parametrize("name", ["rounded twice", "few tokens"])
def test_the_expression_computes_what_numpy_does(name: str) -> None:
    form = ATTENTIONS[name]
    task = task_of("attention", byte_attention(form))
    agree(task_module(task), host_target(), form, draw(form), "the expression")


@pytest.mark.parametrize("lanes", [lanes for lanes in LANES if lanes != host_target().lanes])
def test_programs_for_other_vectors(lanes: int) -> None:
    target, form = lane_target(lanes), ATTENTIONS["rounded twice"]
    if not lack(target):
        space = space_of(form, target)
        agree(space.schedule(space.default()).mod, target, form, draw(form), lanes)


def test_a_target_without_an_instruction_runs_plain_code() -> None:
    target, form = Target.parse("llvm:x86-64"), ATTENTIONS["rounded twice"]
    space = space_of(form, target)
    program = space.schedule(space.default()).mod
    assert "call_llvm_pure_intrin" not in str(program)
    assert name_instruction(space) == PLAIN_CODE
    agree(program, target, form, draw(form), "plain")


@pytest.mark.parametrize("lanes", LANES)
def test_tiles_fit_the_registers(lanes: int) -> None:
    target = lane_target(lanes)
    for form in ATTENTIONS.values():
        space = space_of(form, target)
        assert space.valid(space.default()[None]).all()
        drawn = sample(space, np.random.default_rng(0), 100)
        c = {knob.name: knob.table.take(drawn[:, i], axis=0) for i, knob in enumerate(space.knobs)}
        registers = c["keys"][:, 0] * c["queries"][:, 0]
        assert (registers <= max(1, target.registers - 2)).all()


def test_a_description_of_no_attention_is_refused() -> None:
    for form in ATTENTIONS.values():
        assert ByteAttention.parse(form.detail) == form
        check_recorded(task_of("attention", byte_attention(form)))
    for detail in ("", "{}", "[1]", '{"queries": 4}'):
        with pytest.raises(FormError, match="has a description"):
            ByteAttention.parse(detail)
    good = ATTENTIONS["rounded twice"]
    changes: list[dict[str, Any]] = [{"queries": 0}, {"keys": 22, "k": good.q}, {"depth": 13}, {"masked": (0, 0, 0)}]
    changes += [{"tables": (True,)}, {"roundings": 0}, {"out": good.out[::-1]}, {"masks": (((9, _KEY),),)}]
    for change in changes:
        with pytest.raises(FormError, match="rule number"):
            ByteAttention.parse(dataclasses.replace(good, **change).detail)


def test_a_function_of_another_attention_is_refused() -> None:
    one = task_of("attention", byte_attention(ATTENTIONS["few tokens"]))
    lied = Task(one.key, one.name, one.kind, one.flop, one.ir.replace('tables\\": [false', 'tables\\": [true'))
    assert lied.ir != one.ir
    template = ByteAttentionTemplate()
    assert template.serves(one, host_target())
    assert not template.serves(lied, host_target())
