"""Exports a model of PyTorch to an ONNX file, for ``bench/_packages.py``.

    python -m bench._exported NAME FILE [FOLDER...]

``NAME`` ends in the exporter: ``torchscript`` or ``dynamo``; models with a length also say ``fixed`` or ``open``. The
folders hold unpacked packages. All weights but those of MiniLM are random, and always the same.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from bench._stand_ins import accept_missing

__all__ = ["MADE_BY", "main", "make"]

#: The entry of a file's metadata that names the model which it was exported from.
MADE_BY = "tilewright.bench.made_by"

#: Short names of timm's models. Other models have timm's own names.
_TIMM = {
    "mobilenetv3": "mobilenetv3_small_100",
    "efficientnet_b0": "efficientnet_b0",
    "vit_tiny": "vit_tiny_patch16_224",
    "resnet18": "resnet18",
}
#: The version of ONNX's operators that is exported by TorchScript's exporter.
_OPSET = 17


class _Block(nn.Module):  # type: ignore[misc]
    """A convolution with batch norm and SiLU."""

    def __init__(self, taken: int, given: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(taken, given, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(given)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(self.norm(self.conv(x)))


class Detector(nn.Module):  # type: ignore[misc]
    """A detector in the manner of YOLO: a pyramid of three levels, distances as distributions, boxes in pixels.

    Args:
        classes: that objects may have.
        bins: of a distance's distribution.
    """

    def __init__(self, classes: int = 20, bins: int = 8) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        widths = (32, 64, 96)
        self.stem = nn.Sequential(_Block(3, 16, 3, 2), _Block(16, 24, 3, 2))
        self.down = nn.ModuleList([_Block(a, b, 3, 2) for a, b in zip((24, *widths), widths, strict=False)])
        self.mix = nn.ModuleList([_Block(w, w) for w in widths])
        self.up = nn.ModuleList([_Block(96 + 64, 64), _Block(64 + 32, 32)])
        self.heads = nn.ModuleList([nn.Conv2d(w, 4 * bins + classes, 1) for w in widths])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images ``(n, 3, h, w)`` --> ``(n, boxes, 4 + classes)``: corners in pixels, and probabilities."""
        x, levels = self.stem(image), []
        for down, mix in zip(self.down, self.mix, strict=True):
            down_x = down(x)
            x = down_x + mix(down_x)
            levels.append(x)
        for place, up in ((1, self.up[0]), (0, self.up[1])):
            larger = nn.functional.interpolate(levels[place + 1], scale_factor=2.0, mode="nearest")
            levels[place] = up(torch.cat([larger, levels[place]], 1))
        found = []
        for level, (x, head) in enumerate(zip(levels, self.heads, strict=True)):
            found.append(self._decode(head(x), float(8 << level)))
        return torch.cat(found, 1)

    def _decode(self, raw: torch.Tensor, stride: float) -> torch.Tensor:
        n, _, height, width = raw.shape
        flat = raw.flatten(2).transpose(1, 2)
        spread = flat[..., : 4 * self.bins].reshape(n, height * width, 4, self.bins).softmax(-1)
        distances = (spread * torch.arange(self.bins, dtype=raw.dtype)).sum(-1)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = torch.stack([columns, rows], -1).reshape(1, height * width, 2).to(raw.dtype) + 0.5
        corners = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1) * stride
        return torch.cat([corners, flat[..., 4 * self.bins :].sigmoid()], -1)


