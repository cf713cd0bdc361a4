"""Imports the graph of a PyTorch program as a Relax module: with converters of our own first, otherwise with TVM's.

Every result is compared with what PyTorch says of it.
"""

from __future__ import annotations

import importlib
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError, UnsupportedOperatorError
from tilewright.frontend.torch.converters.operands import CONVERTERS, Operands, Results, dtype_of, to_array
from tilewright.frontend.torch.graph import TorchGraph, describe, name_of, shape_of
from tilewright.tensor import Array

if TYPE_CHECKING:
    from torch import fx
    from tvm import ir, relax

__all__ = ["Imported", "import_graph"]

#: The modules that hold converters.
_FAMILIES = ("elementwise", "gradients", "indexing", "layers", "pooling", "recurrent", "reductions", "shapes")
#: What to do about an operator that cannot be imported.
_REMEDY = "export the model as an ONNX file with torch.onnx.export: there, ONNX Runtime runs what cannot be compiled"


@dataclass(frozen=True)
class Imported:
    """A graph that was imported.

    Attributes:
        module: its function ``main`` takes the inputs, then the weights, and returns a tuple.
        weights: the array of each weight, in the order of the parameters.
    """

    module: ir.IRModule
    weights: list[Array]


def import_graph(graph: TorchGraph) -> Imported:
    """Import a graph.

    Raises:
        UnsupportedOperatorError: an operator has no converter, or its converter gives something else than PyTorch.
    """
    from tvm import relax

    for family in _FAMILIES:
        importlib.import_module(f"tilewright.frontend.torch.converters.{family}")
    theirs = _Theirs(graph)
    missing = [node for node in graph.calls if not _is_known(node, theirs)]
    if missing:
        kinds = list(dict.fromkeys(map(name_of, missing)))
        others = f", and neither has {', '.join(kinds[1:4])}" if len(kinds) > 1 else ""
        raise UnsupportedOperatorError(
            f"every operator of a PyTorch program has a converter, but {describe(missing[0])} has none{others}; "
            f"{_REMEDY}"
        )
    weights = [node for node in graph.graph.nodes if node in graph.weights]
    values: dict[fx.Node, Results] = {node: _variable(node) for node in (*graph.inputs, *weights)}
    builder = relax.BlockBuilder()
    theirs.begin(builder, values)
    with builder.function("main", [values[node] for node in (*graph.inputs, *weights)]):
        with builder.dataflow():
            for node in graph.calls:
                operands = Operands(node, builder, values, graph.weights)
                values[node] = _convert(operands, theirs)
            results = [values[node] for node in _results(graph)]
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    return Imported(builder.get(), [to_array(graph.weights[node]) for node in weights])


def _variable(node: fx.Node) -> relax.Var:
    from tvm import relax

    return relax.Var(node.name, relax.TensorType(list(shape_of(node)), dtype_of(node.meta["val"].dtype)))


def _results(graph: TorchGraph) -> Sequence[fx.Node]:
    results = graph.output.args[0]
    for result in results:
        if not hasattr(result, "meta"):
            raise UnsupportedOperatorError(
                f"every output of a model is a tensor, but one is {result!r:.80}; export the model without it"
            )
    given: Sequence[fx.Node] = results
    return given


def _is_known(node: fx.Node, theirs: _Theirs) -> bool:
    name = name_of(node).removeprefix("aten.")
    return name in CONVERTERS or node.target is operator.getitem or theirs.has(node)


def _convert(operands: Operands, theirs: _Theirs) -> Results:
    node = operands.node
    own = CONVERTERS.get(name_of(node).removeprefix("aten."))
    try:
        _check_shapes(node)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch deprecates functions that TVM's importer calls
            if own is not None:
                made = own(operands)
            elif node.target is operator.getitem:
                made = _get_item(operands)
            else:
                made = theirs.convert(node)
        made = _normalise(operands, made)
        _compare(node, made)
    except (TilewrightError, MemoryError):
        raise
    except Exception as exc:  # the converters of operators raise errors of all classes
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:160]
        raise UnsupportedOperatorError(
            f"every operator of a PyTorch program can be imported, but {describe(node)} cannot: {line}; {_REMEDY}"
        ) from exc
    return made


def _normalise(operands: Operands, made: Results) -> Results:
    """The results with their types known."""
    if isinstance(made, Sequence):
        return [None if item is None else operands.builder.normalize(item) for item in made]
    return operands.builder.normalize(made)


def _get_item(operands: Operands) -> relax.Expr:
    """One of several results."""
    from tvm import relax

    source, place = operands.node.args
    whole = operands.values[source]
    if not isinstance(whole, Sequence):
        return operands.emit(relax.TupleGetItem(whole, place))
    if whole[place] is None:
        raise ValueError(f"its converter does not compute result {place} of {describe(source)}")
    return whole[place]


def _check_shapes(node: fx.Node) -> None:
    """Raise ``ValueError`` if the shape of a result is not fixed."""
    said = node.meta.get("val")
    for value in said if isinstance(said, tuple | list) else [said]:
        if not all(isinstance(extent, int) for extent in getattr(value, "shape", ())):
            raise ValueError("the values of a tensor decide the shape of its result")


def _compare(node: fx.Node, made: Results) -> None:
    """Raise ``ValueError`` if a result is not what PyTorch says of it."""
    from tvm import relax

    said = node.meta["val"]
    if isinstance(made, Sequence):
        pairs = [(each, value) for each, value in zip(made, said, strict=True) if each is not None]
    elif isinstance(made.ty, relax.TupleType):
        return
    else:
        pairs = [(made, said)]
    for expr, value in pairs:
        kind = expr.ty
        if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
            raise ValueError("its converter does not know the shape of its result")
        found = (str(kind.dtype), [int(d) for d in kind.shape.values])
        wanted = (dtype_of(value.dtype), [int(d) for d in value.shape])
        if found != wanted:
            raise ValueError(f"its converter gives {found[0]} {found[1]} instead of {wanted[0]} {wanted[1]}")


class _Theirs:
    """TVM's converters.

    Args:
        graph: the graph that is imported.
    """

    def __init__(self, graph: TorchGraph) -> None:
        from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

        self._importer = ExportedProgramImporter()
        self._map: Mapping[str, Callable[[fx.Node], relax.Expr]] = self._importer.convert_map

    def begin(self, builder: relax.BlockBuilder, values: dict[fx.Node, Results]) -> None:
        """Let converters emit to ``builder``, and look ``values`` up."""
        self._importer.block_builder, self._importer.env = builder, values

    def has(self, node: fx.Node) -> bool:
        """Whether there is a converter for the operator of a node."""
        return getattr(node.target, "__name__", "") in self._map

    def convert(self, node: fx.Node) -> relax.Expr:
        """The expression of a node."""
        return self._map[node.target.__name__](node)
