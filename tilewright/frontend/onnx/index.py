"""The file in which the process that reads an ONNX file describes its buckets and inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tilewright.fixed_input import FixedInput
from tilewright.frontend.network import PaddedAxes, Signature
from tilewright.frontend.shapes import Declared, Shapes

__all__ = ["Index", "find_folder", "read_index", "write_index"]

#: The name of the file.
_NAME = "index.json"


@dataclass(frozen=True)
class Index:
    """The buckets of a model, and its inputs.

    Attributes:
        buckets: the shapes of all inputs that are tensors, for each bucket.
        declared: the dimensions of these inputs that the model declares.
        fixed: the other inputs, whose values were fixed.
        paddings: for each bucket, the axes along which smaller inputs may be padded to it.
    """

    buckets: tuple[Shapes, ...]
    declared: Declared
    fixed: tuple[FixedInput, ...] = ()
    paddings: tuple[tuple[PaddedAxes, ...], ...] = field(default=())

    def signature(self, bucket: int) -> Signature:
        """The signature of the network in a bucket, by its number."""
        paddings = self.paddings[bucket] if bucket < len(self.paddings) else ()
        return Signature(dict(self.declared), self.fixed, paddings)


def find_folder(folder: Path, bucket: int) -> Path:
    """The directory of a bucket's files: ``folder`` for the first bucket, a directory in it for each other one."""
    return folder / f"bucket{bucket}" if bucket else folder


def write_index(index: Index, folder: Path) -> None:
    """Write an index into a directory."""
    data = {
        "buckets": [{name: list(shape) for name, shape in shapes.items()} for shapes in index.buckets],
        "declared": {name: None if dims is None else list(dims) for name, dims in index.declared.items()},
        "fixed": [entry.to_json() for entry in index.fixed],
        "paddings": [[[dict(p.inputs), dict(p.outputs)] for p in paddings] for paddings in index.paddings],
    }
    (folder / _NAME).write_text(json.dumps(data), encoding="utf-8")


def read_index(folder: Path) -> Index:
    """The index that :func:`write_index` wrote."""
    data = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    buckets: list[Mapping[str, list[int]]] = data["buckets"]
    declared: Mapping[str, list[int | str] | None] = data["declared"]
    return Index(
        tuple({name: tuple(shape) for name, shape in shapes.items()} for shapes in buckets),
        {name: None if dims is None else tuple(dims) for name, dims in declared.items()},
        tuple(FixedInput.from_json(entry) for entry in data["fixed"]),
        tuple(tuple(PaddedAxes(inputs, outputs) for inputs, outputs in paddings) for paddings in data["paddings"]),
    )
