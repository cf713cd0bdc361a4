"""Activations written as several operators: precise in their tails all the same, from either importer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.agreement import one_thread
from tests.models import TARGET, built, normal, read, save
from tests.ops.elementwise.test_elementary import REFERENCE, largest_error
from tilewright.graph.tasks import extract

node = helper.make_node
Doubles = NDArray[np.float64]

X = np.resize(np.concatenate([np.linspace(-110, 110, 9000), np.linspace(-1, 1, 999), [1e-30]]), (20, 500))
X = X.astype(np.float32)


def _elu(alpha: float) -> Callable[[Doubles], Doubles]:
    return lambda x: np.where(x > 0, x, alpha * np.expm1(x))


def _erf(divided: str = "x") -> list[onnx.NodeProto]:
    """1 + erf(x / sqrt 2)."""
    return [node("Div", [divided, "root"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["f"])]


#: Ways in which exporters write activations.
WRITTEN: dict[str, tuple[list[onnx.NodeProto], Callable[[Doubles], Doubles]]] = {
    "gelu, halved last": (
        [*_erf(), node("Mul", ["x", "f"], ["g"]), node("Mul", ["g", "half"], ["y"])],
        REFERENCE["nn.gelu"],
    ),
    "gelu, halved first": (
        [node("Mul", ["x", "half"], ["g"]), *_erf(), node("Mul", ["g", "f"], ["y"])],
        REFERENCE["nn.gelu"],
    ),
    "gelu, halved between": (
        [*_erf(), node("Mul", ["f", "half"], ["g"]), node("Mul", ["x", "g"], ["y"])],
        REFERENCE["nn.gelu"],
    ),
    "gelu of a product": (
        [
            node("Mul", ["x", "half"], ["p"]),
            *_erf("p"),
            node("Mul", ["p", "f"], ["g"]),
            node("Mul", ["g", "half"], ["y"]),
        ],
        lambda x: REFERENCE["nn.gelu"](0.5 * x),
    ),
    "gelu, by tanh": (
        [
            node("Pow", ["x", "three"], ["p"]),
            node("Mul", ["p", "cubic"], ["q"]),
            node("Add", ["x", "q"], ["r"]),
            node("Mul", ["r", "slope"], ["s"]),
            node("Tanh", ["s"], ["t"]),
            node("Add", ["t", "one"], ["u"]),
            node("Mul", ["x", "u"], ["v"]),
            node("Mul", ["v", "half"], ["y"]),
        ],
        REFERENCE["nn.gelu_tanh"],
    ),
    "softplus": ([node("Softplus", ["x"], ["y"])], REFERENCE["nn.softplus"]),
    "softplus, written out": (
        [node("Exp", ["x"], ["e"]), node("Add", ["e", "one"], ["f"]), node("Log", ["f"], ["y"])],
        REFERENCE["nn.softplus"],
    ),
    "mish": ([node("Mish", ["x"], ["y"])], REFERENCE["mish"]),
    "mish, written out": (
        [node("Softplus", ["x"], ["s"]), node("Tanh", ["s"], ["t"]), node("Mul", ["x", "t"], ["y"])],
        REFERENCE["mish"],
    ),
    "hard-swish": (
        [
            node("Add", ["x", "three"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["c"]),
            node("Mul", ["x", "c"], ["p"]),
            node("Div", ["p", "six"], ["y"]),
        ],
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
    ),
    "silu": ([node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "x"], ["y"])], REFERENCE["nn.silu"]),
    "elu": ([node("Elu", ["x"], ["y"], alpha=2.0)], _elu(2.0)),
    "selu": ([node("Selu", ["x"], ["y"])], REFERENCE["nn.selu"]),
    "erfc": ([node("Erf", ["x"], ["e"]), node("Sub", ["one", "e"], ["y"])], REFERENCE["erfc"]),
    "a tail of tanh": ([node("Tanh", ["x"], ["t"]), node("Sub", ["one", "t"], ["y"])], REFERENCE["twice_sigmoid"]),
    "a tail of sigmoid": (
        [node("Sigmoid", ["x"], ["s"]), node("Sub", ["one", "s"], ["y"])],
        lambda x: REFERENCE["sigmoid"](-x),
    ),
    "log of sigmoid": (
        [node("Sigmoid", ["x"], ["s"]), node("Log", ["s"], ["y"])],
        lambda x: -REFERENCE["nn.softplus"](-x),
    ),
}
CONSTANTS = {"root": 1.4142135, "one": 1.0, "half": 0.5, "three": 3.0, "cubic": 0.044715, "slope": 0.7978845834732056}
CONSTANTS |= {"zero": 0.0, "six": 6.0}


def written_model(path: Path) -> Path:
    """All of them on one input, each with an output of its own."""
    nodes = []
    for number, (given, _) in enumerate(WRITTEN.values()):
        for part in given:
            renamed = onnx.NodeProto()
            renamed.CopyFrom(part)
            for names in (renamed.input, renamed.output):
                names[:] = [n if n == "x" or n in CONSTANTS else f"{n}{number}" for n in names]
            nodes.append(renamed)
    shape = list(X.shape)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, shape) for n in range(len(WRITTEN))],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in CONSTANTS.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    return path


def test_onnx_activations_keep_their_tails(tmp_path: Path) -> None:
    _, executable = built(written_model(tmp_path / "m.onnx"), tmp_path / "out")
    with np.errstate(all="ignore"):
        errors = {
            name: largest_error(got, reference(X.astype(np.float64)))
            for got, (name, (_, reference)) in zip(executable(X), WRITTEN.items(), strict=True)
        }
    assert {name: error for name, error in errors.items() if not error < 1e-5} == {}


def test_pytorch_activations_keep_their_tails(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    activations: dict[str, tuple[Callable[[Any], Any], Callable[[Doubles], Doubles]]] = {
        "gelu": (functional.gelu, REFERENCE["nn.gelu"]),
        "gelu by tanh": (lambda v: functional.gelu(v, approximate="tanh"), REFERENCE["nn.gelu_tanh"]),
        "softplus": (functional.softplus, REFERENCE["nn.softplus"]),
        "softplus of 2x": (lambda v: functional.softplus(v, beta=2.0), lambda x: REFERENCE["nn.softplus"](2 * x) / 2),
        "mish": (functional.mish, REFERENCE["mish"]),
        "silu": (functional.silu, REFERENCE["nn.silu"]),
        "elu": (lambda v: functional.elu(v, 2.0), _elu(2.0)),
        "celu": (lambda v: functional.celu(v, 2.0), lambda x: np.where(x > 0, x, 2.0 * np.expm1(x / 2.0))),
        "selu": (functional.selu, REFERENCE["nn.selu"]),
        "log of sigmoid": (functional.logsigmoid, lambda x: -REFERENCE["nn.softplus"](-x)),
        "expm1": (torch.expm1, np.expm1),
        "log1p": (lambda v: torch.log1p(torch.exp(v)), REFERENCE["nn.softplus"]),
    }

    class All(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, v: Any) -> Any:
            return tuple(function(v) for function, _ in activations.values())

    program = torch.export.export(All(), (torch.from_numpy(X),))
    _, executable = built(program, tmp_path / "out")
    with np.errstate(all="ignore"):
        errors = {
            name: largest_error(got, reference(X.astype(np.float64)))
            for got, (name, (_, reference)) in zip(executable(X), activations.items(), strict=True)
        }
    assert {name: error for name, error in errors.items() if not error < 1e-5} == {}


def test_after_a_convolution_an_activation_is_one_operator(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Softplus", ["c"], ["s"]),
        node("Tanh", ["s"], ["t"]),
        node("Mul", ["c", "t"], ["m"]),
        node("Conv", ["m", "w"], ["d"], pads=[1, 1, 1, 1]),
        node("Add", ["d", "three"], ["a"]),
        node("Clip", ["a", "zero", "six"], ["b"]),
        node("Mul", ["d", "b"], ["p"]),
        node("Div", ["p", "six"], ["y"]),
    ]
    constants = {name: np.asarray(CONSTANTS[name], np.float32) for name in ("zero", "three", "six")}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 16, 8, 8]}, [1, 16, 8, 8], w=normal(16, 16, 3, 3), **constants)
    names = [use.task.name for use in extract(read(path), TARGET).uses]
    convolutions = [name.partition(" ")[0].partition("_")[2] for name in names if name.startswith("conv2d")]
    assert sorted(convolutions) == ["hard_swish", "mish"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "z"], ["y"])],  # of another tensor
        [node("Erf", ["x"], ["e"]), node("Mul", ["x", "e"], ["y"])],  # without the one
        [  # of another width
            node("Mul", ["x", "half"], ["d"]),
            node("Erf", ["d"], ["e"]),
            node("Add", ["e", "one"], ["f"]),
            node("Mul", ["x", "f"], ["y"]),
        ],
        [node("Exp", ["x"], ["e"]), node("Add", ["e", "half"], ["f"]), node("Log", ["f"], ["y"])],
    ],
)
def test_what_is_nearly_an_activation_stays_as_it_is(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    import onnxruntime

    constants = {name: np.float32(CONSTANTS[name]).reshape(()) for name in ("half", "one")}
    used = {name for part in nodes for name in part.input}
    inputs = {name: [20, 50] for name in ("x", "z") if name in used}
    weights = {name: np.asarray(value) for name, value in constants.items() if name in used}
    path = save(tmp_path / "m.onnx", nodes, inputs, [20, 50], **weights)
    arrays = [normal(20, 50, seed=seed) for seed in range(len(inputs))]
    _, executable = built(path, tmp_path / "out")
    want = onnxruntime.InferenceSession(str(path), one_thread()).run(None, dict(zip(inputs, arrays, strict=True)))[0]
    np.testing.assert_allclose(executable(*arrays)[0], want, rtol=1e-5, atol=1e-6)
