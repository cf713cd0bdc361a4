"""The tasks whose small spaces are recorded, and these spaces, in a module that workers can import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilewright.ops import contraction
from tilewright.ops.registry import make_space
from tilewright.space.subspace import Subspace, thinned
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["TASKS", "part_of"]

#: Valid configs of a table, at most.
MOST = 3600
LANES = 8


def conv(channels: int, out: int, size: int, kernel: int, stride: int = 1) -> Any:
    """A convolution with "same" padding on blocks of 8 (or of all channels, if they are fewer)."""
    cb = min(channels, LANES)
    data = (1, channels // cb, size, size, cb)
    weight = (out // LANES, channels // cb, kernel, kernel, cb, LANES)
    pad = kernel // 2
    return contraction.conv2d(data, weight, (stride, stride), (pad, pad, pad, pad), (1, 1))


def dense(m: int, k: int, n: int) -> Any:
    return contraction.dense(m, (n // LANES, k, LANES), n)


def depthwise(channels: int, size: int) -> Any:
    data, weight = (1, channels // LANES, size, size, LANES), (channels // LANES, 3, 3, LANES)
    return contraction.depthwise_conv2d(data, weight, (1, 1), (1, 1, 1, 1), (1, 1))


#: Name of the table and how its function is made. The first three reproduce arXiv 1909.10616.
TASKS: dict[str, Callable[[], Any]] = {
    "dense-512x1024x1024": lambda: dense(512, 1024, 1024),
    "dense-512x1024x4096": lambda: dense(512, 1024, 4096),
    "dense-512x4096x1024": lambda: dense(512, 4096, 1024),
    "dense-512x512x512": lambda: dense(512, 512, 512),
    "conv3x3-128-28": lambda: conv(128, 128, 28, 3),
    "conv1x1-256-64-56": lambda: conv(256, 64, 56, 1),
    "conv3x3s2-256-14": lambda: conv(128, 256, 28, 3, 2),
    "conv3x3-512-7": lambda: conv(512, 512, 7, 3),
    "conv7x7s2-first": lambda: conv(3, 64, 224, 7, 2),
    "depthwise3x3-256-28": lambda: depthwise(256, 28),
}


def part_of(task: Task, target: Target) -> Subspace:
    """The space of a table; found by the workers by its name."""
    return thinned(make_space(task, target), MOST)
