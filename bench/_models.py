"""Networks that ``bench.network`` makes itself, and their PyTorch modules.

PyTorch is timed on the module. It runs an exported program operator by operator from Python, up to 10 % slower.
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


def mobile() -> tuple[Any, tuple[Any, ...]]:
    """Depthwise separable convolutions in the manner of MobileNet, on 112 x 112 pixels; random weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU6()]
    for width, wider, stride in ((32, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2), (512, 512, 1)):
        layers += [nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width), nn.ReLU6()]
        layers += [nn.Conv2d(width, wider, 1), nn.ReLU6()]
    return nn.Sequential(*layers).eval(), (torch.randn(1, 3, 112, 112),)


#: Networks that are made here, by name.
MADE: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {"transformer": transformer, "mobile": mobile}
#: The light networks of the onnx package.
LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
NETWORKS = (*LIGHT, *MADE)


def model(name: str) -> Any:
    """What ``load`` takes for one of ``NETWORKS``."""
    if name not in MADE:
        import onnx

        return str(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx")
    import torch

    module, example = MADE[name]()
    with torch.no_grad():
        return torch.export.export(module, example)


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
    from tilewright.compare.peers import TorchPeer

    return TorchPeer(transformer()[0])


def transformer_compiled(model: str, target: str) -> Runnable:
    """Peer ``pytorch-compiled`` of the transformer."""
    from tilewright.compare.peers import TorchPeer

    return TorchPeer(transformer()[0], compiled=True)
