"""Memory of results is used again when they are gone, and never while anything refers to it."""

from __future__ import annotations

import pytest

from tests.training.models import torch
from tilewright.frontend.torch.part import Layout
from tilewright.training.storage import Storages

pytestmark = pytest.mark.skipif(not hasattr(torch._C, "_storage_Use_Count"), reason="PyTorch counts no references")

LARGE = Layout((64, 64, 64), (4096, 64, 1), "float32")


def keep() -> Storages:
    """An object that keeps memory."""
    storages = Storages()
    storages.reserve([])
    return storages


def test_memory_is_used_again_when_its_tensor_is_gone() -> None:
    storages = keep()
    first = storages.allocate(LARGE)
    assert (first.shape, first.stride(), first.dtype) == (LARGE.shape, LARGE.strides, torch.float32)
    address = first.data_ptr()
    del first
    assert storages.allocate(LARGE).data_ptr() == address
    assert storages.bytes == 2**20


def test_memory_is_that_of_the_cpu_whatever_the_default_is() -> None:
    with torch.device("meta"):
        assert keep().allocate(LARGE).device.type == "cpu"
        assert keep().allocate(Layout((2, 2), (1, 2), "float32")).device.type == "cpu"


@pytest.mark.parametrize("use", [lambda t: t[3:, 1], lambda t: t.numpy(), lambda t: t.untyped_storage()])
def test_memory_that_a_user_keeps_is_left_alone(use: object) -> None:
    assert callable(use)
    storages = keep()
    first = storages.allocate(LARGE)
    address, kept = first.data_ptr(), use(first)
    del first
    assert storages.allocate(LARGE).data_ptr() != address
    del kept
    assert storages.bytes == 2**21


def test_memory_that_is_idle_is_given_back_before_more_is_allocated() -> None:
    storages = keep()
    tensors = [storages.allocate(LARGE) for _ in range(4)]
    del tensors
    double = Layout((128, 64, 64), (4096, 64, 1), "float32")
    kept = [storages.allocate(double) for _ in range(2)]
    assert len(kept) == 2
    assert storages.bytes == 2**22


def test_memory_that_was_reserved_serves_all_tensors_at_once() -> None:
    storages = keep()
    storages.reserve([LARGE] * 3)
    assert storages.bytes == 3 * 2**20
    kept = [storages.allocate(LARGE) for _ in range(3)]
    assert len({tensor.data_ptr() for tensor in kept}) == 3
    assert storages.bytes == 3 * 2**20


def test_images_in_blocks_and_transposed_ones_lie_as_their_layouts_say() -> None:
    storages = keep()
    blocks = Layout((2, 32, 64, 64), (131072, 4096, 64, 1), "float32", 16)
    assert storages.allocate(blocks).shape == (2, 2, 64, 64, 16)
    last = Layout((2, 32, 64, 64), (131072, 1, 2048, 32), "float32")
    assert storages.allocate(last).is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_kept_before_memory_was_reserved() -> None:
    storages = Storages()
    tensor = storages.allocate(LARGE)
    assert (tensor.shape, tensor.stride()) == (LARGE.shape, LARGE.strides)
    assert storages.bytes == 0
