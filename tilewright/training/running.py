"""Runs the kernels of a part on tensors of PyTorch's, without copies where these lie as kernels read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tilewright.frontend.torch.part import Layout
from tilewright.training.saved import to_blocks, to_plain
from tilewright.training.storage import Storages

__all__ = ["align", "find_addresses"]

#: Bytes to which kernels expect tensors to be aligned.
_ALIGNMENT = 64


def align(tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The tensor if it lies as kernels read it; otherwise a copy that does.

    Args:
        tensor: plain or in blocks.
        layout: that kernels read.

    Raises:
        ValueError: it has another shape or dtype.
    """
    aligned = tensor.data_ptr() % _ALIGNMENT == 0
    if layout.block and tensor.shape == layout.blocks and tensor.is_contiguous() and aligned:
        return tensor
    tensor = to_plain(tensor, layout.shape)
    if tensor.shape != layout.shape or str(tensor.dtype) != f"torch.{layout.dtype}":
        raise ValueError(f"it was made for {layout.dtype} {layout.shape}, but got {tensor.dtype} {tensor.shape}")
    if layout.block:
        return to_blocks(tensor, layout.block)
    if aligned and (tensor.stride() == layout.strides or _lies_alike(tensor, layout)):
        return tensor
    return torch.empty_strided(layout.shape, layout.strides, dtype=tensor.dtype, device="cpu").copy_(tensor)


def find_addresses(
    given: Sequence[torch.Tensor], outputs: Sequence[Layout], storages: Storages
) -> tuple[tuple[torch.Tensor, ...], list[int]]:
    """Tensors for the results of a run, and the addresses of all that kernels read and write.

    Args:
        given: what the part takes, as :func:`align` returns it. It must live as long as the addresses are used.
        outputs: the layouts of the results.
        storages: the memory of the results.
    """
    results = tuple(map(storages.allocate, outputs))
    return results, [tensor.data_ptr() for tensor in (*given, *results)]


def _lies_alike(tensor: torch.Tensor, layout: Layout) -> bool:
    """Whether strides differ along dimensions of one element only."""
    pairs = zip(tensor.shape, tensor.stride(), layout.strides, strict=True)
    return all(extent == 1 or one == other for extent, one, other in pairs)
