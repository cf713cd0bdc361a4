"""Operators of our own in graphs of PyTorch: decompositions write them, converters read them, and nobody runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["call_operator"]


def call_operator(
    name: str, schema: str, shape: Callable[..., torch.Tensor], *arguments: torch.Tensor | None
) -> torch.Tensor:
    """A call of PyTorch's operator ``tilewright::name``, which is traced.

    Args:
        name: of the operator.
        schema: its parameters and its result, as ``torch.library`` reads them.
        shape: makes a tensor like the result, of the same arguments.
        arguments: of the call.
    """
    import torch

    if not hasattr(torch.ops.tilewright, name):
        torch.library.define(f"tilewright::{name}", schema)
        torch.library.register_fake(f"tilewright::{name}", shape)
    result: torch.Tensor = getattr(torch.ops.tilewright, name)(*arguments)
    return result
