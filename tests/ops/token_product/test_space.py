"""The space of products of tokens: every program gives the product of float64, and the sums of columns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.targets import LANES, lane_target, require
from tilewright.errors import FormError
from tilewright.graph.tasks import task_of
from tilewright.ops.registry import make_space
from tilewright.ops.token_product import TokenProduct, TokenProductSpace, token_product
from tilewright.space.configs import choices_of, sample
from tilewright.space.recorded import check_recorded
from tilewright.target import Target

Array = NDArray[Any]


def make(form: TokenProduct, target: Target) -> TokenProductSpace:
    """The space of a product."""
    task = task_of("product", token_product(form))
    check_recorded(task)
    space = make_space(task, target)
    assert isinstance(space, TokenProductSpace)
    return space


def check(form: TokenProduct, target: Target, configs: list[NDArray[np.int32]], space: TokenProductSpace) -> None:
    """Compare the results of configs with those in float64."""
    import tvm

    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((form.tokens, n)).astype(np.float32) for n in (form.left, form.right))
    wanted = [left.T.astype(np.float64) @ right, left.sum(0, dtype=np.float64)]
    for config in configs:
        results = [tvm.runtime.tensor(np.full(s, np.nan, dtype=np.float32)) for s in form.results.values()]
        arguments = [tvm.runtime.tensor(a) for a in (left, right)]
        call_kernel(space.schedule(config).mod, target, *arguments, *results)
        for result, exact in zip(results, wanted, strict=False):
            np.testing.assert_allclose(result.numpy(), exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("tokens", [36, 35])  # 35 tokens are not written out by fours
@pytest.mark.parametrize("lanes", LANES)
def test_products(lanes: int, tokens: int) -> None:
    target = lane_target(lanes)
    require(target)
    form = TokenProduct(tokens, 40, 32, sums=tokens == 36)
    space = make(form, target)
    configs = [space.default(), *sample(space, np.random.default_rng(lanes), 3)]
    assert space.valid(np.stack(configs)).all()
    check(form, target, configs, space)


@pytest.mark.parametrize("parts", [(2, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_every_way_of_cutting_a_product_is_right(parts: tuple[int, int, int]) -> None:
    target = dataclasses.replace(lane_target(8), cores=2)
    form = TokenProduct(2 * 67, 96, 48, sums=True)  # chunks of 64 and 70 tokens
    space = make(form, target)
    names = [knob.name for knob in space.knobs]
    config = space.default()
    for name, choice in (("parts", parts), ("chunk", (64,)), ("packed", (sum(parts[:2]) % 2,)), ("ahead", (1,))):
        place = names.index(name)
        config[place] = space.knobs[place].choices.index(choice)
    assert space.valid(config[None])[0]
    check(form, target, [config], space)


@pytest.mark.parametrize(("left", "right"), [(64, 256), (256, 64)])
def test_cores_share_the_longer_side(left: int, right: int) -> None:
    target = dataclasses.replace(lane_target(8), cores=2, l1=32 << 10)
    space = make(TokenProduct(2048, left, right), target)
    chosen = dict(zip([knob.name for knob in space.knobs], choices_of(space, space.default()), strict=True))
    assert chosen["parts"] == ((1, 1, 2) if right > left else (1, 2, 1))
    assert chosen["chunk"][0] * chosen["tile"][1] * 32 <= 32 << 10  # a chunk of a panel stays in the first cache


def test_programs_differ() -> None:
    space = make(TokenProduct(256, 48, 64), dataclasses.replace(lane_target(8), cores=2))
    configs = sample(space, np.random.default_rng(0), 8)
    assert len({space.schedule(config).mod.script() for config in configs}) == len(configs)


@pytest.mark.parametrize("detail", ["", "{}", '{"left": 0, "right": 1, "sums": false, "tokens": 1}'])
def test_what_describes_no_product_is_refused(detail: str) -> None:
    with pytest.raises(FormError, match="product of tokens"):
        TokenProduct.parse(detail)
    form = TokenProduct(4, 8, 16, sums=True)
    assert TokenProduct.parse(form.detail) == form
