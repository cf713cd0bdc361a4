"""Gives the symbolic dimensions of a PyTorch program their extents. PyTorch is an extra."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tilewright.errors import ShapeError
from tilewright.frontend.shapes import Dimension, Shapes

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

__all__ = ["bind_program", "is_symbolic", "read_dimensions"]

#: The name of a symbol, as PyTorch makes it: ``s0``.
_SYMBOL = re.compile(r"[su]\d+")


def read_dimensions(program: ExportedProgram) -> dict[str, tuple[Dimension, ...]]:
    """The dimensions of all inputs, by name: extents, and names of symbols; empty for what is computed from symbols."""
    return {name: tuple(map(_read_dimension, tensor.shape)) for name, tensor in _list_inputs(program)}


def _read_dimension(dimension: int | torch.SymInt) -> Dimension:
    if isinstance(dimension, int):
        return dimension
    text = str(dimension.node.expr)
    return text if _SYMBOL.fullmatch(text) else ""


def is_symbolic(program: ExportedProgram) -> bool:
    """Whether a dimension of an input is open."""
    return any(isinstance(dim, str) for dims in read_dimensions(program).values() for dim in dims)


def bind_program(program: ExportedProgram, shapes: Shapes) -> ExportedProgram:
    """The program with fixed shapes: what is exported once more with inputs of these shapes.

    Args:
        program: the program, with symbolic dimensions.
        shapes: the shapes of all inputs, by name.

    Raises:
        ShapeError: the program does not take these shapes.
    """
    import torch
    from torch.utils import _pytree as pytree

    inputs = [torch.zeros(shapes[name], dtype=tensor.dtype) for name, tensor in _list_inputs(program)]
    arguments, named = pytree.tree_unflatten(inputs, program.call_spec.in_spec)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about its own internals
            return torch.export.export(program.module(), tuple(arguments), named, strict=False)
    except Exception as exc:  # guards and operators raise errors of all classes
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        given = " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in shapes.items())
        raise ShapeError(
            f"a shape is one that the program can take, but it cannot take {given}: {line}; give another"
        ) from exc


def _list_inputs(program: ExportedProgram) -> Iterator[tuple[str, torch.Tensor]]:
    """The inputs that are tensors, in order, each with one of its kind."""
    named = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name in program.graph_signature.user_inputs:
        value = named[name].meta.get("val") if isinstance(name, str) and name in named else None
        if value is not None and hasattr(value, "shape"):
            yield name, value
