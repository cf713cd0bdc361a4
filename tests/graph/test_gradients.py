"""Gradients of convolutions and batch norms, through every step, against float64."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.models import TARGET, build_lean, defaults, design_space
from tests.targets import require
from tilewright.frontend.load import load_part
from tilewright.graph.convolution import Algorithm
from tilewright.graph.tasks import Extraction, extract
from tilewright.space.configs import sample

torch = pytest.importorskip("torch")

_DRAWN = settings(
    max_examples=6, phases=(Phase.generate,), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
#: The spaces of which more than the default is tried.
_DRAWN_SPACES = ("pixel_sums", "computed_sums")


def all_agree(
    function: Callable[..., Any], inputs: Sequence[Any], draws: int = 0, algorithm: Algorithm = "direct"
) -> Extraction:
    """Built with default schedules, and with random ones, the function gives what float64 gives."""
    from torch.fx.experimental.proxy_tensor import make_fx

    from tilewright.frontend.torch.part import Layout

    require(TARGET)
    module = make_fx(function)(*inputs)
    wanted = [result.numpy() for result in function(*(value.double() for value in inputs))]
    outputs = [Layout.of(result) for result in module(*inputs)]
    extraction = extract(load_part("part", module, [Layout.of(value) for value in inputs], outputs), TARGET)
    if algorithm != "direct":
        extraction = extraction.with_algorithms({conv: algorithm for conv, _ in extraction.convolutions})
    spaces = {use.task.key: design_space(use.task, TARGET) for use in extraction.uses}
    first, rng = defaults(extraction), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for choice in range(1 + draws):
            drawn = {key: s for key, s in spaces.items() if choice and s.template.startswith(_DRAWN_SPACES)}
            configs = {key: sample(s, rng, 1)[0] for key, s in drawn.items()}
            functions = first | {key: s.schedule(configs[key]).mod["main"] for key, s in drawn.items()}
            executable = build_lean(extraction, functions, Path(folder, f"out{choice}"))
            found = executable(*(value.numpy() for value in inputs))
            for have, want in zip(found, wanted, strict=True):
                assert np.abs(have - want).max() <= 1e-4 * np.abs(want).max() + 1e-6, configs
    return extraction


def backward(
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool = False,
    bias: int = 0,
) -> Callable[..., Any]:
    """All gradients of a convolution, of its output's gradient, its data, and its weights."""

    def gradients(dy: Any, x: Any, w: Any) -> Any:
        found = torch.ops.aten.convolution_backward(
            dy,
            x,
            w,
            [bias] if bias else None,
            list(stride),
            list(padding),
            list(dilation),
            transposed,
            [0, 0],
            groups,
            [True, True, bias > 0],
        )
        return tuple(g for g in found if g is not None)

    return gradients


def test_the_weights_of_a_phase_are_cut_and_moved_in_one_function() -> None:
    torch.manual_seed(0)
    dy, x, w = torch.randn(1, 64, 4, 4), torch.randn(1, 32, 8, 8), torch.randn(64, 32, 3, 3)
    extraction = all_agree(backward((2, 2), (1, 1), (1, 1), 1), [dy, x, w])
    names = [use.task.name.split()[0] for use in extraction.uses]
    cut = [name for name in names if "strided_slice" in name]
    assert len(cut) == 4  # of four phases
    assert all("transpose" in name for name in cut)
    assert not [name for name in names if "flip" in name and name not in cut]


def test_a_phase_that_reads_no_row_is_zero() -> None:
    torch.manual_seed(0)
    dy, x, w = torch.randn(3, 15, 1, 3), torch.randn(3, 3, 3, 5), torch.randn(15, 1, 3, 2)
    all_agree(backward((3, 1), (1, 0), (1, 2), 3), [dy, x, w])


