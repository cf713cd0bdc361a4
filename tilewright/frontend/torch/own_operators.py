"""Operators of our own in graphs of PyTorch: decompositions write them, converters read them, and nobody runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = ["call_operator"]

Result = TypeVar("Result", "torch.Tensor", "tuple[torch.Tensor, ...]")


def call_operator(
    name: str, schema: str, shape: Callable[..., Result], *arguments: torch.Tensor | float | None
) -> Result:
    """A call of PyTorch's operator ``tilewright::name``, which is traced.

    Args:
        name: of the operator.
        schema: its parameters and its results, as ``torch.library`` reads them.
        shape: makes tensors like the results, of the same arguments.
        arguments: of the call.

    Returns:
        The result, or a tuple of all results.
    """
    import torch

    if not hasattr(torch.ops.tilewright, name):
        torch.library.define(f"tilewright::{name}", schema)
        torch.library.register_fake(f"tilewright::{name}", shape)
    result: Result = getattr(torch.ops.tilewright, name)(*arguments)
    return result
