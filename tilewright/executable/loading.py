"""Loads the program of an executable from its files: one plan, several plans, or TVM's virtual machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

from tilewright.available_memory import available_memory
from tilewright.errors import OutputError
from tilewright.executable.dispatch import Bucket, BucketsProgram, Padding
from tilewright.executable.machine import MachineProgram
from tilewright.executable.manifest import LIBRARY, BucketJson, Manifest, PaddingJson, TensorJson, copy_listed
from tilewright.executable.memory import Arena, Memory
from tilewright.executable.narrow import widen_array
from tilewright.executable.plan import Plan
from tilewright.executable.plan_check import check_plan
from tilewright.executable.program import PlanProgram, Program
from tilewright.executable.routes import Routes, find_routes
from tilewright.executable.runtime.features import check_features, check_platform
from tilewright.executable.runtime.loaded import LoadedLibrary
from tilewright.executable.segment import LoadedSegment, SegmentJson, data_name, file_name, signals
from tilewright.executable.whole import WholeModel
from tilewright.reading import read_arrays
from tilewright.tensor import Array, TensorSpec

__all__ = ["Planned", "load_program", "make_specs", "read_plans"]


@dataclass(frozen=True)
class Planned:
    """A plan that was read and checked.

    Attributes:
        plan: the plan.
        segments: the entries of its segments, in order.
        numbers: their numbers among the executable's segments.
        routes: of its inputs and outputs.
    """

    plan: Plan
    segments: Sequence[SegmentJson]
    numbers: Sequence[int]
    routes: Routes


def load_program(
    folder: Path,
    manifest: Manifest,
    weights: mmap,
    fresh: Path,
    threads: int,
    arena: Arena | None = None,
    instances: int = 1,
) -> Program:
    """The program of an executable.

    Args:
        folder: the executable's directory.
        manifest: its manifest.
        weights: the content of the file of its weights.
        fresh: a directory with a copy of its library. Copies of other files are written there.
        threads: how many threads it uses.
        arena: in which its plans compute; None: it gets its own.
        instances: how many calls may run side by side.

    Raises:
        OSError, ValueError, TypeError, LookupError, AttributeError: the files are not those of an executable.
        TilewrightError: as the parts raise it.
    """
    library, target = fresh / LIBRARY, manifest.get("target", {})
    check_platform(target.get("triple", ""))
    features = target.get("features", [])
    arrays, planned = read_plans(manifest, weights)
    if buckets := manifest.get("buckets"):
        loaded = LoadedLibrary(library)
        check_features(features, loaded.functions)
        loaded.set_threads(threads)
        used = max(entry.plan.used_bytes for entry in planned)
        memory = Memory(arrays, used, arena, instances, weights)
        made = []
        for bucket, entry in zip(buckets, planned, strict=True):
            segments = _load_segments(folder, manifest, entry, fresh, threads)
            routes = entry.routes if entry.segments or not all(entry.routes.planned) else None
            program = PlanProgram(loaded, memory, entry.plan, threads, (), segments, routes)
            _check_instances(program, instances)
            made.append(_make_bucket(bucket, program))
        whole = None
        # The model is optional: users may remove its file from an executable.
        if "otherwise" in manifest and manifest.get("model") and (folder / str(manifest["model"])).is_file():
            whole = WholeModel(folder, manifest, make_specs(manifest["inputs"]), threads)
        return BucketsProgram(made, whole)
    for entry in planned:
        segments = _load_segments(folder, manifest, entry, fresh, threads)
        routes = entry.routes if entry.segments or not all(entry.routes.planned) else None
        memory = Memory(arrays, entry.plan.used_bytes, arena, instances, weights)
        program = PlanProgram(library, memory, entry.plan, threads, features, segments, routes)
        _check_instances(program, instances)
        return program
    check_features(features)
    _check_instances(None, instances)
    return MachineProgram(library, arrays)


def _check_instances(program: PlanProgram | None, instances: int) -> None:
    """Raise ``OutputError`` if calls of a program (None: one of the virtual machine) cannot run side by side."""
    if instances > 1 and (program is None or not program.runs_side_by_side):
        raise OutputError(
            f"calls run side by side in an executable of compiled kernels, but {instances} instances were asked for of "
            "one that ONNX Runtime or TVM's virtual machine runs in part, or that an earlier version wrote; leave out "
            "instances, or tune again"
        )


def read_plans(manifest: Manifest, weights: mmap) -> tuple[list[Array], list[Planned]]:
    """The weights of an executable, and the plan of each bucket; no plan: it runs on the virtual machine of Relax.

    Args:
        manifest: its manifest.
        weights: the content of the file of its weights.

    Raises:
        OSError, ValueError, TypeError, LookupError: the files are not those of an executable.
    """
    arrays = _read_weights(weights, manifest.get("narrow", {}))
    if buckets := manifest.get("buckets"):
        return arrays, [_read_plan(bucket, bucket["segments"], manifest, arrays) for bucket in buckets]
    if not manifest["plan"]:
        return arrays, []
    return arrays, [_read_plan(manifest, range(len(manifest.get("segments", []))), manifest, arrays)]


def make_specs(entries: Sequence[TensorJson]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs that a manifest describes."""
    return tuple(TensorSpec(e["name"], tuple(e["shape"]), e["dtype"]) for e in entries)