@_DRAWN
@given(data=st.data())
def test_gradients_of_convolutions_of_all_forms(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=2, max_size=2))

    kind = data.draw(st.sampled_from(["one group", "groups", "depthwise", "transposed"]))
    groups = data.draw(st.sampled_from([2, 3])) if kind == "groups" else 1
    channels = groups * data.draw(st.sampled_from([1, 3, 8, 20, 32]))
    out = groups * data.draw(st.sampled_from([1, 5, 16, 24]))
    if kind == "depthwise":
        groups = channels = out = data.draw(st.sampled_from([3, 10, 16, 17, 48]))
    batch = data.draw(st.sampled_from([1, 3]))
    kernel, stride, dilation = pair(1, 4), pair(1, 3), pair(1, 2)
    padding = [data.draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilation, strict=True)]
    size = pair(3, 12)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    result = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, spans, stride, strict=True)]
    assume(min(result) > 0)
    torch.manual_seed(0)
    x = torch.randn(batch, channels, *size)
    w = torch.randn(out, channels // groups, *kernel)
    dy = torch.randn(batch, out, *result)
    if kind == "transposed":
        # The transposed convolution of dy: its result has the size that fits the stride.
        fit = [(r - 1) * s + k - 2 * p for r, s, k, p in zip(result, stride, spans, padding, strict=True)]
        assume(min(fit) > 0)
        x = torch.randn(batch, channels, *fit)
        all_agree(backward(stride, padding, dilation, groups, transposed=True, bias=channels), [x, dy, w])
    else:
        all_agree(backward(stride, padding, dilation, groups, bias=out), [dy, x, w])


def test_gradient_of_weights_by_winograds_algorithm() -> None:
    torch.manual_seed(0)
    x, w, dy = torch.randn(4, 64, 16, 15), torch.randn(64, 64, 3, 3), torch.randn(4, 64, 16, 15)
    extraction = all_agree(backward((1, 1), (1, 1), (1, 1), 1), [dy, x, w])
    kinds = [use.task.kind for use in extraction.uses]
    assert (kinds.count("winograd"), kinds.count("pixel_sums")) == (3, 1)


def test_gradients_of_a_layer_of_a_network_have_templates() -> None:
    torch.manual_seed(0)
    x, w, dy = torch.randn(4, 16, 14, 14), torch.randn(32, 16, 3, 3), torch.randn(4, 32, 7, 7)
    extraction = all_agree(backward((2, 2), (1, 1), (1, 1), 1), [dy, x, w])
    kinds = {use.task.kind for use in extraction.uses}
    assert {"pixel_sums", "contraction"} <= kinds
    assert not extraction.fallbacks


@pytest.mark.parametrize("plain", [False, True])
def test_gradient_of_a_relu_keeps_the_layout(plain: bool) -> None:
    def gradients(dy: Any, x: Any, w: Any) -> Any:
        if not plain:
            dy = backward((1, 1), (1, 1), (1, 1), 1)(dy, x, w)[0]
        return (torch.ops.aten.threshold_backward(dy, x, 0),)

    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 9)
    extraction = all_agree(gradients, [torch.randn(2, 16, 9, 9), x, torch.randn(16, 16, 3, 3)])
    if not plain:  # it is fused into the convolution
        (convolution,) = [use for use in extraction.uses if use.task.kind == "contraction"]
        assert "threshold_gradient" in convolution.task.name


#: The gradients of activations: of the result's gradient and the data.
_ACTIVATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "hardswish": torch.ops.aten.hardswish_backward,
    "hardsigmoid": torch.ops.aten.hardsigmoid_backward,
    "hardtanh": lambda dy, x: torch.ops.aten.hardtanh_backward(dy, x, -0.5, 1.0),
    "leaky_relu": lambda dy, x: torch.ops.aten.leaky_relu_backward(dy, x, 0.1, False),
    "elu": lambda dy, x: torch.ops.aten.elu_backward(dy, 1.5, 1.2, 0.9, False, x),
    "elu of a result": lambda dy, x: torch.ops.aten.elu_backward(dy, 1.5, 1.2, 1.0, True, x),
    "silu": torch.ops.aten.silu_backward,
    "gelu": torch.ops.aten.gelu_backward,
}


