"""The contraction space: right programs, one form in closed form and in TIR, sensible defaults."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.targets import require
from tilewright.cost.features import features
from tilewright.errors import SpaceError
from tilewright.graph.tasks import task_of
from tilewright.ops.contraction.dot_products import Operands
from tilewright.ops.contraction.expression import Place, Product, batch_matmul
from tilewright.ops.contraction.quantised import byte_conv2d
from tilewright.ops.contraction.space import ContractionSpace
from tilewright.ops.registry import make_space
from tilewright.space.configs import neighbours, sample
from tilewright.space.loop_nest import Annotation
from tilewright.space.module import task_module
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tvm_compat import keep_nan

CASES: dict[str, tuple[Any, ...]] = {
    # inputs, block of inputs, (height, width), outputs, kernel, stride, padding, dilation, epilogue
    "3x3 on 13x13": (16, 8, (13, 13), 32, (3, 3), (1, 1), (1, 1), (1, 1), "relu"),
    "3x3 on 7x7": (16, 8, (7, 7), 48, (3, 3), (1, 1), (1, 1), (1, 1), "residual"),
    "3x3 on 55x55": (8, 8, (55, 55), 16, (3, 3), (1, 1), (1, 1), (1, 1), "none"),
    "1x1 on 13x13": (32, 8, (13, 13), 40, (1, 1), (1, 1), (0, 0), (1, 1), "relu"),
    "1x1 on 14x14": (32, 8, (14, 14), 32, (1, 1), (1, 1), (0, 0), (1, 1), "residual"),
    "1x1 plain": (16, 8, (8, 6), 32, (1, 1), (1, 1), (0, 0), (1, 1), "none"),
    "1x1 stride 2": (16, 8, (14, 14), 32, (1, 1), (2, 2), (0, 0), (1, 1), "relu"),
    "7x7 image": (3, 3, (33, 33), 16, (7, 7), (2, 2), (3, 3), (1, 1), "relu"),
    "5x5": (8, 8, (11, 11), 16, (5, 5), (1, 1), (2, 2), (1, 1), "relu"),
    "dilated": (8, 8, (14, 14), 16, (3, 3), (1, 1), (2, 2), (2, 2), "relu"),
    "asymmetric": (8, 8, (12, 17), 16, (1, 7), (1, 2), (0, 3), (1, 1), "relu"),
    "unpacked": (16, 8, (7, 7), 32, (1, 1), (1, 1), (0, 0), (1, 1), "unpack"),
    # rows, reduction, outputs, epilogue
    "dense 1": (1, 64, 80, "relu"),
    "dense 5": (5, 48, 64, "none"),
    "dense padded": (3, 32, 60, "relu"),
    # batch, rows, reduction, outputs
    "matmul": (3, 10, 16, 32),
    # products, blocks of inputs, tiles, blocks of outputs
    "products": (3, 2, 17, 4),
}
LANES = 8


def conv(ci: int, cb: int, size: Any, co: int, k: Any, s: Any, p: Any, d: Any, epilogue: str) -> list[Any]:
    from tvm import te

    (height, width), lanes = size, LANES
    oh, ow = ((size[i] + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i in (0, 1))
    x = te.placeholder((1, ci // cb, height, width, cb), name="x")
    w = te.placeholder((co // lanes, ci // cb, *k, cb, lanes), name="w")
    data = x
    if any(p):
        data = te.compute(
            (1, ci // cb, height + 2 * p[0], width + 2 * p[1], cb),
            lambda n, c, h, v, i: te.if_then_else(
                te.all(h >= p[0], h < height + p[0], v >= p[1], v < width + p[1]), x[n, c, h - p[0], v - p[1], i], 0.0
            ),
            name="pad",
        )
    rc, kh, kw, ri = (te.reduce_axis((0, e)) for e in (ci // cb, *k, cb))
    c = te.compute(
        (1, co // lanes, oh, ow, lanes),
        lambda n, o, h, v, l: te.sum(  # noqa: E741
            data[n, rc, h * s[0] + kh * d[0], v * s[1] + kw * d[1], ri] * w[o, rc, kh, kw, ri, l],
            axis=[rc, kh, kw, ri],
        ),
        name="contraction",
    )
    if epilogue == "none":
        return [x, w, c]
    if epilogue == "unpack":
        y = te.compute((1, co, oh, ow), lambda n, q, h, v: c[n, q // lanes, h, v, q % lanes], name="unpack")
        return [x, w, te.compute(y.shape, lambda *i: te.max(y[i], 0.0), name="relu")]
    b = te.placeholder((1, co // lanes, 1, 1, lanes), name="b")
    y = te.compute(c.shape, lambda n, o, h, v, l: c[n, o, h, v, l] + b[0, o, 0, 0, l], name="bias")  # noqa: E741
    arguments = [x, w, b]
    if epilogue == "residual":
        r = te.placeholder(c.shape, name="r")
        arguments.append(r)
        before = y
        y = te.compute(c.shape, lambda *i: before[i] + r[i], name="add")
    return [*arguments, te.compute(c.shape, lambda *i: te.max(y[i], 0.0), name="relu")]


def dense(m: int, k: int, n: int, epilogue: str) -> list[Any]:
    from tvm import te

    a, w = te.placeholder((m, k), name="a"), te.placeholder((-(-n // LANES), k, LANES), name="w")
    r = te.reduce_axis((0, k))
    c = te.compute(
        (m, w.shape[0], LANES),
        lambda i, o, l: te.sum(a[i, r] * w[o, r, l], axis=r),  # noqa: E741
        name="contraction",
    )
    y = te.compute((m, n), lambda i, j: c[i, j // LANES, j % LANES], name="unpack")
    if epilogue == "none":
        return [a, w, y]
    b = te.placeholder((n,), name="b")
    z = te.compute((m, n), lambda i, j: y[i, j] + b[j], name="bias")
    return [a, w, b, te.compute((m, n), lambda i, j: te.max(z[i, j], 0.0), name="relu")]


def matmul(batch: int, m: int, k: int, n: int) -> list[Any]:
    from tvm import te

    a, w = te.placeholder((batch, m, k), name="a"), te.placeholder((batch, k, n), name="w")
    r = te.reduce_axis((0, k))
    c = te.compute(
        (batch, m, n // LANES, LANES),
        lambda b, i, o, l: te.sum(a[b, i, r] * w[b, r, o * LANES + l], axis=r),  # noqa: E741
        name="contraction",
    )
    return [a, w, te.compute((batch, m, n), lambda b, i, j: c[b, i, j // LANES, j % LANES], name="unpack")]


def products(count: int, blocks: int, tiles: int, outs: int) -> list[Any]:
    from tvm import te

    a = te.placeholder((count, blocks, tiles, LANES), name="a")
    w = te.placeholder((count, outs, blocks, LANES, LANES), name="w")
    rc, ri = te.reduce_axis((0, blocks)), te.reduce_axis((0, LANES))
    c = te.compute(
        (count, outs, tiles, LANES),
        lambda b, o, p, l: te.sum(a[b, rc, p, ri] * w[b, o, rc, ri, l], axis=[rc, ri]),  # noqa: E741
        name="contraction",
    )
    return [a, w, c]


def make_task(tensors: list[Any], roles: str | None) -> Task:
    import tvm
    from tvm import te

    function = te.create_prim_func(tensors).with_attr("tilewright.shape", json.dumps({}))
    if roles is not None:
        function = function.with_attr("tilewright.contraction", roles)
    return Task("key", "contraction", "contraction", 1e6, tvm.ir.save_json(tvm.IRModule({"main": function})))


@cache
def target() -> Target:
    return Target.parse("llvm:core-avx2")


@cache
def task(name: str) -> Task:
    case = CASES[name]
    if len(case) == 9:
        return make_task(conv(*case), "boppl/rrrr")
    if name == "products":
        return make_task(products(*case), "bopl/rr")
    return make_task(matmul(*case), "bpol/r") if name == "matmul" else make_task(dense(*case), "pol/r")


@cache
def space(name: str) -> ContractionSpace:
    return ContractionSpace(task(name), target())


def some(name: str, count: int) -> np.ndarray[Any, Any]:
    chosen = sample(space(name), np.random.default_rng(len(name)), count)
    return np.concatenate([space(name).default()[None], chosen])


@cache
def arguments(name: str) -> list[Any]:
    rng = np.random.default_rng(1)
    function = task_module(task(name))["main"]
    shapes = [tuple(int(e) for e in p.ty.shape) for p in function.params]
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def reference(name: str) -> np.ndarray[Any, Any]:
    case, given = CASES[name], [a.astype("float64") for a in arguments(name)[:-1]]
    if name == "matmul":
        return np.asarray(given[0] @ given[1])
    if name == "products":
        return np.asarray(np.einsum("bcpi,bocil->bopl", *given))
    if len(case) == 4:
        m, _, n, epilogue = case
        y = np.einsum("mk,okl->mol", given[0], given[1]).reshape(m, -1)[:, :n]
        return np.asarray(y if epilogue == "none" else np.maximum(y + given[2], 0))
    _, _, _, _, k, s, p, d, epilogue = case
    x, w = given[:2]
    x = np.pad(x, ((0, 0), (0, 0), (p[0], p[0]), (p[1], p[1]), (0, 0)))
    shape = arguments(name)[-1].shape
    oh, ow = shape[2:4]
    y = np.zeros((1, w.shape[0], oh, ow, LANES))
    for i in range(k[0]):
        for j in range(k[1]):
            h, v = i * d[0], j * d[1]
            part = x[:, :, h : h + s[0] * (oh - 1) + 1 : s[0], v : v + s[1] * (ow - 1) + 1 : s[1]]
            y += np.einsum("nchwi,ocil->nohwl", part, w[:, :, i, j])
    if epilogue == "unpack":
        return np.maximum(np.moveaxis(y, 4, 2).reshape(shape), 0)
    for extra in given[2:]:
        y = y + extra
    return np.asarray(y if epilogue == "none" else np.maximum(y, 0))


@pytest.mark.parametrize("name", CASES)
def test_programs_are_right(name: str) -> None:
    import tvm

    require(target())
    want = reference(name)
    for config in some(name, 3):
        module = space(name).schedule(config).mod
        assert module["main"].attrs["tirx.noalias"]
        tensors = [tvm.runtime.tensor(a) for a in arguments(name)]
        call_kernel(module, target(), *tensors)
        np.testing.assert_allclose(tensors[-1].numpy(), want, rtol=1e-4, atol=1e-4, err_msg=str(config))


@pytest.mark.parametrize("name", CASES)
def test_loop_nest_is_that_of_the_program(name: str) -> None:
    configs = some(name, 8)
    nest = space(name).loop_nest(configs)
    for row, config in enumerate(configs):
        schedule = space(name).schedule(config)
        found = [
            (int(node.extent), int(node.kind))
            for node in (schedule.get(x) for x in schedule.get_loops(schedule.get_sblock("contraction_update")))
            if int(node.extent) > 1
        ]
        claimed: list[tuple[int, int]] = []
        for extent, kind in zip(nest.extents[row], nest.annotations[row], strict=True):
            if extent == 1:
                continue
            if kind == Annotation.PARALLEL and claimed and claimed[-1][1] == kind:
                claimed[-1] = (claimed[-1][0] * int(extent), int(kind))
            else:
                claimed.append((int(extent), int(kind)))
        assert claimed == found, config


def test_whole_nest_touches_whole_buffers_with_their_strides() -> None:
    nest = space("1x1 on 14x14").loop_nest(some("1x1 on 14x14", 50))
    assert nest.buffers == ("A", "W", "C")
    np.testing.assert_allclose(nest.touched[:, :, 0], np.tile([32 * 196 * 4, 32 * 32 * 4, 32 * 196 * 4], (51, 1)))
    assert (nest.strides[:, 1, -1] == 1).all()  # weights are contiguous along the lanes
    assert (nest.strides[:, 0, -1] == 0).all()  # the data are the same for all
    assert np.isfinite(features(nest)).all()


def test_pixels_of_a_plain_1x1_kernel_are_one_axis() -> None:
    for name, pixels in (("1x1 on 13x13", 169), ("1x1 plain", 48), ("unpacked", 49)):
        assert next(k for k in space(name).knobs if k.name == "tile_w").extent == pixels  # type: ignore[attr-defined]
    assert space("1x1 stride 2").knobs[2].extent == 7  # type: ignore[attr-defined]


def test_touched_of_a_strided_kernel_is_counted_by_hand() -> None:
    here = space("7x7 image")
    nest = here.loop_nest(here.default()[None])
    row = nest.axes.index("h"), nest.axes.index("w")
    cols = nest.extents[0, 12]
    assert (nest.axis[0, 11], nest.axis[0, 12]) == row
    assert nest.touched[0, 0, 12] == 4 * cols  # stride 2: one element a pixel, with gaps


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("lanes", "registers"), [(16, 32), (4, 16), (4, 32)])
def test_other_targets_schedule(name: str, lanes: int, registers: int) -> None:
    other = ContractionSpace(task(name), dataclasses.replace(target(), lanes=lanes, registers=registers))
    for config in [other.default(), *sample(other, np.random.default_rng(0), 2)]:
        assert other.valid(config[None])[0]
        other.schedule(config)


@pytest.mark.parametrize("name", CASES)
def test_default_is_valid_and_programs_differ(name: str) -> None:
    here = space(name)
    assert here.valid(here.default()[None])[0]
    near = neighbours(here, here.default())
    near = near[here.valid(near)][:24]
    scripts = [here.schedule(c).mod.script() for c in [here.default(), *near]]
    assert len(set(scripts)) == len(scripts)


def test_a_tile_that_sticks_out_has_code_of_its_own() -> None:
    import tvm
    from tvm import te

    # 64-bit indices, as Relax makes them.
    function = te.create_prim_func(products(3, 2, 17, 4), index_dtype_override="int64")
    function = function.with_attr("tilewright.contraction", "bopl/rr")
    here = ContractionSpace(
        Task("key", "products", "contraction", 1e6, tvm.ir.save_json(tvm.IRModule({"main": function}))), target()
    )
    config = here.default()
    config[2] = next(i for i, (_, _, cols) in enumerate(here.knobs[2].choices) if cols == 6)
    programs: list[str] = []

    @tvm.ir.instrument.pass_instrument
    class Look:
        def run_after_pass(self, module: Any, info: Any) -> None:
            if info.name.endswith("LoopPartition"):
                programs.append(module.script())

    with tvm.transform.PassContext(opt_level=3, instruments=[Look()]):
        tvm.compile(here.schedule(config).mod, target=target().tvm)
    (program,) = programs
    assert program.count("alloc_local") == 2


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_the_last_blocks_of_a_product_overlap(lanes: int) -> None:
    import tvm

    require(target())
    m, k, n = 13, 9, 3 * lanes + 1
    batch: Place = ("batch", 0)
    left, right = ((2, batch), (m, ("m", 0)), (k, ("k", 0))), ((2, batch), (n, ("n", 0)), (k, ("k", 0)))
    product = Product((2,), m, k, n, left, right, (batch, ("m", 0), ("n", 0)))
    function = batch_matmul(product, lanes).with_attr("tilewright.contraction", "bpol/r")
    text = tvm.ir.save_json(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
    here = ContractionSpace(
        Task("key", "product", "contraction", 1e6, text), dataclasses.replace(target(), lanes=lanes)
    )
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype("float32") for shape in ((2, m, k), (2, n, k)))
    for config in [here.default(), *sample(here, rng, 3)]:
        out = tvm.runtime.tensor(np.full((2, m, n), np.nan, dtype="float32"))
        call_kernel(here.schedule(config).mod, target(), tvm.runtime.tensor(a), tvm.runtime.tensor(b), out)
        np.testing.assert_allclose(out.numpy(), np.einsum("bmk,bnk->bmn", a, b), atol=1e-5)


def test_rows_of_a_large_product_are_cut_into_chunks_that_the_cache_holds() -> None:
    rows, depth = 2048, 256
    large = ContractionSpace(
        make_task(dense(rows, depth, 1024, "relu"), "pol/r"),
        dataclasses.replace(target(), cores=2, l1=32 << 10, l2=1 << 20),
    )
    tile = large.knobs[2].choices[large.default()[2]]
    assert tile[0] > 1  # rows run in parallel
    assert 4 * depth * rows // tile[0] <= large.target.l2 // 2


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_lines_are_fetched_ahead_without_storing_sums(lanes: int) -> None:
    import tvm

    rows, depth, blocks = 51, 64, 6
    tensors = dense(rows, depth, blocks * LANES, "relu")
    here = ContractionSpace(make_task(tensors, "pol/r"), dataclasses.replace(target(), lanes=lanes))
    assert here.template == "contraction/5"
    config = here.default()
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal([int(n) for n in t.shape]).astype("float32") for t in tensors]
    texts, outputs = [], []
    for ahead in (0, 1):
        config[-1] = ahead
        assert here.valid(config[None])[0]
        module = here.schedule(config).mod
        texts.append(keep_nan(module).script())
        given = [tvm.runtime.tensor(a) for a in (*arrays[:-1], np.full_like(arrays[-1], np.nan))]
        call_kernel(module, target(), *given)
        outputs.append(given[-1].numpy())
    assert "prefetch" not in texts[0]
    assert "prefetch" in texts[1]
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_a_1x1_kernel_with_few_outputs_runs_on_all_cores() -> None:
    """Its tiles divide the pixels: a tile that sticks out lets the loop over pixels run on one core alone."""
    few = ContractionSpace(
        make_task(conv(480, 8, (14, 14), 56, (1, 1), (1, 1), (0, 0), (1, 1), "relu"), "boppl/rrrr"), target()
    )
    nest = few.loop_nest(few.default()[None])
    assert nest.extra[0, nest.extra_names.index("log2_parallel")] >= 2
    assert nest.extra[0, nest.extra_names.index("balance")] > 0.9


def test_likely_configs_start_with_the_default() -> None:
    for name in ("products", "1x1 on 13x13", "dense 1"):
        configs = space(name).likely(4)
        assert 1 <= len(configs) <= 4
        assert len(np.unique(configs, axis=0)) == len(configs)
        assert space(name).valid(configs).all()
        np.testing.assert_array_equal(configs[0], space(name).default())


def test_registers_bound_the_tile() -> None:
    here = space("3x3 on 13x13")
    nest = here.loop_nest(sample(here, np.random.default_rng(0), 500))
    assert nest.extra[:, nest.extra_names.index("accumulators")].max() <= target().registers - 2
    assert nest.extra[:, nest.extra_names.index("register_pressure")].max() <= 1


@pytest.mark.parametrize(
    ("text", "together", "depth", "least", "most"),
    [
        ("llvm:haswell", 2, 8, 7, 8),  # LLVM writes out a block of 8 inputs
        ("llvm:haswell", 4, 8, 7, 8),
        ("llvm:haswell", 2, 256, 9, 12),
        ("llvm:alderlake", 4, 8, 9, 12),  # vpdpbusd adds by itself
    ],
)
def test_sums_of_bytes_are_not_spilled(text: str, together: int, depth: int, least: int, most: int) -> None:
    blocks, groups = 256 // depth, depth // together
    weight = (128, blocks, 1, 1, groups, 8, together)
    operands: Operands = "fitting" if together == 4 and text == "llvm:haswell" else "any"
    function = byte_conv2d((1, blocks, 14, 14, depth), weight, (1, 1), (0,) * 4, (1, 1), 0, operands)
    here = make_space(task_of("conv", function, (1,)), Target.parse(f"{text}:x86_64-linux-gnu"))
    nest = here.loop_nest(here.default()[None])
    assert least <= nest.extra[0, nest.extra_names.index("accumulators")] <= most


def test_what_is_no_contraction_is_refused() -> None:
    from tvm import te

    x = te.placeholder((4, 4), name="x")
    plain = make_task([x, te.compute((4, 4), lambda i, j: x[i, j] + 1.0, name="y")], None)
    with pytest.raises(SpaceError, match="contraction"):
        ContractionSpace(plain, target())
    assert make_space(plain, target()).template.startswith("auto")
    for roles in ("bop/r", "xyz", "boppl/rr", "pol/rrrr"):
        with pytest.raises(SpaceError):
            ContractionSpace(make_task(dense(2, 8, 16, "none"), roles), target())
    with pytest.raises(SpaceError, match="has indices 0 to"):
        space("dense 1").schedule(np.full(len(space("dense 1").knobs), 10_000, dtype=np.int32))
