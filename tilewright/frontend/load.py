"""Reads a model (ONNX file, PyTorch program, Relax module) into a ``Network``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilewright.errors import ModelFormatError, ShapeError, UnsupportedOperatorError
from tilewright.frontend.file_kinds import check_kind, is_program
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.model import MISSING_KERNEL
from tilewright.frontend.onnx.partition import divide
from tilewright.frontend.onnx.reading import OnnxReading
from tilewright.frontend.onnx.values import describe_end
from tilewright.frontend.torch.model import read_program
from tilewright.measure.memory import memory_error
from tilewright.names import printable
from tilewright.tensor import Array, TensorSpec
from tilewright.tvm_compat import set_threads

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram
    from tvm import ir, relax

__all__ = ["load", "read_model"]


def load(
    model: str | Path | OnnxReading | ir.IRModule | ExportedProgram, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Network:
    """Read a network.

    Args:
        model: one of

            - the path of an ONNX file, or of a ``.pt2`` file of ``torch.export.save`` (extra ``torch``);
            - an ONNX file that another process is reading already (``OnnxReading``);
            - a Relax ``IRModule`` whose function ``main`` has fixed shapes;
            - a ``torch.export.ExportedProgram``.
        shapes: the shapes of ONNX inputs with symbolic dimensions, by name.

    Raises:
        ModelFormatError: there is no such file, or it is no model.
        ShapeError: an input has a symbolic shape.
        UnsupportedOperatorError: TVM cannot import an operator.
        ResourceError: the model does not fit the memory, or its temporary files do not fit the disk.
    """
    set_threads()
    if isinstance(model, str | Path):
        path = Path(model)
        if path.is_dir():
            raise ModelFormatError(f"a model is a file, but {path} is a directory; name the .onnx file")
        if path.exists():
            check_kind(path)
        if not is_program(path):
            with OnnxReading(path, shapes or {}) as reading:
                return _from_onnx(reading)
        if shapes:
            raise ShapeError(f"--shape is for ONNX files, but {path} is a PyTorch program; export it with fixed shapes")
        return _from_torch(read_program(path), printable(path.stem))
    if isinstance(model, OnnxReading):
        return _from_onnx(model)
    import tvm

    if isinstance(model, tvm.ir.IRModule):
        return _from_relax(model, "relax")
    if type(model).__name__ == "ExportedProgram":
        return _from_torch(model, "torch")
    raise ModelFormatError(
        f"a model is an ONNX file, a Relax module or a PyTorch ExportedProgram, but this is a {type(model).__name__}"
    )


def _from_onnx(reading: OnnxReading) -> Network:
    filled, folded = reading.result()
    return read_model(printable(reading.path.stem), filled, folded, {})


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


def _from_torch(program: ExportedProgram, name: str) -> Network:
    from tilewright.frontend.torch.program import import_program

    made = import_program(program, name)
    return dataclasses.replace(_describe(made.module, name, made.weights), program=program)


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