@pytest.mark.parametrize("activation", list(_ACTIVATIONS))
def test_gradients_of_activations_keep_the_layout(activation: str) -> None:
    def gradients(dy: Any, x: Any, w: Any) -> Any:
        return (_ACTIVATIONS[activation](backward((1, 1), (0, 0), (1, 1), 1)(dy, x, w)[0], 4 * x),)

    torch.manual_seed(0)
    extraction = all_agree(gradients, [torch.randn(2, 16, 5, 5), torch.randn(2, 16, 5, 5), torch.randn(16, 16, 1, 1)])
    (convolution,) = [use for use in extraction.uses if use.task.kind == "contraction"]
    assert f"{activation.split()[0]}_gradient" in convolution.task.name


@pytest.mark.parametrize("saved", [False, True])
def test_gelu_of_tokens(saved: bool) -> None:
    def activate(x: Any, w: Any, dy: Any) -> Any:
        y = (x @ w).view(2, 19, 48)
        slope = torch.ops.aten.gelu_backward(dy, y)
        return (torch.nn.functional.gelu(y), slope) if saved else (torch.nn.functional.gelu(y),)

    torch.manual_seed(0)
    extraction = all_agree(activate, [torch.randn(38, 32), torch.randn(32, 48), torch.randn(2, 19, 48)])
    (product,) = [use for use in extraction.uses if use.task.kind == "contraction"]
    assert ("gelu_in_training" in product.task.name) == (not saved)  # a product computes it if nothing else reads


