"""What a converter of an ATen operator is given, and the table of converters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tilewright.frontend.torch.graph import shape_of
from tilewright.tensor import Array

if TYPE_CHECKING:
    import torch
    from torch import fx
    from tvm import relax

__all__ = ["CONVERTERS", "Converter", "Operands", "Results", "converter", "dtype_of", "to_array"]

#: What an operator gives: an expression, or one for each result; None: a result that the converter does not compute.
Results: TypeAlias = "relax.Expr | Sequence[relax.Expr | None]"
#: Converts a call of an operator.
Converter: TypeAlias = "Callable[[Operands], Results]"

#: The converters by the names of the operators, such as ``add.Tensor``.
CONVERTERS: dict[str, Converter] = {}


def converter(*names: str) -> Callable[[Converter], Converter]:
    """Make the decorated function the converter of operators.

    Args:
        names: the names of ATen's operators, with the overload.
    """

    def register(function: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(names, function))
        return function

    return register


def dtype_of(dtype: torch.dtype) -> str:
    """TVM's name of a dtype of PyTorch."""
    return str(dtype).removeprefix("torch.")


def to_array(tensor: torch.Tensor) -> Array:
    """The elements of a tensor, contiguous, in an array of the same dtype."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.contiguous().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return np.asarray(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())


@dataclass(frozen=True)
class Operands:
    """A call that is being converted. Arguments have the names of the operator's schema.

    Attributes:
        node: the call.
        builder: emits intermediate results.
        values: the expressions of the nodes before this one.
        weights: the tensors of nodes that are constants.
    """

    node: fx.Node
    builder: relax.BlockBuilder
    values: Mapping[fx.Node, Results]
    weights: Mapping[fx.Node, torch.Tensor]

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """Bind an expression to a variable."""
        return self.builder.emit(expr)

    # The arguments

    def given(self, name: str | int) -> object:
        """An argument as the graph has it, by its name or place; its default if it is not given."""
        arguments = self.node.target._schema.arguments
        place = name if isinstance(name, int) else next(i for i, a in enumerate(arguments) if a.name == name)
        if place < len(self.node.args):
            return self.node.args[place]
        argument = arguments[place]
        return self.node.kwargs.get(argument.name, argument.default_value)

    def expr(self, name: str | int) -> relax.Expr:
        """The expression of an argument that is a tensor."""
        return self._look_up(self.given(name))

    def optional(self, name: str | int) -> relax.Expr | None:
        """The expression of an argument that may be absent."""
        given = self.given(name)
        return None if given is None else self._look_up(given)

    def exprs(self, name: str | int) -> list[relax.Expr | None]:
        """The expressions of an argument that is a list of tensors."""
        return [None if item is None else self._look_up(item) for item in self.nodes(name)]

    def nodes(self, name: str | int) -> list[fx.Node | None]:
        """The nodes of an argument that is a list of tensors."""
        given = self.given(name)
        assert isinstance(given, Sequence)
        return list(given)

    def constant(self, name: str | int) -> Array | None:
        """The elements of an argument that is a constant; None for any other."""
        node = self.given(name)
        return to_array(self.weights[node]) if node in self.weights else None

    def number(self, name: str | int) -> float:
        """An argument that is a number."""
        given = self.given(name)
        if not isinstance(given, bool | int | float):
            raise ValueError(f"its argument {name!r} is no number that is known before the network runs")
        return given

    def integer(self, name: str | int) -> int:
        """An argument that is an integer."""
        return int(self.number(name))

    def integers(self, name: str | int, count: int = 0) -> list[int]:
        """An argument that is a list of integers; one integer stands for ``count`` of them."""
        given = self.given(name)
        if isinstance(given, int):
            return [given] * max(1, count)
        assert isinstance(given, Sequence)
        if not all(isinstance(item, int) for item in given):
            raise ValueError(f"its argument {name!r} is not known before the network runs")
        items = [int(item) for item in given]
        return items * count if len(items) == 1 and count > 1 else items

    def axis(self, name: str | int, rank: int) -> int:
        """An argument that is a dimension of a tensor of ``rank`` dimensions, from 0 up."""
        return self.integer(name) % max(1, rank)

    def shape(self, name: str | int) -> tuple[int, ...]:
        """The shape of an argument that is a tensor."""
        return shape_of(self.given(name))

    def dtype(self, name: str | int) -> str:
        """The dtype of an argument that is a tensor."""
        node: fx.Node = self.given(name)
        return dtype_of(node.meta["val"].dtype)

    # The results

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the only result."""
        return shape_of(self.node)

    @property
    def out_dtype(self) -> str:
        """The dtype of the only result."""
        return dtype_of(self.node.meta["val"].dtype)

    def reads(self, place: int) -> bool:
        """Whether another node reads the result at ``place`` of several."""
        return any(user.args[1] == place for user in self.node.users)

    # Expressions

    def cast(self, expr: relax.Expr, dtype: str) -> relax.Expr:
        """An expression in another dtype. Numbers become truth values by being different from 0."""
        from tvm import relax

        if str(expr.ty.dtype) == dtype:
            return expr
        if dtype == "bool":
            return self.emit(relax.op.not_equal(expr, relax.const(0, str(expr.ty.dtype))))
        return self.emit(relax.op.astype(expr, dtype))

    def operand(self, name: str | int, dtype: str) -> relax.Expr:
        """An argument that is a tensor or a number, in a dtype."""
        from tvm import relax

        given = self.given(name)
        if isinstance(given, bool | int | float):
            return relax.const(given, dtype)
        return self.cast(self._look_up(given), dtype)

    def reshape(self, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """An expression in another shape."""
        from tvm import relax

        if tuple(int(d) for d in expr.ty.shape.values) == tuple(shape):
            return expr
        return self.emit(relax.op.reshape(expr, relax.ShapeExpr(list(shape))))

    def _look_up(self, node: object) -> relax.Expr:
        value = self.values[node]
        assert not isinstance(value, Sequence)
        return value
