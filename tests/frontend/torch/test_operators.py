"""Operators of PyTorch give what PyTorch gives in double precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import built

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional


class Of(nn.Module):  # type: ignore[misc, name-defined]
    """A module of a function and its parts."""

    def __init__(self, function: Callable[..., Any], *parts: Any) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self.parts)


def normal(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def arithmetic(x: Any, y: Any) -> Any:
    return (
        torch.add(x, y, alpha=2) - torch.sub(y, x, alpha=0.5) + torch.rsub(x, y, alpha=3),
        torch.div(x, y.abs() + 0.5, rounding_mode="trunc") + torch.remainder(x, y) + torch.fmod(x, y.abs() + 0.5),
        x**2 + x.abs() ** 0.3 + 2.0**x + x.abs() ** -0.5,
        torch.where(x > y, x, 2.0) + x.clamp(min=0.1) + torch.clamp(y, torch.zeros(10), torch.ones(10)),
        (x > 0) & ~(y < 0) ^ (x != y),
        F.prelu(x, torch.full((1,), 0.2, dtype=x.dtype)) + F.celu(x, 0.5) + F.hardtanh(y, -0.3, 0.7) + F.softshrink(x),
        (x > 0).sum(1, keepdim=True) // 2 + x.long(),
    )


def reductions(x: Any) -> Any:
    return (
        *x.max(1),
        x.amin((0, 2)),
        x.argmax(-1, keepdim=True),
        x.std(1),
        *torch.var_mean(x, (0, 1), correction=0),
        x.logsumexp(1) + x.norm(dim=1) + torch.linalg.vector_norm(x, 3.0, dim=1),
        x.log_softmax(1) + x.softmax(0) + x.cumsum(1),
        (x > 0).all(1) | (x > 2).any(1),
    )


def extremes(x: Any) -> Any:
    """Of rows that have infinities or NaN alone, too; of windows without NaN."""
    numbers = x.nan_to_num(0.5, torch.inf, -torch.inf)
    return (
        *x.max(1),
        *x.min(1, keepdim=True),
        x.amax((1, 2)),
        x.argmax(),
        x.argmin(2),
        x.logsumexp(2),
        F.max_pool1d(numbers, 3, 2, 1),
        F.max_pool2d(numbers, (2, 3), (1, 2), (1, 1)),
        (x * 3).nan_to_num(0, 7, -7).int().argmax(1),
    )


def make_extremes() -> Any:
    x = normal(3, 4, 9)
    x[0] = -torch.inf
    x[1, :2] = torch.inf
    x[1, 2, 3:5] = torch.nan
    x[2, 1] = torch.finfo(torch.float32).min
    return x


def views(x: Any) -> Any:
    return (
        x[:, -1] + x[..., -1, :],
        x[:, 1:-1, ::2],
        x.roll((1, -2), (1, 2)) + x.flip(0, 2),
        torch.cat(x.split(3, 2)[:2], 1),
        F.pad(x, (1, -2, 0, 2), value=1.5),
        F.pad(x, (2, 1), mode="reflect") + F.pad(x, (2, 1), mode="circular") + F.pad(x, (2, 1), mode="replicate"),
        x.diagonal(1, 1, 2),
        x.unfold(2, 3, 2),
    )


def lookups(x: Any, i: Any) -> Any:
    y = x.clone()
    y[:, ::2] += 1
    y[torch.tensor([0, 2]), torch.tensor([1, 1])] = 5.0
    return (
        x[i] + x[:, [1, -1, 3]].sum(),
        x[i, :, i],
        x[:, i, i],
        y,
        x.gather(1, i.abs().reshape(1, 3, 1).expand(4, 3, 5)),
        x.scatter_add(1, i.abs().reshape(1, 3, 1).expand(4, 3, 5), x),
        x.index_put((torch.tensor([0, 0]),), x[:2], accumulate=True),
        *x.topk(3, 1),
        *x.sort(1, descending=True),
    )


def pools(x: Any) -> Any:
    return (
        F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
        F.adaptive_avg_pool2d(x, (4, 5)),
        F.adaptive_max_pool2d(x, (4, 5)),
    )


def resizes(x: Any) -> Any:
    modes = ("nearest", "nearest-exact", "bilinear", "bicubic")
    return (
        *(F.interpolate(x, scale_factor=1.7, mode=mode) for mode in modes),
        F.interpolate(x, size=(13, 5), mode="bilinear", align_corners=True),
        F.interpolate(x, size=(3, 5), mode="bicubic", antialias=True),
    )


def attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
    attend = F.scaled_dot_product_attention
    return (
        attend(q, k, v, is_causal=True, scale=0.3),
        attend(q, k, v, attn_mask=mask > 0.0),
        attend(q, k, v, attn_mask=mask > 10.0),  # each row is masked altogether
        attend(q, k, v, attn_mask=mask),
    )


def norms(x: Any, conv: Any, *layers: Any) -> Any:
    y = conv(x)
    return tuple(layer(y) for layer in layers)


def norm_layers() -> list[Any]:
    return [
        nn.Conv2d(16, 16, 1),
        nn.GroupNorm(4, 16),
        nn.InstanceNorm2d(16, affine=True),
        nn.LayerNorm([16, 7, 9]),
        nn.Sequential(nn.ConvTranspose2d(16, 8, 3, 2, 1, groups=2, dilation=2, output_padding=1), nn.BatchNorm2d(8)),
    ]


def sampling(x: Any, grid: Any) -> Any:
    return (
        F.grid_sample(x, grid, align_corners=False),
        F.pixel_shuffle(x, 2),
        F.fold(F.unfold(x, 2, stride=2), (6, 8), 2, stride=2),
    )


CASES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "arithmetic": (Of(arithmetic), (normal(4, 10), normal(4, 10) + 0.3)),
    "reductions": (Of(reductions), (normal(2, 12, 16),)),
    "extremes": (Of(extremes), (make_extremes(),)),
    "views": (Of(views), (normal(2, 5, 8),)),
    "lookups": (Of(lookups), (normal(4, 6, 5), torch.tensor([1, -1, 2]))),
    "pools": (Of(pools), (normal(2, 4, 9, 11),)),
    "resizes": (Of(resizes), (normal(1, 4, 6, 7),)),
    "attention": (Of(attention), (*(normal(2, 4, 7, 16) for _ in range(3)), normal(2, 1, 7, 7))),
    "norms": (Of(norms, *norm_layers()), (normal(2, 16, 7, 9),)),
    "sampling": (Of(sampling), (normal(1, 16, 6, 8), normal(1, 5, 6, 2).clamp(-1.2, 1.2))),
    "lstm": (nn.LSTM(16, 8, num_layers=2, bidirectional=True, batch_first=True), (normal(2, 3, 16),)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_pytorch(name: str, tmp_path: Path) -> None:
    module, inputs = CASES[name]
    module = module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns about its own recurrent modules
        program = torch.export.export(module, inputs)
    _, executable = built(program, tmp_path / "out")
    found = executable(*(tensor.numpy() for tensor in inputs))
    exact = [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]
    with torch.no_grad():
        wanted = torch.utils._pytree.tree_leaves(module.double()(*exact))
    for place, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert ours.shape == tuple(theirs.shape), place
        assert ours.dtype.kind == theirs.numpy().dtype.kind, place
        scale = max(1e-30, float(np.abs(np.nan_to_num(theirs.numpy(), posinf=0.0, neginf=0.0)).max()))
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5 * scale, err_msg=str(place))