def test_gradient_of_a_gate_for_each_channel_stays_in_blocks() -> None:
    """Squeeze and excite: the gate's gradient is a sum over pixels, and that of the mean is the same for all."""

    def gradients(dy: Any, x: Any, w: Any, gate: Any, dmean: Any) -> Any:
        dx = backward((1, 1), (0, 0), (1, 1), 1)(dy, x, w)[0]
        dgate = (dx * x).sum((2, 3), keepdim=True)
        dmean = torch.ops.aten.convolution(dmean, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        dx = dx * gate + dmean.expand(2, 16, 6, 6) / 36
        last = torch.ops.aten.hardswish_backward(dmean.expand(2, 16, 6, 6) / 36, x)
        return dgate, *(
            torch.ops.aten.convolution(images, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
            for images in (torch.ops.aten.hardswish_backward(dx, x), last)
        )

    torch.manual_seed(0)
    image, numbers = torch.randn(2, 16, 6, 6), torch.randn(2, 16, 1, 1)
    extraction = all_agree(gradients, [image, 4 * image, torch.randn(16, 16, 1, 1), numbers, numbers + 1])
    assert extraction.plan is not None
    kernels = [str(call.kernel) for call in extraction.plan.calls]
    # Two images arrive in plain layout, and two leave. The weights are rearranged, too: once for all convolutions, and
    # for that of the gradients once more if their channels are several blocks.
    assert sum(name.startswith("transpose") for name in kernels) == 5 + (TARGET.lanes < 16), kernels
    assert not any("broadcast" in name for name in kernels)
    # A convolution of one pixel is not computed again for each pixel of the image.
    assert not any("conv" in name and "hardswish" in name for name in kernels), kernels


@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize("activation", ["hardswish", "silu"])
def test_cheap_gradient_before_a_batch_norm_is_not_written(channels: int, activation: str) -> None:
    def gradients(dy: Any, x: Any, w: Any, gate: Any, weight: Any, mean: Any, deviation: Any) -> Any:
        dy = backward((1, 1), (0, 0), (1, 1), 1)(dy, x, w)[0]
        dx = _ACTIVATIONS[activation](dy * gate, torch.ops.aten.relu(x))
        return (dy * x).sum((2, 3), keepdim=True), *torch.ops.aten.native_batch_norm_backward(
            dx, x, weight, mean, deviation, mean, deviation, True, 1e-5, [True, True, True]
        )

    torch.manual_seed(0)
    images = [torch.randn(3, channels, 7, 9) for _ in range(2)]
    others = [torch.randn(channels, channels, 1, 1), torch.randn(3, channels, 1, 1)]
    vectors = [torch.rand(channels) + 0.5 for _ in range(3)]
    extraction = all_agree(gradients, [*images, *others, *vectors], draws=2)
    names = [use.task.name for use in extraction.uses if use.task.kind == "pixel_sums"]
    sums = [name for name in names if "weight" not in name]
    # Five channels are a block only where they fill most of a vector. Plain images are written.
    plain = channels == 5 and TARGET.lanes != 8
    assert [name.startswith("channel_statistics") for name in sums] == [activation == "silu" or plain], names


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (0, 2, 1)])
def test_gradient_of_a_bias_is_a_sum_over_tokens(order: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    extraction = all_agree(lambda dy, x: (dy.permute(order).sum((0, 1)), dy * x), [torch.randn(4, 16, 48)] * 2, 2)
    # Rows in another order are summed as they lie. If parts of rows are summed, the tensor is brought into its order.
    names = [use.task.name.split()[0] for use in extraction.uses]
    columns = 48 if order[2] == 2 else 16
    assert ("token_sum" in names) == (columns % TARGET.lanes == 0), names
    assert ("transpose" in names) == (order[2] == 1), names


@pytest.mark.parametrize("apart", [False, True])
def test_attention_in_training_is_one_function(apart: bool) -> None:
    def attend(qkv: Any, weight: Any) -> Any:
        q, k, v = qkv.reshape(2, 19, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        if apart:
            k = k * 0.5
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        result, sums = attention(q, k, v, 0.0, apart)
        return result.transpose(1, 2).reshape(38, 32) @ weight, sums.contiguous()

    torch.manual_seed(0)
    extraction = all_agree(attend, [torch.randn(2, 19, 96), torch.randn(32, 16)])
    names = [use.task.name.split()[0] for use in extraction.uses]
    assert {"attention", "dense"} <= set(names), names
    assert not any("matmul" in name or "log_sum_exp" in name for name in names), names


@pytest.mark.parametrize("causal", [False, True])
def test_the_gradient_of_attention_is_one_function(causal: bool) -> None:
    def attend(qkv: Any, dy: Any, weight: Any) -> Any:
        q, k, v = qkv.reshape(2, 19, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        result, sums = attention(q, k, v, 0.0, causal)
        dy = torch.relu(dy).reshape(2, 19, 2, 16).transpose(1, 2)
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        gradients = backward(dy, q, k, v, result, sums, 0.0, causal)
        return (torch.stack(gradients).permute(1, 3, 0, 2, 4).reshape(38, 96) @ weight,)

    torch.manual_seed(0)
    extraction = all_agree(attend, [torch.randn(2, 19, 96), torch.randn(38, 32), torch.randn(96, TARGET.lanes)])
    names = [use.task.name.split()[0] for use in extraction.uses]
    assert {"attention", "attention_gradient", "dense"} <= set(names), names
    assert not any(word in name for name in names for word in ("matmul", "transpose", "concatenate")), names


def test_rows_in_the_same_order_are_summed_as_they_lie() -> None:
    def gradient(dy: Any, x: Any) -> Any:
        swapped = [torch.relu(rows).transpose(0, 1).reshape(76, -1) for rows in (dy, x)]
        return (swapped[0].t() @ swapped[1],)

    torch.manual_seed(0)
    extraction = all_agree(gradient, [torch.randn(4, 19, 32), torch.randn(4, 19, 48)])
    names = [use.task.name.split()[0] for use in extraction.uses]
    assert "token_product" in names, names
    assert not any("transpose" in name for name in names), names


def test_gradients_of_a_projection_are_written_in_its_order() -> None:
    def join(gradient: Any, *heads: Any) -> Any:
        parts = [torch.relu(part).transpose(1, 2) for part in heads]
        return (torch.stack(parts).permute(1, 3, 0, 2, 4).reshape(38, 96) @ gradient,)

    torch.manual_seed(0)
    extraction = all_agree(join, [torch.randn(96, TARGET.lanes), *(torch.randn(2, 19, 2, 16) for _ in range(3))])
    names = [use.task.name.split()[0] for use in extraction.uses]
    assert not any("transpose" in name for name in names), names


@pytest.mark.parametrize("channels", [16, 24, 5])
def test_batch_norm_in_training(channels: int) -> None:
    def both(x: Any, dy: Any, weight: Any, bias: Any, mean: Any, variance: Any) -> Any:
        y, m, r, new_mean, new_variance = torch.ops.aten._native_batch_norm_legit_functional(
            x, weight, bias, mean, variance, True, 0.1, 1e-5
        )
        dx, dw, db = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, variance, m, r, True, 1e-5, [True, True, True]
        )
        return y, m, r, new_mean, new_variance, dx, dw, db

    torch.manual_seed(0)
    x = torch.randn(3, channels, 7, 9) + 50  # the mean is far from zero
    vectors = [torch.rand(channels) + 0.5 for _ in range(4)]
    extraction = all_agree(both, [x, torch.randn(3, channels, 7, 9), *vectors])
    assert sum(use.task.kind == "pixel_sums" for use in extraction.uses) == 2


@pytest.mark.parametrize("algorithm", ["winograd2", "fused_winograd4"])
def test_weights_that_vary_are_transformed_for_winograd(algorithm: Algorithm) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 32, 9, 9), torch.randn(2, 16, 9, 9), torch.randn(32, 16, 3, 3)]
    extraction = all_agree(backward((1, 1), (1, 1), (1, 1), 1), inputs, algorithm=algorithm)
    assert len(extraction.convolutions) == 1
    assert any(use.task.kind == "winograd" for use in extraction.uses)


