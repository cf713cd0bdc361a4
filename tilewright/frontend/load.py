"""Reads a model (ONNX file, PyTorch program, Relax module) into a ``Network``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilewright.errors import ModelFormatError, ShapeError, UnsupportedOperatorError
from tilewright.frontend.file_kinds import check_kind, is_program
from tilewright.frontend.network import Network, Signature
from tilewright.frontend.onnx.folding import MISSING_KERNEL
from tilewright.frontend.onnx.partition import divide
from tilewright.frontend.onnx.reading import OnnxReading
from tilewright.frontend.onnx.values import describe_end
from tilewright.frontend.proposals import find_buckets
from tilewright.frontend.shapes import ShapeRequest, Shapes, make_request
from tilewright.frontend.torch.model import read_program
from tilewright.measure.memory import memory_error
from tilewright.names import printable
from tilewright.tensor import Array, TensorSpec
from tilewright.tvm_compat import set_threads

if TYPE_CHECKING:
    import onnx
    from torch import fx
    from torch.export import ExportedProgram
    from tvm import ir, relax

    from tilewright.frontend.torch.part import Layout

__all__ = ["load", "load_buckets", "load_part", "read_model"]


def load(
    model: str | Path | OnnxReading | ir.IRModule | ExportedProgram,
    shapes: ShapeRequest | Shapes | Sequence[Shapes] | None = None,
) -> Network:
    """Read a model into a network of a single bucket.

    Args:
        model: what :func:`load_buckets` takes.
        shapes: the shapes of inputs with open dimensions, by name; or what else is asked of the inputs.

    Raises:
        ModelFormatError: there is no such file, or it is no model.
        ShapeError: an input has a symbolic shape, or the shapes do not fit, or they make several buckets.
        UnsupportedOperatorError: TVM cannot import an operator.
        ResourceError: the model does not fit the memory, or its temporary files do not fit the disk.
    """
    networks = load_buckets(model, shapes)
    if len(networks) > 1:
        raise ShapeError(
            f"a network has one shape of each input here, but {len(networks)} were given; give one of them only"
        )
    return networks[0]


def load_buckets(
    model: str | Path | OnnxReading | ir.IRModule | ExportedProgram,
    shapes: ShapeRequest | Shapes | Sequence[Shapes] | None = None,
) -> tuple[Network, ...]:
    """Read a model: a network for each bucket.

    Args:
        model: one of

            - the path of an ONNX file, or of a ``.pt2`` file of ``torch.export.save`` (extra ``torch``);
            - an ONNX file that another process is reading already (``OnnxReading``);
            - a Relax ``IRModule`` whose function ``main`` has fixed shapes;
            - a ``torch.export.ExportedProgram``.
        shapes: the shapes of inputs with open dimensions, by name; of a sequence, each entry is a bucket.

    Raises:
        ModelFormatError: there is no such file, or it is no model.
        ShapeError: an input has a symbolic shape, or the shapes do not fit.
        UnsupportedOperatorError: TVM cannot import an operator.
        ResourceError: the model does not fit the memory, or its temporary files do not fit the disk.
    """
    set_threads()
    request = make_request(shapes)
    if isinstance(model, str | Path):
        path = Path(model)
        if path.is_dir():
            raise ModelFormatError(f"a model is a file, but {path} is a directory; name the .onnx file")
        if path.exists():
            check_kind(path)
        if not is_program(path):
            with OnnxReading(path, dataclasses.replace(request, samples=())) as reading:
                return _from_onnx(reading)
        return _from_program(read_program(path), printable(path.stem), request)
    if isinstance(model, OnnxReading):
        return _from_onnx(model)
    import tvm

    if isinstance(model, tvm.ir.IRModule):
        return (_from_relax(model, "relax"),)
    if type(model).__name__ == "ExportedProgram":
        return _from_program(model, "torch", request)
    raise ModelFormatError(
        f"a model is an ONNX file, a Relax module or a PyTorch ExportedProgram, but this is a {type(model).__name__}"
    )


def _from_onnx(reading: OnnxReading) -> tuple[Network, ...]:
    read = reading.results()
    name = printable(reading.path.stem)
    return tuple(
        dataclasses.replace(read_model(name, filled, folded, {}), signature=read.index.signature(number))
        for number, (filled, folded) in enumerate(read.models)
    )


def read_model(name: str, model: onnx.ModelProto, folded: onnx.ModelProto, foreign: Mapping[int, str]) -> Network:
    """Read an ONNX model. What cannot be compiled is left to segments, which ONNX Runtime runs.

    Args:
        name: the network's name.
        model: the model with fixed input shapes, by which outputs are judged.
        folded: the same model, prepared for the importer.
        foreign: why nodes of ``folded`` are left to segments, by their numbers; others are found here.

    Raises:
        ResourceError: memory is missing.
        UnsupportedOperatorError: it cannot be imported, not even in parts, which is a bug of ours; or ONNX Runtime
            lacks a kernel for a part that needs it.
    """
    from tilewright.frontend.onnx.importer import import_graph

    reasons = dict(foreign)
    try:
        while True:
            partition = divide(folded, reasons)
            made = import_graph(partition.compiled, partition.types)
            if not made.refused:
                break
            refused = {partition.order[number]: why for number, why in made.refused.items()}
            if not refused.keys().isdisjoint({-1, *reasons}):
                raise UnsupportedOperatorError(f"{name} cannot be imported: {next(iter(refused.values()))}")
            reasons |= refused
    except MemoryError as exc:
        raise memory_error(f"importing {name}") from exc
    missing = next((entry.value for entry in folded.metadata_props if entry.key == MISSING_KERNEL), "")
    if missing and partition.segments:
        why = next((reason for segment in partition.segments for reason in segment.reasons), "")
        raise UnsupportedOperatorError(f"{missing}; besides, a part cannot be compiled: {why}")
    compiled = partition.compiled.graph
    network = _from_relax(made.module, name, [v.name for v in compiled.input], [v.name for v in compiled.output])
    weights = {tensor.name for tensor in folded.graph.initializer}
    inputs = tuple(describe_end(value.name, value.type) for value in folded.graph.input if value.name not in weights)
    types = partition.types
    outputs = tuple(describe_end(value.name, types.get(value.name, value.type)) for value in folded.graph.output)
    return dataclasses.replace(network, inputs=inputs, outputs=outputs, onnx=model, partition=partition, folded=folded)


def _from_program(program: ExportedProgram, name: str, request: ShapeRequest) -> tuple[Network, ...]:
    """The networks of a PyTorch program, whose dimensions may be symbolic."""
    from tilewright.frontend.torch.shapes import bind_program, is_symbolic, read_dimensions

    if request.values:
        raise ShapeError("--fix is for ONNX files, but this is a PyTorch program; export it with that value")
    if not is_symbolic(program):
        if request:
            raise ShapeError(
                f"--shape is for models with open dimensions, but {name} is a PyTorch program with fixed shapes; leave "
                "--shape out, or export it with torch.export.Dim"
            )
        return (_from_torch(program, name),)
    declared = read_dimensions(program)
    buckets = find_buckets(declared, request, lambda shapes: _takes(program, shapes))
    signature = Signature(declared, program=program)
    return tuple(
        dataclasses.replace(_from_torch(bind_program(program, shapes), name), signature=signature) for shapes in buckets
    )


def _takes(program: ExportedProgram, shapes: Shapes) -> bool:
    from tilewright.frontend.torch.shapes import bind_program

    try:
        bind_program(program, shapes)
    except ShapeError:
        return False
    return True


def _from_torch(program: ExportedProgram, name: str) -> Network:
    from tilewright.frontend.torch.program import import_program

    made = import_program(program, name)
    return dataclasses.replace(_describe(made.module, name, made.weights), program=program)


def load_part(name: str, module: fx.GraphModule, inputs: Sequence[Layout], outputs: Sequence[Layout]) -> Network:
    """The network of a part of a training step, which computes on PyTorch's memory.

    Args:
        name: of the network.
        module: takes tensors, its weights too, and gives a tuple of tensors.
        inputs: dense layouts of what it takes.
        outputs: dense layouts of what it gives.

    Raises:
        UnsupportedOperatorError: an operator cannot be imported.
    """
    from tilewright.frontend.torch.part import import_part

    set_threads()
    part = import_part(module, inputs, outputs)
    network = _describe(part.imported.module, name, part.imported.weights)
    return dataclasses.replace(network, in_place=True, varying=part.varying)


def _from_relax(
    module: ir.IRModule, name: str, inputs: Sequence[str] | None = None, outputs: Sequence[str] = ()
) -> Network:
    """The network of a Relax module.

    Args:
        module: the module.
        name: the network's name.
        inputs: the names of its inputs; None: the names of the parameters of ``main``.
        outputs: the names of its outputs; further outputs are called ``output0``, ``output1``, ...
    """
    from tvm import relax

    if "main" not in [v.name_hint for v in module.get_global_vars()]:
        raise ModelFormatError("a Relax module has a function 'main', but this has none; rename the entry function")
    module, arrays = relax.frontend.detach_params(module)
    values = [np.asarray(a.numpy()) for a in arrays.get("main", [])]
    return _describe(module, name, values, inputs, outputs)


def _describe(
    module: ir.IRModule,
    name: str,
    values: Sequence[Array],
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] = (),
) -> Network:
    """The network of a module whose last parameters are the weights ``values``. Other arguments as above."""
    from tvm import relax

    main = module["main"]
    count = len(main.params) - len(values)
    specs = [_spec(p.name, p.ty) for p in main.params]
    taken = [TensorSpec(inputs[i] if inputs else s.name, s.shape, s.dtype) for i, s in enumerate(specs[:count])]
    result = main.body.ty
    fields = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    given = [_spec(outputs[i] if i < len(outputs) else f"output{i}", field) for i, field in enumerate(fields)]
    weights = {spec.name: value for spec, value in zip(specs[count:], values, strict=True)}
    return Network(name, module, tuple(taken), tuple(given), weights)


def _spec(name: str, info: relax.TensorType) -> TensorSpec:
    try:
        return TensorSpec(name, tuple(int(d) for d in info.shape.values), str(info.dtype))
    except (TypeError, ValueError, AttributeError) as exc:
        raise ShapeError(
            f"every tensor has a fixed shape, but {name!r} has {info}; export it with fixed shapes"
        ) from exc