def _read_weights(content: mmap, narrow: Mapping[str, str]) -> list[Array]:
    """The arrays ``w0``, ``w1``, ... of an archive. They share its memory.

    Args:
        content: the archive.
        narrow: the type of each array that is stored in fewer bytes, by name. The result has these arrays in float32.

    Raises:
        ValueError, KeyError: it holds other things.
    """
    size, memory = len(content), available_memory()
    # Narrow weights become twice as large. Those that are not aligned are copied.
    needed = 2 * size if narrow else size
    if needed > memory:
        raise ValueError(f"its weights need {needed:,} bytes of memory, but only {memory:,} are free here")
    named = read_arrays(content)
    for name, kind in narrow.items():
        named[name] = widen_array(named[name], kind)
    return [named[f"w{i}"] for i in range(len(named))]


def _read_plan(
    entry: Manifest | BucketJson, numbers: Sequence[int], manifest: Manifest, weights: Sequence[Array]
) -> Planned:
    """The plan of a manifest, or of one of its buckets, checked against its inputs and outputs."""
    found = entry["plan"]
    assert found is not None
    plan = Plan.from_json(found)
    listed = manifest.get("segments", [])
    segments = [listed[number] for number in numbers]
    check_plan(plan, weights, available_memory(), segments)
    inputs, outputs = entry["inputs"], entry["outputs"]
    routes = find_routes(make_specs(inputs), [e["name"] for e in outputs], segments)
    signalled = sum(map(signals, segments))
    taken = [tensor for tensor, planned in zip(inputs, routes.planned, strict=True) if planned]
    given = [tensor for tensor, source in zip(outputs, routes.sources, strict=True) if type(source) is int]
    for tensors, entries in ((plan.inputs, taken), (plan.outputs[: len(plan.outputs) - signalled], given)):
        planned = [(list(plan.tensors[number].shape), plan.tensors[number].dtype) for number in tensors]
        if planned != [(tensor["shape"], tensor["dtype"]) for tensor in entries]:
            raise ValueError("its plan has other inputs or outputs than its manifest")
    return Planned(plan, segments, tuple(numbers), routes)


def _load_segments(
    folder: Path, manifest: Manifest, planned: Planned, fresh: Path, threads: int
) -> list[LoadedSegment]:
    """Load the segments of a plan. Copies of their files are written to ``fresh``."""
    found = []
    for number, entry in zip(planned.numbers, planned.segments, strict=True):
        for name in (file_name(number), data_name(number)):
            if name in manifest["sha256"]:
                copy_listed(folder, manifest, name, fresh / name)
        alone = not planned.plan.kernels
        found.append(LoadedSegment(fresh / file_name(number), entry, threads, alone))
    return found


def _make_bucket(entry: BucketJson, program: Program) -> Bucket:
    inputs, outputs = make_specs(entry["inputs"]), make_specs(entry["outputs"])
    return Bucket(inputs, outputs, program, tuple(_make_padding(p, inputs, outputs) for p in entry["padding"]))


def _make_padding(entry: PaddingJson, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Padding:
    return Padding(_find_axes(entry["inputs"], inputs), _find_axes(entry["outputs"], outputs))


def _find_axes(axes: Mapping[str, int], specs: Sequence[TensorSpec]) -> tuple[tuple[int, int], ...]:
    """Places of tensors with their axes. Raises ``ValueError`` if there is no such tensor or axis."""
    places = {spec.name: place for place, spec in enumerate(specs)}
    if not all(name in places and axis < len(specs[places[name]].shape) for name, axis in axes.items()):
        raise ValueError("a padding names an axis that does not exist")
    return tuple((places[name], axis) for name, axis in axes.items())
