"""The side of a PyTorch program's reference: what runs in its process. PyTorch is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Interpreter

from tilewright.frontend.torch.model import flat_module, read_program
from tilewright.verify import freedom

__all__ = ["TorchSide"]

_NARROW = (torch.float16, torch.float32, torch.bfloat16)
#: Sums of products, by the names of PyTorch's operators.
_SUMS = "convolution conv1d conv2d conv3d mm addmm bmm baddbmm matmul linear scaled_dot_product_attention einsum"
#: Operators that programs approximate.
_FUNCTIONS = (
    "exp log sigmoid tanh erf gelu silu mish softplus softmax _softmax log_softmax _log_softmax pow sqrt rsqrt "
    "reciprocal div elu selu celu hardswish sin cos tan layer_norm native_layer_norm group_norm instance_norm "
    "batch_norm _native_batch_norm_legit_no_training mean sum avg_pool2d adaptive_avg_pool2d"
)


class TorchSide:
    """A program in double precision, and in its own.

    Args:
        path: of the file that ``torch.export.save`` wrote.
    """

    def __init__(self, path: str) -> None:
        program = read_program(Path(path))
        self._own, self._exact = flat_module(program), flat_module(program)
        self._freedom = freedom.Freedom()
        self._problem = ""
        _interpret(self._own, _Disturbed, self._freedom)
        _interpret(self._exact, _Double, None)

    def outputs(self, inputs: Sequence[NDArray[Any]]) -> tuple[list[NDArray[Any]], str, str, tuple[str, ...]]:
        """The outputs, their precision, a remark about them, and the dtypes of the program's own outputs."""
        self._freedom.amplitude = 0.0
        own = _run(self._own, inputs)
        dtypes = tuple(str(array.dtype) for array in own)
        if not self._problem:
            try:
                return _run(self._exact, inputs), "float64", "", dtypes
            except (RuntimeError, NotImplementedError, TypeError) as exc:
                line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
                self._problem = f"the program cannot be run in float64 ({line})"
        return own, "float32", self._problem, dtypes

    def rounded(self, inputs: Sequence[NDArray[Any]], seed: int, amplitude: float) -> list[NDArray[Any]]:
        """The outputs in the program's own precision, with disturbances; ``amplitude`` 1: a correct program's."""
        self._freedom.choose(seed, amplitude)
        return _run(self._own, inputs)


def _run(module: Any, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    with torch.no_grad():
        result = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
    return [tensor.numpy() for tensor in (result if isinstance(result, list | tuple) else [result])]


def _interpret(module: Any, kind: Any, free: freedom.Freedom | None) -> None:
    """Have a module, or the one inside, run node by node."""
    inner = getattr(module, "inner", module)
    interpreter = kind(inner)
    interpreter.free = free
    codegen = inner.graph._codegen

    def forward(*arguments: Any, **named: Any) -> Any:
        flat = codegen.process_inputs(*arguments, **named) if not named else _flat(codegen, arguments, named)
        return codegen.process_outputs(interpreter.run(*flat, enable_io_processing=False))

    inner.forward = forward


def _flat(codegen: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    from torch.utils import _pytree as pytree

    return pytree.tree_leaves((arguments, named))


class _Disturbed(Interpreter):  # type: ignore[misc]
    """In the program's own precision, with what a correct program may do otherwise."""

    free: freedom.Freedom

    def run_node(self, node: Any) -> Any:
        result = super().run_node(node)
        if not self.free.amplitude or node.op != "call_function" or not isinstance(result, torch.Tensor):
            return result
        name = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
        if result.dtype != torch.float32:
            return result
        if name in _SUMS.split():
            size = freedom.WINOGRAD if "conv" in name else freedom.SUM
            return torch.from_numpy(self.free.disturb(result.numpy(), size))
        if name in _FUNCTIONS.split():
            return torch.from_numpy(self.free.vary(result.numpy(), freedom.FUNCTION))
        return result


class _Double(Interpreter):  # type: ignore[misc]
    """With float64 wherever the program has something narrower."""

    free: Any

    def run_node(self, node: Any) -> Any:
        return torch.utils._pytree.tree_map(_wide, super().run_node(node))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if "_assert_tensor_metadata" in str(target):
            return None
        args, kwargs = torch.utils._pytree.tree_map(_wide_type, (args, kwargs))
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if str(target).startswith("_guards"):  # they look at dtypes, and the program's own run has passed them
            return None
        return super().call_module(target, args, kwargs)


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.dtype in _NARROW else value


def _wide_type(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
