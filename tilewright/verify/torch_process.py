"""The object that runs a PyTorch program as a reference, in a process that may die. PyTorch is an extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.fx import Interpreter

from tilewright.frontend.torch.model import flatten_program, read_program
from tilewright.tensor import Array
from tilewright.verify import freedom

if TYPE_CHECKING:
    from torch.fx import Node

__all__ = ["TorchOutputs", "TorchSide"]

#: Types that become float64 in double precision.
_NARROW = (torch.float16, torch.float32, torch.bfloat16)
#: PyTorch's operators that are sums of products.
_SUMS = "convolution conv1d conv2d conv3d mm addmm bmm baddbmm matmul linear scaled_dot_product_attention einsum"
#: PyTorch's operators that programs approximate.
_FUNCTIONS = (
    "exp log sigmoid tanh erf gelu silu mish softplus softmax _softmax log_softmax _log_softmax pow sqrt rsqrt "
    "reciprocal div elu selu celu hardswish sin cos tan layer_norm native_layer_norm group_norm instance_norm "
    "batch_norm _native_batch_norm_legit_no_training mean sum avg_pool2d adaptive_avg_pool2d"
)


@dataclass(frozen=True)
class TorchOutputs:
    """The outputs of a program.

    Attributes:
        outputs: the arrays.
        precision: their precision: ``float64``, or ``float32`` if the program cannot be run in float64.
        problem: why it cannot be run in float64; empty if it can.
        dtypes: the dtypes that the program's own outputs have.
    """

    outputs: list[Array]
    precision: str
    problem: str
    dtypes: tuple[str, ...]


class TorchSide:
    """A program in double precision, and in its own.

    Args:
        path: a file that ``torch.export.save`` wrote.
    """

    def __init__(self, path: str) -> None:
        program = read_program(Path(path))
        self._own, self._exact = flatten_program(program), flatten_program(program)
        self._freedom = freedom.Freedom()
        self._problem = ""
        _run_by_nodes(self._own, type("Disturbed", (_Disturbed,), {"disturbances": self._freedom}))
        _run_by_nodes(self._exact, _Double)

    def outputs(self, inputs: Sequence[Array]) -> TorchOutputs:
        """The outputs for ``inputs``, in float64 if possible."""
        self._freedom.amplitude = 0.0
        own = _run(self._own, inputs)
        dtypes = tuple(str(array.dtype) for array in own)
        if not self._problem:
            try:
                return TorchOutputs(_run(self._exact, inputs), "float64", "", dtypes)
            except (RuntimeError, NotImplementedError, TypeError) as exc:
                line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
                self._problem = f"the program cannot be run in float64 ({line})"
        return TorchOutputs(own, "float32", self._problem, dtypes)

    def rounded(self, inputs: Sequence[Array], seed: int, amplitude: float) -> list[Array]:
        """The outputs in the program's own precision, disturbed.

        Args:
            inputs: the inputs.
            seed: the seed of the disturbances.
            amplitude: their size, in units of what correct programs may differ by.
        """
        self._freedom.choose(seed, amplitude)
        return _run(self._own, inputs)


def _run(module: torch.nn.Module, inputs: Sequence[Array]) -> list[Array]:
    with torch.no_grad():
        result = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
    return [tensor.numpy() for tensor in (result if isinstance(result, list | tuple) else [result])]


def _run_by_nodes(module: torch.nn.Module, kind: type[Interpreter]) -> None:
    """Let an interpreter of class ``kind`` run a module, or the module inside of it."""
    inner = getattr(module, "inner", module)
    interpreter = kind(inner)
    codegen = inner.graph._codegen

    def forward(*arguments: object, **named: object) -> object:
        flat = codegen.process_inputs(*arguments, **named) if not named else _flatten(arguments, named)
        return codegen.process_outputs(interpreter.run(*flat, enable_io_processing=False))

    inner.forward = forward


def _flatten(arguments: tuple[object, ...], named: Mapping[str, object]) -> list[object]:
    from torch.utils import _pytree as pytree

    return list(pytree.tree_leaves((arguments, named)))


class _Disturbed(Interpreter):  # type: ignore[misc]
    """Runs a program in its own precision, and disturbs it by what correct programs may differ by."""

    disturbances: ClassVar[freedom.Freedom]

    def run_node(self, node: Node) -> object:
        result = super().run_node(node)
        if not self.disturbances.amplitude or node.op != "call_function" or not isinstance(result, torch.Tensor):
            return result
        name = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
        if result.dtype != torch.float32:
            return result
        if name in _SUMS.split():
            size = freedom.WINOGRAD if "conv" in name else freedom.SUM
            return torch.from_numpy(self.disturbances.disturb(result.numpy(), size))
        if name in _FUNCTIONS.split():
            return torch.from_numpy(self.disturbances.vary(result.numpy(), freedom.FUNCTION))
        return result


class _Double(Interpreter):  # type: ignore[misc]
    """Runs a program with float64 in place of every narrower floating-point type."""

    def run_node(self, node: Node) -> object:
        return torch.utils._pytree.tree_map(_widen, super().run_node(node))

    def call_function(self, target: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        if "_assert_tensor_metadata" in str(target):
            return None
        args, kwargs = torch.utils._pytree.tree_map(_widen_type, (args, kwargs))
        return super().call_function(target, args, kwargs)

    def call_module(self, target: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        if str(target).startswith("_guards"):  # guards check dtypes, and the program's own run has passed them
            return None
        return super().call_module(target, args, kwargs)


def _widen(value: object) -> object:
    """A tensor in float64 if it is of a narrower floating-point type."""
    return value.double() if isinstance(value, torch.Tensor) and value.dtype in _NARROW else value


def _widen_type(value: object) -> object:
    """The type float64 in place of a narrower floating-point type."""
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
