"""Imports an ONNX graph as a Relax module: with converters of our own, and with TVM's for other operators.

The shape and dtype of every result are compared with those that ONNX infers. An operator is reported if it cannot be
converted, or if its result differs in shape or dtype. Then zeros replace its results, and the import continues. So one
pass finds all such operators.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from tilewright.errors import ResourceError, TilewrightError, UnsupportedOperatorError
from tilewright.executable.plan import SEGMENT_SYMBOL
from tilewright.frontend.onnx.partition import SEGMENT_DOMAIN
from tilewright.frontend.onnx.values import DOMAINS, FixedTensor, find_fixed, read_names
from tilewright.tensor import Array
from tilewright.tvm_compat import light_import, plain_clip
from tilewright.wording import describe_error

if TYPE_CHECKING:
    from tvm import ir, relax

__all__ = ["CONVERTERS", "Converter", "Importing", "Operands", "converter", "import_graph", "segment_symbol"]

#: Converts a node: takes its :class:`Operands`, and returns one expression for each output.
Converter: TypeAlias = "Callable[[Operands], Sequence[relax.Expr]]"

#: Converters of our own, by the domain and the type of the operator.
CONVERTERS: dict[tuple[str, str], Converter] = {}


def converter(kind: str, domain: str = "") -> Callable[[Converter], Converter]:
    """Make the decorated function the converter of an operator."""

    def register(function: Converter) -> Converter:
        CONVERTERS[domain, kind] = function
        return function

    return register


def segment_symbol(number: int) -> str:
    """The name of the external function that stands for a segment in a Relax module."""
    return f"{SEGMENT_SYMBOL}{number}"


@dataclass(frozen=True)
class Operands:
    """A node that is being converted.

    Attributes:
        node: the node.
        builder: emits intermediate results.
        inputs: the expression of each input; None: an optional input that is absent.
        constants: the values of inputs that are constants; None for the others.
        attributes: its attributes as Python values, by name.
        outputs: the shape and element type of each output; None for an output that is not used.
        opset: the version of ONNX's operators.
    """

    node: onnx.NodeProto
    builder: relax.BlockBuilder
    inputs: Sequence[relax.Expr | None]
    constants: Sequence[Array | None]
    attributes: Mapping[str, Any]
    outputs: Sequence[FixedTensor | None]
    opset: int

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind an expression to a variable."""
        return self.builder.emit(expr)


@dataclass
class Importing:
    """A graph that was imported.

    Attributes:
        module: the module; its function ``main`` takes the inputs, then the weights.
        refused: why nodes could not be converted, by their numbers. If there are any, the module is incomplete.
    """

    module: ir.IRModule
    refused: dict[int, str] = field(default_factory=dict)


def import_graph(model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto]) -> Importing:
    """Import a graph whose operators all have tensors of fixed shapes.

    Args:
        model: the model, with all weights in it; nodes ``Segment`` stand for segments.
        types: the types of its tensors by name.
    """
    with light_import():  # a program may load a model before anything else has imported TVM
        from tvm.relax.frontend.onnx import onnx_frontend

    importlib.import_module("tilewright.frontend.onnx.converting")  # registers converters, which import this module
    plain_clip()
    # Our importer is a subclass of TVM's, and TVM is imported only when it is needed.
    kind = type("Importer", (_Conversion, onnx_frontend.ONNXGraphImporter), {})
    # TVM 0.27 treats an extent of 0 as open, unless the caller gives the shape.
    shapes = {v.name: list(fixed.shape) for v in model.graph.input if (fixed := find_fixed(types.get(v.name)))}
    importer = kind(shapes, None, keep_params_in_input=True)
    importer.prepare(model, types, onnx_frontend)
    version = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=1)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TVM warns about each weight that is no input of the graph
            module = importer.from_onnx(model.graph, version)
    except (MemoryError, ResourceError):
        raise
    except Exception as exc:  # an error outside the conversion of a single operator
        import tvm

        why = f"the graph that it is in cannot be imported ({describe_error(exc)})"
        refused = {number: why for number, node in enumerate(model.graph.node) if node.domain != SEGMENT_DOMAIN}
        if not refused:
            raise UnsupportedOperatorError(
                "a model that ONNX Runtime runs as a whole can be imported, but this one cannot: "
                f"{describe_error(exc)}; this is a bug in Tilewright, please report it with the model"
            ) from exc
        return Importing(tvm.ir.IRModule(), refused)
    return Importing(module, importer.refused)


