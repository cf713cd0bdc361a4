"""Tables of bytes and pooled bytes with drawn scales and zero points: ONNX Runtime's results to a quantum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from tests.agreement import one_thread
from tests.graph.test_quantised import Sketch
from tests.models import built, runs

_DRAWN = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Quantiser:
    """A scale, a zero point, and a dtype."""

    scale: float
    zero: int
    dtype: str

    def apply(self, net: Sketch, x: str) -> str:
        return net.qdq(x, self.scale, self.zero, self.dtype)

    def end(self, net: Sketch, x: str) -> None:
        kind = TensorProto.UINT8 if self.dtype == "uint8" else TensorProto.INT8
        net.output(net.q(x, self.scale, self.zero, self.dtype), kind)

    def numbers(self) -> NDArray[np.float32]:
        """The numbers of all bytes."""
        low = np.iinfo(self.dtype).min
        return (np.float32(self.scale) * (np.arange(low, low + 256) - self.zero)).astype(np.float32)


@st.composite
def quantisers(draw: st.DrawFn, least: float, most: float) -> Quantiser:
    """Any scale within powers of two, or one of these powers: then quotients lie between two integers."""
    exponent = draw(st.one_of(st.integers(int(least), int(most)), st.floats(least, most)))
    dtype = draw(st.sampled_from(("uint8", "int8")))
    limits = np.iinfo(dtype)
    return Quantiser(float(np.float32(2.0**exponent)), draw(st.integers(int(limits.min), int(limits.max))), dtype)


def hard_swish(net: Sketch, x: str) -> str:
    return net.op("Mul", x, net.op("HardSigmoid", x, alpha=1 / 6))


def gelu(net: Sketch, x: str) -> str:
    erf = net.op("Erf", net.op("Mul", x, net.constant(0.5**0.5, "float32")))
    halves = net.op("Mul", x, net.constant(0.5, "float32"))
    return net.op("Mul", halves, net.op("Add", erf, net.constant(1.0, "float32")))


#: Functions of one number. The first ones are exact, so that ties stay ties.
FUNCTIONS: dict[str, Callable[[Sketch, str], str]] = {
    "Abs": lambda net, x: net.op("Abs", x),
    "Square": lambda net, x: net.op("Mul", x, x),
    "LeakyRelu": lambda net, x: net.op("LeakyRelu", x, alpha=0.25),
    "Sigmoid": lambda net, x: net.op("Sigmoid", x),
    "Tanh": lambda net, x: net.op("Tanh", x),
    "HardSwish": hard_swish,
    "Gelu": gelu,
}
CHAIN = st.tuples(st.sampled_from(sorted(FUNCTIONS)), quantisers(-7, 0), quantisers(-8, 1))


def plain_runtime(net: Sketch, folder: Any, inputs: list[NDArray[np.float32]]) -> list[NDArray[Any]]:
    """ONNX Runtime's outputs without optimisation: operator by operator, as the model says."""
    options = one_thread()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(net.save(folder / "m.onnx")), options)
    return list(session.run(None, {f"x{place}": array for place, array in enumerate(inputs)}))


def check(net: Sketch, folder: Any, inputs: list[NDArray[np.float32]]) -> list[str]:
    """Compare a built network with ONNX Runtime. Returns the names of its tasks."""
    wanted = plain_runtime(net, folder, inputs)
    extraction, executable = built(folder / "m.onnx", folder / "out")
    for found, right in zip(executable(*inputs), wanted, strict=True):
        assert found.dtype == right.dtype
        assert np.abs(found.astype(int) - right.astype(int)).max() <= 1
    return [use.task.name.split()[0] for use in extraction.uses]


@runs
@settings(_DRAWN, max_examples=2)
@given(chains=st.lists(CHAIN, min_size=7, max_size=7))
def test_tables_of_bytes(
    chains: list[tuple[str, Quantiser, Quantiser]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    net, inputs = Sketch(), []
    # Drawn functions may be none: the absolute value of numbers that are not negative. This one is always a table.
    for name, before, after in [*chains, ("Tanh", Quantiser(2.0**-4, 128, "uint8"), Quantiser(2.0**-7, 0, "int8"))]:
        after.end(net, FUNCTIONS[name](net, before.apply(net, net.input(4, 64))))
        inputs.append(before.numbers().reshape(4, 64))
    tasks = check(net, tmp_path_factory.mktemp("tables"), inputs)
    assert any("lookup" in task for task in tasks)


def means(net: Sketch, x: str, rows: int, cols: int) -> str:
    return net.op("AveragePool", x, kernel_shape=[rows, cols], strides=[1, 2])


#: Poolings of an image.
POOLINGS: dict[str, Callable[[Sketch, str], str]] = {
    "mean of 4": lambda net, x: means(net, x, 2, 2),
    "mean of 6": lambda net, x: means(net, x, 3, 2),
    "padded": lambda net, x: net.op(
        "AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1
    ),
    "of all": lambda net, x: net.op("GlobalAveragePool", x),
    "largest": lambda net, x: net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 0, 1, 0]),
}
POOLING = st.tuples(st.sampled_from(sorted(POOLINGS)), quantisers(-6, -1), quantisers(-7, 0), st.sampled_from((16, 20)))


@runs
@settings(_DRAWN, max_examples=2)
@given(pools=st.lists(POOLING, min_size=4, max_size=4), seed=st.integers(0, 99))
def test_pooled_bytes(
    pools: list[tuple[str, Quantiser, Quantiser, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of what a convolution writes, whose weights are those of the identity: all its sums are exact."""
    net, inputs, rng = Sketch(), [], np.random.default_rng(seed)
    step = 2.0**-4
    for name, before, after, channels in pools:
        eye = net.constant(64 * np.eye(channels).reshape(channels, channels, 1, 1), "int8")
        weight = net.op("DequantizeLinear", eye, net.constant(2.0**-6, "float32"), net.constant(0, "int8"))
        image = net.op("Conv", net.qdq(net.input(1, channels, 6, 8), step, 128), weight)
        after.end(net, POOLINGS[name](net, before.apply(net, image)))
        inputs.append((rng.integers(-128, 128, (1, channels, 6, 8)) * step).astype(np.float32))
    tasks = check(net, tmp_path_factory.mktemp("pools"), inputs)
    assert not any(task.startswith(("avg_pool2d", "mean")) for task in tasks), tasks  # those of float32
