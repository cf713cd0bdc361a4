"""PyTorch programs give the tasks that their ONNX files give; what is trained, random or unknown is refused."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.models import TARGET
from tilewright.errors import ShapeError, UnsupportedOperatorError
from tilewright.frontend.load import load
from tilewright.graph.tasks import Extraction, extract

torch = pytest.importorskip("torch")
nn = torch.nn
functional = torch.nn.functional


class Blocks(nn.Module):  # type: ignore[misc, name-defined]
    """The parts of MobileNetV3 and ResNet: batch norms, squeeze and excitation, a residual, a mean, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Dropout(0.2))
        self.before = nn.BatchNorm2d(16)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        y = self.depthwise(x)
        y = self.project(y * self.squeeze(y))
        return self.head(self.before(x + y).relu())


def blocks() -> Any:
    torch.manual_seed(0)
    net = Blocks()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return net.eval()


class Encoder(nn.Module):  # type: ignore[misc, name-defined]
    """A layer of a BERT, as it was written before PyTorch had attention of its own, with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.wide, self.narrow, self.last = nn.Linear(32, 64), nn.Linear(64, 32), nn.LayerNorm(32)

    def forward(self, x: Any, mask: Any) -> Any:
        def split(x: Any) -> Any:
            return x.view(2, 16, 4, 8).transpose(1, 2)

        x = self.norm(x)
        scores = split(self.query(x)) @ split(self.key(x)).transpose(-1, -2) / 8**0.5
        scores = scores + (1.0 - mask[:, None, None, :].float()) * -1e9
        x = x + self.out((scores.softmax(-1) @ split(self.value(x))).transpose(1, 2).reshape(2, 16, 32))
        return self.last(x + self.narrow(functional.gelu(self.wide(x))))


NETS = {
    "blocks": (blocks, (torch.zeros(1, 3, 32, 32),)),
    "encoder": (lambda: Encoder().eval(), (torch.zeros(2, 16, 32), torch.ones(2, 16))),
}


def kinds(extraction: Extraction) -> Counter[tuple[str, float]]:
    """The tasks by kind and work, with the number of their calls."""
    return Counter({(use.task.kind, use.task.flop): 0 for use in extraction.uses}) + Counter(
        (use.task.kind, use.task.flop) for use in extraction.uses for _ in range(use.weight)
    )


@pytest.mark.parametrize("name", NETS)
def test_the_tasks_are_those_of_the_onnx_file(name: str, tmp_path: Path) -> None:
    make, inputs = NETS[name]
    net, path = make(), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch means to drop this exporter, which needs no other package
        torch.onnx.export(net, inputs, str(path), dynamo=False, opset_version=17)
    ours, theirs = (extract(load(model), TARGET) for model in (torch.export.export(net, inputs), path))
    assert len(ours.uses) == len(theirs.uses)
    assert kinds(ours) == kinds(theirs)
    assert not ours.fallbacks


def test_batch_norms_are_folded() -> None:
    network = load(torch.export.export(blocks(), (torch.zeros(1, 3, 32, 32),)))
    # Of four batch norms one has no convolution before it. It is a product and a sum.
    assert not [name for name in network.weights if "running" in name]
    assert sum(array.ndim == 4 for array in network.weights.values()) == 5
    assert sum(array.shape == (16, 1, 1) for array in network.weights.values()) == 2


class Trained(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def count(self: Any, x: Any) -> Any:
    self.calls.add_(1)
    return x * self.calls


REFUSED = {
    "dropout": (lambda s, x: functional.dropout(x, 0.5, training=True), {}, "dropout.*mode for training.*eval"),
    "batch norm": (lambda s, x: s.norm(x), {"norm": nn.BatchNorm1d(4)}, "batch_norm.*mode for training.*eval"),
    "noise": (lambda s, x: x + torch.rand(3, 4), {}, "rand.*draws random numbers"),
    "state": (count, {"calls": torch.zeros(1)}, "keeps nothing.*'calls'"),
    "values": (lambda s, x: x.nonzero(), {}, "nonzero.*torch.onnx.export"),
    "unknown": (lambda s, x: torch.special.i0(x), {}, r"i0.*\(node '.*'\) has none.*torch.onnx.export"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_operator_and_the_reason(case: str) -> None:
    function, parts, message = REFUSED[case]
    program = torch.export.export(Trained(function, **parts).train(), (torch.randn(3, 4),))
    with pytest.raises((UnsupportedOperatorError, ShapeError), match=message):
        load(program)


def test_an_open_dimension_needs_a_shape() -> None:
    program = torch.export.export(
        nn.Linear(4, 4), (torch.randn(3, 4),), dynamic_shapes={"input": {0: torch.export.Dim("batch", max=8)}}
    )
    with pytest.raises(ShapeError, match=r"'input' is \[.*,4\]; fix it with --shape input=1,4"):
        load(program)
    assert load(program, {"input": (5, 4)}).outputs[0].shape == (5, 4)