class _Conversion:
    """Overrides the methods of TVM's importer that convert nodes.

    Attributes:
        refused: why nodes could not be converted, by their numbers.
    """

    # Attributes of TVM's importer.
    bb: relax.BlockBuilder
    opset: int
    _nodes: dict[str, relax.Expr]

    def prepare(self, model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto], frontend: Any) -> None:
        """Set the types of tensors, the constants, and TVM's converters, which the conversion needs."""
        self.refused: dict[int, str] = {}
        self._frontend = frontend
        self._types = types
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._operators = frontend._get_convert_map()
        self._read = {name for node in model.graph.node for name in read_names(node)}
        self._read |= {value.name for value in model.graph.output}

    def _parse_graph_initializers(self, graph: onnx.GraphProto) -> None:
        """Make a parameter of each weight, with a new name.

        TVM 0.27 drops a prefix that PyTorch uses, so that two weights may get the same name. It also confuses a weight
        with any variable of the same name.
        """
        importer: Any = self
        for number, tensor in enumerate(graph.initializer):
            array = importer._parse_array(tensor)
            name = f"weight{number}_{tensor.name}"
            self._nodes[tensor.name] = importer._new_var(name, shape=array.shape, dtype=array.dtype)
            importer._params[name] = (self._nodes[tensor.name], array)

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """Do nothing: each node is checked when it is converted."""

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        for number, node in enumerate(graph.node):
            outputs = [find_fixed(self._types.get(name)) if name else None for name in node.output]
            try:
                made = self._convert(node, outputs)
                _check_results(node, made, outputs, self._read)
            except (MemoryError, ResourceError):
                raise
            except Exception as exc:  # the converters of operators raise errors of all classes
                self.refused[number] = _explain(exc)
                made = [self._zeros(fixed) for fixed in outputs]
            for name, expr in zip(node.output, made, strict=False):
                if name:
                    self._nodes[name] = expr

    def _convert(self, node: onnx.NodeProto, outputs: Sequence[FixedTensor | None]) -> list[relax.Expr]:
        if node.domain == SEGMENT_DOMAIN:
            return self._call_segment(node, outputs)
        domain = "" if node.domain in DOMAINS else node.domain
        own = CONVERTERS.get((domain, node.op_type))
        if own is not None:
            inputs = [self._nodes[name] if name else None for name in node.input]
            values = [self._value(name) for name in node.input]
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            given = Operands(node, self.bb, inputs, values, attributes, outputs, self.opset)
            return [self.bb.normalize(expr) for expr in own(given)]
        if domain or node.op_type not in self._operators:
            raise NotImplementedError("no converter serves it")
        return self._convert_by_tvm(node)

    def _convert_by_tvm(self, node: onnx.NodeProto) -> list[relax.Expr]:
        from tvm import relax

        inputs = self._frontend.onnx_input()
        for name in node.input:
            inputs.append(self._nodes[name] if name else None)
        importer: Any = self
        attributes = importer._parse_attr(node.attribute)
        attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
        made = importer._convert_operator(node.op_type, inputs, attributes, self.opset)
        if isinstance(made, relax.Tuple):
            return list(made)
        if isinstance(made.ty, relax.TupleType):
            return [self.bb.emit(relax.TupleGetItem(made, i)) for i in range(len(made.ty.fields))]
        return [made]

    def _call_segment(self, node: onnx.NodeProto, outputs: Sequence[FixedTensor | None]) -> list[relax.Expr]:
        from tvm import relax

        number = next(a.i for a in node.attribute if a.name == "number")
        # The byte of a segment that signals has no inferred type.
        kinds = [relax.TensorType(o.shape, o.dtype) if o else relax.TensorType([1], "uint8") for o in outputs]
        arguments = [self.bb.emit(_as_tensor(self._nodes[name])) for name in node.input]
        call = relax.call_dps_packed(segment_symbol(number), arguments, kinds)
        result = self.bb.emit(call)
        if len(kinds) == 1:
            return [result]
        return [self.bb.emit(relax.TupleGetItem(result, i)) for i in range(len(kinds))]

    def _value(self, name: str) -> Array | None:
        """The array of a constant; None for any other tensor."""
        from tvm import ir, relax

        if not name:
            return None
        if name in self._constants:
            return onnx.numpy_helper.to_array(self._constants[name])
        expr = self._nodes[name]
        if isinstance(expr, ir.GenericConst):
            return np.asarray(expr.value.numpy())
        if isinstance(expr, relax.ShapeExpr):
            return np.asarray([int(d) for d in expr.values], dtype=np.int64)
        return None

    def _zeros(self, fixed: FixedTensor | None) -> relax.Expr:
        from tvm import relax

        found = fixed or FixedTensor((1,), onnx.TensorProto.UINT8)
        return self.bb.emit(relax.op.zeros(found.shape, found.dtype))


def _check_results(
    node: onnx.NodeProto, made: list[relax.Expr], outputs: Sequence[FixedTensor | None], read: Container[str]
) -> None:
    """Raise ``ValueError`` if the shape or dtype of a result differs from the one that ONNX infers.

    Args:
        node: the node that was converted.
        made: its results. A shape among them is replaced by a tensor of its extents.
        outputs: the shapes and element types that ONNX infers.
        read: the names of all tensors that are used. Other results may be missing.
    """
    from tvm import relax

    used = [place for place, name in enumerate(node.output) if name in read]
    if used and len(made) <= used[-1]:
        raise ValueError(f"its converter gives {len(made)} of its {len(node.output)} results")
    for place in used:
        made[place] = _as_tensor(made[place])
        wanted, kind = outputs[place], made[place].ty
        if wanted is None:
            continue
        if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
            raise ValueError(f"its converter does not know the shape of its result {node.output[place]!r}")
        shape = tuple(int(d) for d in kind.shape.values)
        if shape != wanted.shape or str(kind.dtype) != wanted.dtype:
            raise ValueError(
                f"its converter gives {kind.dtype} {list(shape)} instead of {wanted.dtype} {list(wanted.shape)}"
            )


def _as_tensor(expr: relax.Expr) -> relax.Expr:
    """A shape as a constant tensor of its extents; any other expression as it is."""
    from tvm import relax

    if isinstance(expr, relax.ShapeExpr):
        return relax.const(np.asarray([int(d) for d in expr.values], dtype=np.int64))
    return expr


def _explain(exc: Exception) -> str:
    """Why a node is refused, as a text for the report."""
    words = type(exc) is ValueError or isinstance(exc, TilewrightError | NotImplementedError)
    if words and str(exc).strip():  # an error of our converters has a message for users
        return describe_error(exc)
    return f"its converter fails ({describe_error(exc)})"