class _Split(nn.Module):  # type: ignore[misc]
    """A stage of a cross stage partial network: half of the channels pass bottlenecks, and all are joined at its end.

    Args:
        width: channels in and out.
        depth: the number of bottlenecks.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        half = width // 2
        self.enter = _Block(width, width, 1)
        self.steps = nn.ModuleList([nn.Sequential(_Block(half, half), _Block(half, half)) for _ in range(depth)])
        self.leave = _Block((2 + depth) * half, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class CspDetector(nn.Module):  # type: ignore[misc]
    """A detector in the manner of YOLOv8: stages of partial networks, pooling of three sizes, a path up and one down.

    Args:
        classes: that objects may have.
        bins: of a distance's distribution.
    """

    def __init__(self, classes: int = 80, bins: int = 16) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        self.stem = _Block(3, 16, 3, 2)
        self.down = nn.ModuleList([_Block(a, b, 3, 2) for a, b in zip((16, *widths), widths, strict=False)])
        self.stages = nn.ModuleList([_Split(w, d) for w, d in zip(widths, (1, 2, 2, 1), strict=True)])
        self.squeeze, self.spread = _Block(256, 128, 1), _Block(4 * 128, 256, 1)
        self.up = nn.ModuleList([_Join(256 + 128, 128), _Join(128 + 64, 64)])
        self.stride = nn.ModuleList([_Block(64, 64, 3, 2), _Block(128, 128, 3, 2)])
        self.back = nn.ModuleList([_Join(64 + 128, 128), _Join(128 + 256, 256)])
        self.heads = nn.ModuleList(
            [nn.Sequential(_Block(w, 64), nn.Conv2d(64, 4 * bins + classes, 1)) for w in (64, 128, 256)]
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images ``(n, 3, h, w)`` --> ``(n, 4 * bins + classes, boxes)``, undecoded."""
        x, levels = self.stem(image), []
        for down, stage in zip(self.down, self.stages, strict=True):
            x = stage(down(x))
            levels.append(x)
        pooled = [self.squeeze(x)]
        for _ in range(3):
            pooled.append(nn.functional.max_pool2d(pooled[-1], 5, 1, 2))
        large = self.spread(torch.cat(pooled, 1))
        middle = self.up[0](torch.cat([nn.functional.interpolate(large, scale_factor=2.0), levels[2]], 1))
        small = self.up[1](torch.cat([nn.functional.interpolate(middle, scale_factor=2.0), levels[1]], 1))
        middle = self.back[0](torch.cat([self.stride[0](small), middle], 1))
        large = self.back[1](torch.cat([self.stride[1](middle), large], 1))
        found = [head(level).flatten(2) for head, level in zip(self.heads, (small, middle, large), strict=True)]
        return torch.cat(found, 2)


class _Join(nn.Module):  # type: ignore[misc]
    """Brings joined levels of a pyramid to one width."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.narrow, self.stage = _Block(taken, given, 1), _Split(given, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stage(self.narrow(x))


class _Tokens(nn.Module):  # type: ignore[misc]
    """A BERT encoder whose output is its last hidden state."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        last: torch.Tensor = found.last_hidden_state
        return last


def _randomise(module: nn.Module) -> nn.Module:
    """Give batch norms weights and statistics that are not 0 and 1: a weight of 0 would hide a branch."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.1)
    return module.eval()


def _minilm(folder: Path) -> nn.Module:
    from transformers import BertModel  # type: ignore[import-not-found, unused-ignore]

    config = next(
        path
        for path in sorted(folder.rglob("config.json"))
        if "BertModel" in json.loads(path.read_text()).get("architectures", ())
    )
    return _Tokens(BertModel.from_pretrained(str(config.parent), local_files_only=True)).eval()


def make(name: str, folders: list[Path]) -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str], str]:
    """A model, inputs for it, their names, and the name of the output; always the same random weights."""
    torch.manual_seed(0)
    with accept_missing():
        return _make(name, folders)


def _make(name: str, folders: list[Path]) -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str], str]:
    family, _, rest = name.partition("-")
    if family == "timm":
        import timm  # type: ignore[import-not-found, unused-ignore]

        short = rest.rpartition("-")[0]
        made = timm.create_model(_TIMM.get(short, short), pretrained=False)
        return _randomise(made), (torch.randn(1, 3, 224, 224),), ["image"], "logits"
    if family == "yolo":
        return _randomise(Detector()), (torch.randn(1, 3, 256, 256),), ["image"], "boxes"
    if family == "csp":
        return _randomise(CspDetector()), (torch.randn(1, 3, 320, 320),), ["image"], "levels"
    if family == "unet":
        from bench._training_models import UNet

        return _randomise(UNet()), (torch.randn(1, 3, 128, 128),), ["image"], "logits"
    ids = torch.randint(0, 30000, (1, 128))
    tokens = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    return _minilm(folders[0]), tokens, ["input_ids", "attention_mask", "token_type_ids"], "last_hidden_state"


def main() -> None:
    name, file, *places = sys.argv[1:]
    sys.path += places
    warnings.simplefilter("ignore")
    module, inputs, names, output = make(name, [Path(place) for place in places])
    is_open, dynamo = name.endswith("-open"), "-dynamo" in name
    more: dict[str, Any] = {"dynamo": dynamo}
    if dynamo:
        axes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("length", max=512)} if is_open else None
        more |= (
            {"dynamic_shapes": dict.fromkeys(names, axes), "external_data": False}
            if is_open
            else {"external_data": False}
        )
    else:
        more |= {"opset_version": _OPSET}
        more |= {"dynamic_axes": {key: {0: "batch", 1: "length"} for key in (*names, output)}} if is_open else {}
    part = Path(f"{file}.part")
    with torch.no_grad():
        torch.onnx.export(module, inputs, str(part), input_names=names, output_names=[output], **more)
    exported = onnx.load(str(part))
    onnx.helper.set_model_props(exported, {MADE_BY: name})
    onnx.save(exported, str(part))
    part.replace(file)


if __name__ == "__main__":
    main()