def test_a_bias_is_summed_by_the_product_of_its_weights() -> None:
    def gradients(dy: Any, x: Any) -> Any:
        dy = torch.relu(dy)
        rows = dy.reshape(76, 32)
        return rows.t() @ x, dy.sum((0, 1))

    torch.manual_seed(0)
    extraction = all_agree(gradients, [torch.randn(4, 19, 32), torch.randn(76, 48)])
    names = [use.task.name.split()[0] for use in extraction.uses]
    assert "token_product" in names, names
    assert "token_sum" not in names, names


@pytest.mark.parametrize("rows", [64, 38])  # vectors do not divide 38 rows
def test_a_layer_norm_in_training_reads_its_rows_once(rows: int) -> None:
    def norm(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
        columns, aten = [64], torch.ops.aten
        y, mean, inverse = aten.native_layer_norm(x, columns, weight, bias, 1e-5)
        both = aten.native_layer_norm_backward(dy, x, columns, mean, inverse, weight, bias, [True, True, True])
        return y, mean, inverse, both[0] + dy, *both[1:]

    torch.manual_seed(0)
    tensors = [torch.randn(2, rows // 2, 64) + 5, torch.rand(64), torch.rand(64), torch.randn(2, rows // 2, 64)]
    extraction = all_agree(norm, tensors)
    names = [use.task.name.split()[0] for use in extraction.uses]
    joined = rows % TARGET.lanes == 0
    assert (names.count("training_norm"), names.count("norm_gradient")) == (joined, joined), names
    assert any("add" in name for name in names) != joined, names


@pytest.mark.parametrize("tokens", [64, 37])  # a register tile of 37 rows sticks out
def test_a_gelu_and_its_data_are_written_by_one_product(tokens: int) -> None:
    def hidden(x: Any, weight: Any, bias: Any) -> Any:
        data = x @ weight + bias
        return data, torch.ops.aten.gelu(data)

    torch.manual_seed(0)
    tensors = [torch.randn(tokens, 24), torch.randn(24, 48), torch.randn(48)]
    extraction = all_agree(hidden, tensors, draws=2)
    names = [use.task.name.split()[0] for use in extraction.uses]
    assert "dense_add_gelu" in names, names
    assert not any("gelu_in_training" in name for name in names), names
