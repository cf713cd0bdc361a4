"""Writes the files of an executable other than its library: weights, model, segments, manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tilewright.executable.buffers import ALIGNMENT
from tilewright.executable.manifest import (
    FORMAT,
    FORMAT_WITH_BUCKETS,
    NAME,
    WEIGHTS,
    BucketJson,
    PaddingJson,
    TensorJson,
    seal,
)
from tilewright.executable.narrow import narrow_array
from tilewright.executable.plan import WEIGHTS as REGION
from tilewright.executable.plan import Plan, PlanJson
from tilewright.executable.segment import SegmentJson, data_name, file_name
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.data import save_onnx
from tilewright.frontend.onnx.half import narrow_weights
from tilewright.frontend.shapes import Declared
from tilewright.frontend.torch.model import SUFFIX, write_program
from tilewright.graph.buckets import Extracted
from tilewright.graph.tasks import Extraction
from tilewright.target import Target
from tilewright.tensor import Array, TensorSpec

__all__ = ["MergedWeights", "merge_weights", "seal_manifest", "write_bucket_files", "write_files"]

#: The bytes of a member's head in an archive, without its name and our field: its header, and a field of long sizes.
_MEMBER_BYTES = 30 + 20
#: A field in the head of a member: its number and its size. The number is that of Android's zipalign.
_FIELD, _ALIGNING = struct.Struct("<HH"), 0xD935
#: What the manifest says of calls that belong to no bucket.
_OTHERWISE = "ONNX Runtime runs the whole model for calls of other shapes; this needs the package onnxruntime"


@dataclasses.dataclass(frozen=True)
class MergedWeights:
    """The weights of an executable.

    Attributes:
        arrays: the weights, each once.
        numbers: for each bucket, the numbers of its weights among them.
    """

    arrays: tuple[Array, ...]
    numbers: tuple[tuple[int, ...], ...]


def merge_weights(extraction: Extracted) -> MergedWeights:
    """The weights of all buckets. Buckets share those that are equal."""
    arrays: list[Array] = []
    numbers: list[tuple[int, ...]] = []
    places: dict[tuple[object, ...], int] = {}
    several = len(extraction.parts) > 1
    for part in extraction.parts:
        found = []
        for array in _list_weights(part):
            # A single bucket keeps its weights as they are: hashing them takes time.
            key = (array.dtype.str, array.shape, _hash(array)) if several else (len(arrays),)
            if key not in places:
                places[key] = len(arrays)
                arrays.append(array)
            found.append(places[key])
        numbers.append(tuple(found))
    return MergedWeights(tuple(arrays), tuple(numbers))


def _list_weights(part: Extraction) -> list[Array]:
    weights = {**part.network.weights, **part.rewritten.made}
    made: list[Array] = [recipe.apply(weights) for recipe in part.recipes]
    return made if part.plan is None else [*made, *part.plan.constants]


def _hash(array: Array) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()


def write_files(
    folder: Path,
    network: Network,
    target: Target,
    arrays: Sequence[Array],
    plan: Plan | None,
    extra: Mapping[str, object],
) -> None:
    """Write the files of an executable in a single bucket.

    Args:
        folder: the directory, which holds the library.
        network: the network.
        target: what it was compiled for.
        arrays: its weights.
        plan: the calls of its kernels; None: it runs on the virtual machine of Relax.
        extra: further JSON-able entries of the manifest.
    """
    narrow = _write_weights(folder, arrays)
    segments = _write_segments(network, folder, 0)
    manifest = {
        "format": FORMAT_WITH_BUCKETS if network.signature.fixed else FORMAT,
        **_describe(network, target, network.inputs, network.outputs),
        "model": _keep_model(network, folder),
        "plan": None if plan is None else plan.to_json(),
        **({"narrow": narrow} if narrow else {}),
        **({"segments": segments} if segments else {}),
        **extra,
    }
    seal_manifest(folder, manifest)


def write_bucket_files(
    folder: Path, extraction: Extracted, weights: MergedWeights, plans: Sequence[Plan], extra: Mapping[str, object]
) -> None:
    """Write the files of an executable in several buckets.

    Args:
        folder: the directory, which holds the library.
        extraction: the network.
        weights: of all buckets.
        plans: the calls of each bucket's kernels.
        extra: further JSON-able entries of the manifest.
    """
    narrow = _write_weights(folder, weights.arrays)
    first = extraction.network
    segments: list[SegmentJson] = []
    buckets: list[BucketJson] = []
    for part, plan, numbers in zip(extraction.parts, plans, weights.numbers, strict=True):
        own = _write_segments(part.network, folder, len(segments))
        buckets.append(
            {
                "inputs": _to_json(part.network.inputs),
                "outputs": _to_json(part.network.outputs),
                "plan": _renumber(plan.to_json(), numbers),
                "segments": list(range(len(segments), len(segments) + len(own))),
                "padding": _write_paddings(part.network),
            }
        )
        segments += own
    declared, given = _find_declared(first)
    inputs = _open_specs([part.network.inputs for part in extraction.parts], declared)
    outputs = _open_specs([part.network.outputs for part in extraction.parts], given)
    manifest = {
        "format": FORMAT_WITH_BUCKETS,
        **_describe(first, extraction.target, inputs, outputs),
        "model": _keep_open_model(first, folder),
        "plan": None,
        "buckets": buckets,
        **({"otherwise": _OTHERWISE} if first.onnx is not None else {}),
        **({"narrow": narrow} if narrow else {}),
        **({"segments": segments} if segments else {}),
        **extra,
    }
    seal_manifest(folder, manifest)


def seal_manifest(folder: Path, manifest: Mapping[str, object]) -> None:
    """Write the manifest with the checksums of all files in ``folder``."""
    text = seal(manifest, folder, sorted(file.name for file in folder.iterdir()))
    (folder / NAME).write_text(text, encoding="utf-8")


def _describe(
    network: Network, target: Target, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> dict[str, object]:
    """The entries of a manifest that all executables have."""
    fixed = [entry.to_json() for entry in network.signature.fixed]
    return {
        "name": network.name,
        "inputs": _to_json(inputs),
        "outputs": _to_json(outputs),
        **({"fixed": fixed} if fixed else {}),
        "target": {
            "mcpu": target.mcpu,
            "cores": target.cores,
            "machine": target.machine,
            "key": target.key,
            "features": target.extensions,
            **({"triple": target.triple} if target.triple else {}),
        },
    }


def _to_json(specs: Sequence[TensorSpec]) -> list[TensorJson]:
    return [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in specs]


def _find_declared(network: Network) -> tuple[Declared, Declared]:
    """The dimensions of inputs and outputs, if calls of other shapes are handed on to an ONNX model."""
    if network.onnx is None:
        return {}, {}
    from tilewright.frontend.onnx.shapes import read_declared_outputs

    return network.signature.declared, read_declared_outputs(network.onnx)


def _open_specs(buckets: Sequence[Sequence[TensorSpec]], declared: Declared) -> list[TensorSpec]:
    """Inputs or outputs of all buckets: an extent is open if buckets differ in it.

    Args:
        buckets: the inputs or outputs of each bucket.
        declared: what a model that runs calls of other shapes leaves open; that is open, too.
    """
    made = []
    for specs in zip(*buckets, strict=True):
        first = specs[0]
        shape = [e if all(s.shape[i : i + 1] == (e,) for s in specs) else -1 for i, e in enumerate(first.shape)]
        dimensions = declared.get(first.name) or ()
        if len(dimensions) == len(shape):
            shape = [-1 if isinstance(d, str) or d == 0 else e for d, e in zip(dimensions, shape, strict=True)]
        made.append(TensorSpec(first.name, tuple(shape), first.dtype))
    return made


def _renumber(plan: PlanJson, numbers: Sequence[int]) -> PlanJson:
    """The plan with the numbers of its weights among those of the executable."""
    tensors = [[r, numbers[int(str(p))] if r == REGION else p, s, d] for r, p, s, d in plan["tensors"]]
    return {**plan, "tensors": tensors}


def _write_paddings(network: Network) -> list[PaddingJson]:
    return [{"inputs": dict(p.inputs), "outputs": dict(p.outputs)} for p in network.signature.paddings]


def _write_weights(folder: Path, arrays: Sequence[Array]) -> dict[str, str]:
    """Write the weights. Returns by name how those are kept that are kept in fewer bytes."""
    kept = {f"w{i}": narrow_array(array) for i, array in enumerate(arrays)}
    with zipfile.ZipFile(folder / WEIGHTS, "w", zipfile.ZIP_STORED) as archive:
        for name, (array, _) in kept.items():
            _write_aligned(archive, f"{name}.npy", np.asarray(array, order="C"))
    return {name: kind for name, (_, kind) in kept.items() if kind}


def _write_aligned(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    """Append an array to an archive as ``numpy.savez`` does, but so that its data begin on a cache line.

    So a file that is read as a whole has its arrays where kernels can read them. NumPy makes the header of an array a
    multiple of 64 bytes; what is before that is filled up by a field of the archive that readers pass over, as
    Android's zipalign does.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    assert archive.fp is not None
    before = archive.fp.tell() + len(name) + _MEMBER_BYTES + header.tell()
    filling = -(before + _FIELD.size) % ALIGNMENT
    member = zipfile.ZipInfo(name)
    member.extra = _FIELD.pack(_ALIGNING, filling) + bytes(filling)
    with archive.open(member, "w", force_zip64=True) as file:
        file.write(header.getvalue())
        file.write(array.reshape(-1).view(np.uint8).data)


