"""Finds integers that a network accepts as inputs: token ids within a table, divisors other than 0, masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilewright.errors import MeasureError
from tilewright.frontend.network import Network
from tilewright.tensor import Array, TensorSpec, random_texts
from tilewright.verify.reference import NoReferenceError, Reference

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

__all__ = ["Range", "draw_integers", "find_ranges"]

#: Ranges to try, the widest first, if the graph does not say which integers it accepts.
_WIDEST = ((-1000, 1000), (0, 1000), (-100, 100), (0, 100), (-8, 8), (0, 8), (1, 8), (-1, 0), (0, 1), (0, 0), (1, 1))
#: ONNX operators that pass integers on unchanged.
_THROUGH = "Cast Identity Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Slice Concat Split Gather Dropout"


@dataclass(frozen=True)
class Range:
    """The integers that are drawn for an input.

    Attributes:
        low, high: the least and the greatest integer.
        fixed: True: the graph says so; False: the reference accepted these integers when they were tried.
    """

    low: int
    high: int
    fixed: bool = False


def draw_integers(spec: TensorSpec, bounds: Range, rng: np.random.Generator, narrow: bool) -> Array:
    """Draw integers or booleans for an input.

    Args:
        spec: the input.
        bounds: the integers that it accepts.
        rng: the source of chance.
        narrow: draw 0 and 1 only, as masks have them, unless the graph fixes the range.
    """
    if spec.kind == "b":
        return rng.integers(0, 2, spec.shape).astype(spec.dtype)
    low, high = bounds.low, bounds.high
    if narrow and not bounds.fixed and low <= 0 and high >= 1:
        low, high = 0, 1
    return np.asarray(rng.integers(low, high, spec.shape, endpoint=True)).astype(spec.dtype)


def find_ranges(network: Network, reference: Reference, seed: int) -> list[Range | None]:
    """The integers that each input accepts; None for floating-point inputs.

    The sizes of tables and the depths of one-hot codes are read from the graph. All other ranges are tried on the
    reference.

    Args:
        network: the network.
        reference: refuses inputs with other integers.
        seed: the seed of the inputs that are tried.

    Raises:
        NoReferenceError: there is no reference, or it died.
    """
    hints = _hints(network)
    free = [i for i, spec in enumerate(network.inputs) if spec.kind in ("i", "u", "b")]
    if not free:
        return [None] * len(network.inputs)
    levels = [_levels(spec, hints.get(spec.name)) if i in free else [] for i, spec in enumerate(network.inputs)]

    def select(places: Sequence[int]) -> list[Range | None]:
        return [row[min(place, len(row) - 1)] if row else None for row, place in zip(levels, places, strict=True)]

    def accepts(places: Sequence[int]) -> bool:
        try:
            reference.outputs(_draw_probe(network, select(places), seed))
        except NoReferenceError:
            raise
        except MeasureError:
            return False
        return True

    count = len(network.inputs)
    deepest = max(map(len, levels))
    level = next((n for n in range(deepest) if accepts([n] * count)), deepest - 1)
    places = [level] * count
    for i in free if len(free) > 1 and level else []:  # one input alone may have needed the narrow range
        for wider in range(min(level, len(levels[i]))):
            if accepts([wider if j == i else place for j, place in enumerate(places)]):
                places[i] = wider
                break
    return select(places)


def _draw_probe(network: Network, ranges: Sequence[Range | None], seed: int) -> list[Array]:
    """Inputs that hold both ends of their ranges, since the ends are what a network refuses."""
    rng = np.random.default_rng([seed, 1 << 20])
    arrays: list[Array] = []
    for spec, bounds in zip(network.inputs, ranges, strict=True):
        if bounds is None:
            numbers = spec.kind == "f"
            arrays.append(
                rng.standard_normal(spec.shape).astype(spec.dtype) if numbers else random_texts(spec.shape, rng)
            )
            continue
        array = draw_integers(spec, bounds, rng, narrow=False)
        if array.size > 1 and array.dtype.kind != "b":
            array.reshape(-1)[:2] = np.asarray([bounds.low, bounds.high])
        arrays.append(array)
    return arrays


def _levels(spec: TensorSpec, hint: tuple[int, int] | None) -> list[Range]:
    """The ranges to try for an input, the best first.

    Args:
        spec: the input.
        hint: the least and the greatest integer according to the graph; None where it does not say.
    """
    kind = np.dtype(spec.dtype)
    if kind.kind == "b":
        return [Range(0, 1, True)]
    info = np.iinfo(kind)
    found = []
    if hint is not None:
        low, high = max(hint[0], int(info.min)), min(hint[1], int(info.max))
        found += [Range(low, high, True), Range(0, high, True)]
    elif "mask" in spec.name.lower():
        found.append(Range(0, 1, True))
    if kind.itemsize == 1:
        found.append(Range(int(info.min), int(info.max)))
    found += [Range(low, high) for low, high in _WIDEST if low >= info.min and high <= info.max]
    return found


def _hints(network: Network) -> dict[str, tuple[int, int]]:
    """The ranges of inputs that are indices into tables, by name: the integers that all of their tables accept."""
    if network.program is not None:
        return _embeddings(network, network.program)
    if network.onnx is None:
        return {}
    graph = network.onnx.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.name not in shapes and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    scalars = _scalars(graph)
    found: dict[str, tuple[int, int]] = {}
    for spec in network.inputs:
        if spec.kind not in ("i", "u"):
            continue
        names, extents = {spec.name}, []
        for node in graph.node:
            if node.op_type == "Gather" and node.input[1] in names and node.input[0] in shapes:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                shape = shapes[node.input[0]]
                extents += [shape[axis]] if -len(shape) <= axis < len(shape) else []
            elif node.op_type == "OneHot" and node.input[0] in names and node.input[1] in scalars:
                extents.append(scalars[node.input[1]])
            elif node.op_type in _THROUGH.split() and node.input and node.input[0] in names:
                names.update(node.output)
        if extents and min(extents) > 0:
            found[spec.name] = (-min(extents), min(extents) - 1)
    return found


def _embeddings(network: Network, program: ExportedProgram) -> dict[str, tuple[int, int]]:
    """The same for a PyTorch program, for inputs that are themselves the indices into an embedding."""
    given = dict(zip(program.graph_signature.user_inputs, network.inputs, strict=False))
    found: dict[str, tuple[int, int]] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target).startswith("aten.embedding") and node.args[1].name in given:
            name, rows = given[node.args[1].name].name, int(node.args[0].meta["val"].shape[0])
            found[name] = (0, min(rows - 1, found.get(name, (0, rows - 1))[1]))
    return found


def _scalars(graph: onnx.GraphProto) -> dict[str, int]:
    """The constants of one element by name, as integers."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    found = {}
    for name, tensor in tensors.items():
        if len(tensor.dims) <= 1 and int(np.prod(tensor.dims)) == 1:
            value = numpy_helper.to_array(tensor).reshape(-1)[0]
            if value.dtype.kind in "iuf" and np.isfinite(value):
                found[name] = int(value)
    return found
