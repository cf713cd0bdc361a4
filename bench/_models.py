"""Networks that ``bench.network`` makes itself, and how PyTorch runs them as they were written.

An exported program runs its operators one by one from Python and is up to 10 % slower in PyTorch than the module that
it came from, so the module is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tilewright.errors import MissingExtraError
from tilewright.measure.peers import Runnable


def transformer() -> tuple[Any, tuple[Any, ...]]:
    """An encoder of 4 layers, width 256, 8 heads, feed-forward 1024, on 128 tokens; random weights, always the same."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return encoder.eval(), (torch.randn(1, 128, 256),)


def export(made: Callable[[], tuple[Any, tuple[Any, ...]]], path: Path) -> None:
    """Write a network as a ``.pt2`` file."""
    if find_spec("torch") is None:
        raise MissingExtraError("PyTorch", "torch")
    import torch

    module, example = made()
    with torch.no_grad():
        torch.export.save(torch.export.export(module, example), str(path))


def transformer_eager(model: str, target: str) -> Runnable:
    """Peer ``pytorch`` of the transformer, whatever the file holds."""
    from tilewright.network.peers import TorchPeer

    return TorchPeer(transformer()[0])


def transformer_compiled(model: str, target: str) -> Runnable:
    """Peer ``pytorch-compiled`` of the transformer."""
    from tilewright.network.peers import TorchPeer

    return TorchPeer(transformer()[0], compiled=True)