def _write_segments(network: Network, folder: Path, first: int) -> list[SegmentJson]:
    """Write the models of the parts that ONNX Runtime runs, with numbers from ``first`` on. Returns their entries."""
    entries: list[SegmentJson] = []
    for number, segment in enumerate(network.segments, first):
        save_onnx(narrow_weights(segment.model), folder / file_name(number), data_name(number))
        entries.append(
            {
                "inputs": list(segment.inputs),
                "outputs": list(segment.outputs),
                "given": list(segment.given),
                "returned": list(segment.returned),
                "reasons": list(segment.reasons),
                "operators": list(segment.operators),
                "opset": max((e.version for e in segment.model.opset_import if e.domain in ("", "ai.onnx")), default=0),
            }
        )
    return entries


def _keep_model(network: Network, folder: Path) -> str | None:
    """Write the model that the executable is made from. Returns the name of its file; None if there is no model."""
    if network.onnx is not None:
        save_onnx(network.onnx, folder / "model.onnx")
        return "model.onnx"
    if network.program is not None:
        write_program(network.program, folder / f"model{SUFFIX}")
        return f"model{SUFFIX}"
    return None


def _keep_open_model(network: Network, folder: Path) -> str | None:
    """The same with the dimensions open that the model leaves open."""
    if network.signature.program is not None:
        write_program(network.signature.program, folder / f"model{SUFFIX}")
        return f"model{SUFFIX}"
    if network.onnx is None:
        return _keep_model(network, folder)
    from tilewright.frontend.onnx.shapes import open_shapes

    save_onnx(open_shapes(network.onnx, network.signature.declared), folder / "model.onnx")
    return "model.onnx"
