"""Walks through a network and emits it anew, with the values of its tensors in the layouts that operators need.

Every value of the graph exists in plain layout, blocked, or both. It is converted where an operator needs another
layout, so two conversions in a row cancel. :mod:`tilewright.graph.pixels` serves operators on blocked images,
:mod:`tilewright.graph.recurrent` recurrent ones, and :mod:`tilewright.graph.tokens` operators on views of all other
tensors.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tilewright.graph import attending, gradients, nibbles, packing, pixels, pooling, quantised, recurrent, tokens
from tilewright.graph.convolution import Convolution
from tilewright.graph.idioms import find_idiom
from tilewright.graph.parts import split
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import View
from tilewright.graph.weight_moves import move_weight
from tilewright.graph.weights import Recipe
from tilewright.ops.contraction.expression import Product
from tilewright.ops.rows import Guard
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax, tirx

__all__ = ["Rewriter"]

#: What an expression of the network becomes: a tensor, the parts of a split one, or an expression that is no tensor.
_Rewritten: TypeAlias = "Value | list[Value] | relax.Expr"


@dataclass
class Rewriter:
    """Walks through a graph and emits the new one.

    Attributes:
        lanes: the float32 numbers in a vector register.
        builder: builds the new function.
        convolutions: the convolutions met so far for which there is a choice of algorithms, and how often.
        functions: of those convolutions, by the name of the function that computes each directly.
        kernels: of their packed weights, the weights before they were packed. Varying weights are left out.
        transforming: the names of those functions whose weights vary in some call.
        products: of batches of matrices, by the name of the function that computes each.
        softmaxes: the names of functions that are softmaxes, and which rows of them give zeros.
        moments: what is added to variances, by the names of functions that give the moments of rows.
        parameters: the inputs of the new function.
        recipes: the variable of each packed weight.
        values: the new value of each variable of the network.
        fallbacks: the convolutions and matrix products that stay in plain layout.
        samples: every n-th pixel of tensors, by tensor and stride.
        bindings: the expression of each variable of the network.
        scalars: the numbers of the weights that hold one number.
        varying: the inputs that are weights which change from call to call, by the source of their recipes.
        packed: what such weights became, by their source and the steps of their recipe.
        uses: how often each variable of the network is read. Only of networks whose weights vary.
        pairs: whether the target multiplies bytes as pairs of int16 (``multiplies_pairs``).
        signed: whether the target multiplies signed bytes by signed ones (``multiplies_signed``).
        multiplies_bf16: whether products are of bfloat16 numbers (``Network.multiplies_bf16``).
        arrays: the network's weights by name.
        cached: the bytes of weights that stay in the second cache.
        made: the weights that were computed from them, by the names that are their sources in recipes.
        last: images that are to have their channels last (:mod:`tilewright.graph.layouts`): variables, and their calls.
    """

    lanes: int
    builder: relax.BlockBuilder
    convolutions: dict[Convolution, int] = field(default_factory=dict)
    functions: dict[str, Convolution] = field(default_factory=dict)
    kernels: dict[Recipe, Recipe] = field(default_factory=dict)
    transforming: set[str] = field(default_factory=set)
    products: dict[str, Product] = field(default_factory=dict)
    softmaxes: dict[str, Guard] = field(default_factory=dict)
    moments: dict[str, float] = field(default_factory=dict)
    parameters: list[relax.Var] = field(default_factory=list)
    recipes: dict[Recipe, relax.Var] = field(default_factory=dict)
    values: dict[relax.Var, _Rewritten] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    samples: dict[tuple[relax.Expr, tuple[int, int]], relax.Expr] = field(default_factory=dict)
    bindings: dict[relax.Var, relax.Expr] = field(default_factory=dict)
    scalars: dict[relax.Var, float] = field(default_factory=dict)
    varying: dict[str, relax.Var] = field(default_factory=dict)
    packed: dict[tuple[str, tuple[tuple[str, tuple[int, ...]], ...]], relax.Expr] = field(default_factory=dict)
    uses: Counter[relax.Var] = field(default_factory=Counter)
    pairs: bool = False
    signed: bool = False
    multiplies_bf16: bool = False
    arrays: Mapping[str, Array] = field(default_factory=dict)
    cached: float = math.inf
    made: dict[str, Array] = field(default_factory=dict)
    last: frozenset[relax.Expr] = frozenset()

    # Values and their layouts

    def add_weight(self, recipe: Recipe) -> relax.Expr:
        """The parameter of the new function for the weight that ``recipe`` makes; of a varying weight, its value."""
        if recipe.source in self.varying:
            return packing.apply(self, recipe)
        if recipe not in self.recipes:
            from tvm import relax

            var = relax.Var(f"w{len(self.recipes)}", relax.TensorType(recipe.shape, recipe.dtype))
            self.recipes[recipe] = var
        return self.recipes[recipe]

    def make_weight(self, array: Array) -> Recipe:
        """The recipe of a weight that the rewriter has computed itself."""
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        name = f"made_{digest}_{array.dtype}_{'x'.join(map(str, array.shape))}"
        self.made[name] = array
        return Recipe(name, array.shape, str(array.dtype))

    def make_plain(self, value: Value) -> relax.Expr:
        """The tensor in plain layout."""
        view = self.make_view(value)
        if value.pending or not view.in_order:
            self.materialise(value)
        return self.reshape(value.base, value.shape)

    def make_view(self, value: Value) -> View:
        """The view of the tensor in ``value.base``. A missing base is made."""
        quantised.settle(self, value)
        if value.view is None and value.channels_last and len(value.shape) == 4:
            self.view_last(value)
        if value.view is None:
            value.base = self.unpack(value) if value.recipe is None else self.add_weight(value.recipe)
            value.view = View.of(value.shape)
        return value.view

    def view_last(self, value: Value) -> None:
        """Make the base of an image with channels last: the image itself, or its channels if gaps follow these."""
        from tvm import relax

        n, channels, h, w = value.shape
        natural = tuple(range(channels))
        if value.places[:channels] != natural:
            return
        tensor = value.packed
        if value.order is not None:
            tensor = self.emit(relax.op.strided_slice(tensor, [4], [0], [channels], assume_inbound=True))
        value.base, value.fresh = self.reshape(tensor, (n, h, w, channels)), value.fused and value.order is None
        value.view = View.of((n, h, w, channels)).permute((0, 3, 1, 2))

    def make_whole_view(self, value: Value) -> View:
        """The view of the tensor in a base that holds the tensor's elements and no others."""
        if self.make_view(value).fixed or value.pending:
            self.materialise(value)
        assert value.view is not None
        return value.view

    def materialise(self, value: Value) -> None:
        """Make the tensor its own base, in its own order."""
        from tvm import relax

        view = self.make_view(value)
        atoms = view.atoms
        tensor = self.reshape(value.base, tuple(a.extent for a in atoms))
        fixed = [(atoms.index(a), i) for a, i in view.fixed if a.extent > 1]
        if fixed:
            begins = [i for _, i in fixed]
            tensor = relax.op.strided_slice(
                tensor, [p for p, _ in fixed], begins, [i + 1 for i in begins], assume_inbound=True
            )
            tensor = self.emit(tensor)
        order = [p for p, _ in fixed] + [atoms.index(a) for dim in view.dims for a in dim if a.extent > 1]
        if order != sorted(order):
            tensor = self.emit(relax.op.permute_dims(tensor, order))
        tensor = self.reshape(tensor, value.shape)
        for op, scalar in value.pending:
            tensor = self.emit(relax.Call(op, [tensor, scalar], None))
        value.base, value.view, value.pending, value.fresh = tensor, View.of(value.shape), (), False

    def reshape(self, tensor: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        """The tensor in another shape. A reshape costs no time when the network runs."""
        from tvm import relax

        if tuple(int(d) for d in tensor.ty.shape.values) == shape:
            return tensor
        return self.emit(relax.op.reshape(tensor, shape))

    def unpack(self, value: Value) -> relax.Expr:
        """A blocked tensor in plain layout, without gaps."""
        from tvm import relax

        n, *_, h, w = value.shape
        tensor, channels, places = value.packed, value.channels, value.places
        if h * w > 1:
            tensor = self.emit(relax.op.permute_dims(tensor, [0, 1, 4, 2, 3]))
        if value.order is not None:
            tensor = self.reshape(tensor, (n, len(places), h, w))
            if places[:channels] == tuple(range(channels)):
                tensor = self.emit(relax.op.strided_slice(tensor, [1], [0], [channels]))
            else:
                at = {c: p for p, c in enumerate(places)}
                table = np.asarray([at[c] for c in range(channels)], dtype=np.int64)
                tensor = self.emit(relax.op.take(tensor, relax.const(table), axis=1, mode="clip"))
        return self.reshape(tensor, value.shape)

    def pack(self, value: Value, block: int, order: tuple[int, ...] | None = None) -> relax.Expr:
        """The tensor as ``(n, places/block, h, w, block)``, with its channels in ``order``."""
        quantised.settle(self, value)
        if (block, order) == (value.block, value.order) and value.packed is not None:
            return value.packed
        if (block, order) in value.copies:
            return value.copies[block, order]
        from tvm import relax

        n, *_, h, w = value.shape
        channels = value.channels
        if value.packed is not None and value.order == order:
            result = self.reblock(value.packed, block)
        elif value.packed is not None:
            at = {c: p for p, c in enumerate(value.places)}
            # Any channel may fill a gap: the numbers there must be finite, and change no result.
            table = np.asarray([at.get(c, 0) for c in order or range(channels)], dtype=np.int64)
            last = self.reblock(value.packed, len(value.places))
            result = self.reblock(self.emit(relax.op.take(last, relax.const(table), axis=4, mode="clip")), block)
        elif (last := self.find_channels_last(value)) is not None:
            result = self.pack(Value(value.shape, packed=last, block=channels), block, order)
        elif order is None and (h * w == 1 or block == 1):  # the elements lie in the same order
            result = self.reshape(self.make_plain(value), (n, channels // block, h, w, block))
        elif order is not None:
            natural = self.pack(Value.plain(value.shape, self.make_plain(value)), channels)
            result = self.pack(Value(value.shape, packed=natural, block=channels), block, order)
        else:
            tensor = relax.op.reshape(self.make_plain(value), (n, channels // block, block, h, w))
            result = self.emit(relax.op.permute_dims(self.emit(tensor), [0, 1, 3, 4, 2]))
        if value.packed is None:
            value.packed, value.block, value.order = result, block, order
        value.copies[block, order] = result
        return result

    def find_channels_last(self, value: Value) -> relax.Expr | None:
        """The tensor as one block of all channels, if it lies so in its base; None otherwise."""
        if not value.based_last:
            return None
        n, count, h, w = value.shape
        return self.reshape(value.base, (n, 1, h, w, count))

    def reblock(self, tensor: relax.Expr, block: int) -> relax.Expr:
        """A blocked tensor with blocks of another length, and its places in the same order."""
        from tvm import relax

        n, blocks, h, w, have = (int(d) for d in tensor.ty.shape.values)
        if have == block:
            return tensor
        if blocks > 1:
            tensor = self.emit(relax.op.permute_dims(tensor, [0, 2, 3, 1, 4]))
        places = blocks * have
        tensor = self.emit(relax.op.reshape(tensor, (n, 1, h, w, places)))
        if block == places:
            return tensor
        tensor = self.emit(relax.op.reshape(tensor, (n, h, w, places // block, block)))
        return self.emit(relax.op.permute_dims(tensor, [0, 3, 1, 2, 4]))

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind an expression to a new variable."""
        return self.builder.emit(expr)

    def call(
        self,
        function: tirx.PrimFunc,
        arguments: list[relax.Expr],
        shape: tuple[int, ...],
        name: str,
        dtype: str = "float32",
    ) -> relax.Var:
        """Emit the call of a function whose result is a tensor of ``shape``, and add the function as ``name``."""
        from tvm import relax

        out = relax.TensorType(shape, dtype)
        return self.emit(relax.call_tir(self.builder.add_func(function, name), arguments, out))

    def function_of(self, result: relax.Var) -> str:
        """The name of the function whose call gave ``result``."""
        return str(self.builder.lookup_binding(result).args[0].name_hint)

    def channel_block(self, channels: int) -> int:
        """The largest divisor of ``channels`` that fits a vector register."""
        return max(d for d in range(1, self.lanes + 1) if channels % d == 0)

    # The walk

    def visit(self, expr: relax.Expr) -> _Rewritten:
        """The new value of an expression of the network."""
        from tvm import ir, relax

        if isinstance(expr, relax.TupleGetItem):
            fields = self.values.get(expr.tuple_value)
            if isinstance(fields, list):
                return fields[int(expr.index)]
        if not isinstance(expr, relax.Call) or not isinstance(expr.op, ir.Op):
            return self.keep_plain(expr)
        name = expr.op.name.removeprefix("relax.")
        if name == "call_tir":
            served = quantised.serve_call(self, expr) or recurrent.serve(self, expr)
            served = served or gradients.serve(self, expr) or attending.serve(self, expr) or pooling.serve(self, expr)
            return served or nibbles.serve(self, expr) or self.keep_plain(expr)
        operands = list(expr.args)
        if name == "concat" and isinstance(operands[0], relax.Tuple):
            operands = list(operands[0].fields)
        idiom = self.serve_idiom(expr)
        if idiom is not None:
            return idiom
        args = [self.values.get(a, a) if isinstance(a, relax.Var) else a for a in operands]
        if not any(isinstance(a, Value) for a in args) or any(isinstance(a, list | relax.Var) for a in args):
            return self.keep_plain(expr)
        return quantised.serve(self, name, expr, args) or self.serve_numbers(name, expr, args)

    def serve_numbers(self, name: str, expr: relax.Call, args: list[Value | relax.Expr]) -> _Rewritten:
        """The value of an operator ``relax.name``, computed on the numbers of its operands."""
        from tvm import ir

        known = [a for a in args if isinstance(a, Value)]
        for operand in known:
            quantised.settle(self, operand)
        moved = move_weight(name, expr, known)
        if moved is not None:
            return moved
        if name == "split":
            return split(self, expr, known[0]) or self.keep_plain(expr)
        result = None
        blocked_floats = all(value.dtype == "float32" or value.packed is None for value in known)
        # Operators on blocked operands come first. A constant operand has no blocked layout, unless it is one number.
        constants = [a for a in args if isinstance(a, ir.GenericConst)]
        if (
            name in tokens.BINARY
            and name != "power"
            and constants
            and all(math.prod(c.value.shape) == 1 for c in constants)
            and blocked_floats
        ):
            result = pixels.serve(self, name, expr, args)
        elif (name == "power" or not constants) and blocked_floats:
            result = pixels.serve(self, name, expr, known)
        if result is None:
            result = tokens.serve(self, name, expr, args)
        if result is not None:
            return result
        if name in ("nn.conv2d", "matmul"):
            self.fallbacks.append(f"{name} {' x '.join(str(list(v.shape)) for v in known)}")
        return self.keep_plain(expr)

    def serve_idiom(self, call: relax.Call) -> Value | None:
        """The value of the activation that ``call`` completes; None if it completes none."""
        found = find_idiom(call, self.bindings, self.scalars)
        value = None if found is None else self.values.get(found.args[0])
        if found is None or not isinstance(value, Value) or value.recipe is not None or value.dtype != "float32":
            return None
        quantised.settle(self, value)
        name = found.op.name
        return pixels.serve(self, name, found, [value]) or tokens.serve(self, name, found, [value])

    def keep_plain(self, expr: relax.Expr) -> Value | relax.Expr:
        """The value of an expression that is computed on plain operands."""
        from tvm import relax

        plain = self.substitute().visit_expr(expr)
        if getattr(getattr(plain, "op", None), "name", "") == "relax.take" and plain.attrs.mode == "fast":
            # The inputs may hold any index, and no index may read outside of the table.
            plain = relax.op.take(plain.args[0], plain.args[1], plain.attrs.axis, mode="clip")
        result = self.emit(plain)
        if not isinstance(result.ty, relax.TensorType):
            return result
        return Value.plain(shape_of(result), result, str(result.ty.dtype))

    @cached_property
    def substitute(self) -> type[relax.PyExprMutator]:
        """The class of mutators that replace variables by plain tensors.

        It is made once, because making it takes as long as rewriting an operator.
        """
        from tvm import relax

        outer = self

        @relax.expr_functor.mutator
        class Substitute(relax.PyExprMutator):  # type: ignore[misc]
            def visit_var_(self, op: relax.Var) -> relax.Expr:
                return self.lookup(op)

            def visit_dataflow_var_(self, op: relax.DataflowVar) -> relax.Expr:
                return self.lookup(op)

            def lookup(self, op: relax.Var) -> relax.Expr:
                value = outer.values.get(op)
                if isinstance(value, list):
                    return relax.Tuple([outer.make_plain(v) for v in value])
                return outer.make_plain(value) if isinstance(value, Value) else (value if value is not None else op)

        return Substitute
