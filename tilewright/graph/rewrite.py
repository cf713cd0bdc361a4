"""Blocked layouts over a graph: NCHW --> NCHW[x]c wherever convolutions gain, weights packed at build time.

Every value of the graph is kept plain, blocked, or both, and converted where somebody needs it; so conversions
cancel where they meet, and element-wise operators, pooling and concatenation stay in the layout that they get.

What happens to an operator is written in :mod:`tilewright.graph.pixels` (images, in blocks) and
:mod:`tilewright.graph.tokens` (views of anything else).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tilewright.frontend.network import Network
from tilewright.graph import pixels, tokens
from tilewright.graph.convolution import Algorithm, Convolution
from tilewright.graph.idioms import find_idiom
from tilewright.graph.tokens import shape_of
from tilewright.graph.value import Value
from tilewright.graph.view import View
from tilewright.graph.weights import Recipe
from tilewright.target import Target

__all__ = ["Rewritten", "rewrite"]


@dataclass(frozen=True)
class Rewritten:
    """The module after rewriting: ``main(inputs..., weights...)``, and how its weights are made.

    Attributes:
        module: the module.
        recipes: of the weights, in the order of ``main``'s parameters.
        fallbacks: operators in plain layout.
        convolutions: those for which there is a choice of algorithms, with how often each occurs.
    """

    module: Any
    recipes: tuple[Recipe, ...]
    fallbacks: tuple[str, ...]
    convolutions: tuple[tuple[Convolution, int], ...] = ()


@dataclass
class Rewriter:
    """Walks a graph and emits the new one.

    Attributes:
        lanes: floats in a vector register.
        builder: of the new function.
        algorithms: how to compute convolutions.
        convolutions: those met for which there is a choice, with how often.
        parameters: inputs of the new function.
        recipes: the variable of each packed weight.
        values: what each variable of the network became.
        fallbacks: operators left plain.
        samples: every n-th pixel of tensors, by tensor and stride.
        bindings: what each variable of the network was bound to.
        scalars: the numbers of weights that are one number.
    """

    lanes: int
    builder: Any
    algorithms: Mapping[Convolution, Algorithm] = field(default_factory=dict)
    convolutions: dict[Convolution, int] = field(default_factory=dict)
    parameters: list[Any] = field(default_factory=list)
    recipes: dict[Recipe, Any] = field(default_factory=dict)
    values: dict[Any, Any] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    samples: dict[Any, Any] = field(default_factory=dict)
    bindings: dict[Any, Any] = field(default_factory=dict)
    scalars: dict[Any, float] = field(default_factory=dict)

    # Values and their layouts

    def weight(self, recipe: Recipe) -> Any:
        """The parameter of the new function that holds what ``recipe`` makes."""
        if recipe not in self.recipes:
            from tvm import relax

            var = relax.Var(f"w{len(self.recipes)}", relax.TensorType(recipe.shape, recipe.dtype))
            self.recipes[recipe] = var
        return self.recipes[recipe]

    def plain(self, value: Value) -> Any:
        """The tensor in its own layout."""
        view = self.view(value)
        if value.pending or not view.in_order:
            self.materialise(value)
        return self.reshaped(value.base, value.shape)

    def view(self, value: Value) -> View:
        """How the tensor lies in ``value.base``, which is made if need be."""
        if value.view is None:
            if value.recipe is not None:
                value.base = self.weight(value.recipe)
            else:
                value.base = self.unpacked(value)
            value.view = View.of(value.shape)
        return value.view

    def whole(self, value: Value) -> View:
        """The same, of a base without elements that are not the tensor's."""
        if self.view(value).fixed or value.pending:
            self.materialise(value)
        assert value.view is not None
        return value.view

    def materialise(self, value: Value) -> None:
        """Make the tensor as it is its own base."""
        from tvm import relax

        view = self.view(value)
        atoms = view.atoms
        tensor = self.reshaped(value.base, tuple(a.extent for a in atoms))
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
        tensor = self.reshaped(tensor, value.shape)
        for op, scalar in value.pending:
            tensor = self.emit(relax.Call(op, [tensor, scalar], None))
        value.base, value.view, value.pending, value.fresh = tensor, View.of(value.shape), (), False

    def reshaped(self, tensor: Any, shape: tuple[int, ...]) -> Any:
        """The tensor in another shape, which costs nothing."""
        from tvm import relax

        if tuple(int(d) for d in tensor.ty.shape.values) == shape:
            return tensor
        return self.emit(relax.op.reshape(tensor, shape))

    def unpacked(self, value: Value) -> Any:
        """A blocked tensor in its own layout, without what is no channel."""
        from tvm import relax

        n, *_, h, w = value.shape
        tensor, channels, places = value.packed, value.channels, value.places
        if h * w > 1:
            tensor = self.emit(relax.op.permute_dims(tensor, [0, 1, 4, 2, 3]))
        if value.order is not None:
            tensor = self.reshaped(tensor, (n, len(places), h, w))
            if places[:channels] == tuple(range(channels)):
                tensor = self.emit(relax.op.strided_slice(tensor, [1], [0], [channels]))
            else:
                at = {c: p for p, c in enumerate(places)}
                table = np.asarray([at[c] for c in range(channels)], dtype=np.int64)
                tensor = self.emit(relax.op.take(tensor, relax.const(table), axis=1, mode="clip"))
        return self.reshaped(tensor, value.shape)

    def packed(self, value: Value, block: int, order: tuple[int, ...] | None = None) -> Any:
        """The tensor as ``(n, places/block, h, w, block)``, with its channels in ``order``."""
        if (block, order) == (value.block, value.order) and value.packed is not None:
            return value.packed
        if (block, order) in value.copies:
            return value.copies[block, order]
        from tvm import relax

        n, *_, h, w = value.shape
        channels = value.channels
        if value.packed is not None and value.order == order:
            result = self.reblocked(value.packed, block)
        elif value.packed is not None:
            at = {c: p for p, c in enumerate(value.places)}
            # Where there is to be no channel any will do: lanes without one are finite, and nobody uses them.
            table = np.asarray([at.get(c, 0) for c in order or range(channels)], dtype=np.int64)
            last = self.reblocked(value.packed, len(value.places))
            result = self.reblocked(self.emit(relax.op.take(last, relax.const(table), axis=4, mode="clip")), block)
        elif order is not None:
            natural = self.packed(Value.plain(value.shape, self.plain(value)), channels)
            result = self.packed(Value(value.shape, packed=natural, block=channels), block, order)
        else:
            tensor = relax.op.reshape(self.plain(value), (n, channels // block, block, h, w))
            result = self.emit(relax.op.permute_dims(self.emit(tensor), [0, 1, 3, 4, 2]))
        if value.packed is None:
            value.packed, value.block, value.order = result, block, order
        value.copies[block, order] = result
        return result

    def reblocked(self, tensor: Any, block: int) -> Any:
        """A blocked tensor with blocks of another length, the places in the same order."""
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

    def emit(self, expr: Any) -> Any:
        return self.builder.emit(expr)

    def call(self, function: Any, arguments: list[Any], shape: tuple[int, ...], name: str) -> Any:
        from tvm import relax

        out = relax.TensorType(shape, "float32")
        return self.emit(relax.call_tir(self.builder.add_func(function, name), arguments, out))

    def channel_block(self, channels: int) -> int:
        """The largest divisor of ``channels`` that fits a vector register."""
        return max(d for d in range(1, self.lanes + 1) if channels % d == 0)

    # The walk

    def weight_step(self, name: str, call: Any, args: list[Value]) -> Value | None:
        """An operator on a weight that only moves its elements."""
        if len(args) < 1 or args[0].recipe is None or not hasattr(call.ty, "shape"):  # some give a shape, no tensor
            return None
        if name in ("reshape", "expand_dims", "squeeze"):
            shape = shape_of(call)
            return Value(shape, recipe=args[0].recipe.reshape(shape), dtype=args[0].dtype)
        if name == "permute_dims":
            shape = shape_of(call)
            axes = call.attrs.axes
            order = tuple(int(a) for a in axes) if axes is not None else tuple(reversed(range(len(shape))))
            return Value(shape, recipe=args[0].recipe.transpose(order), dtype=args[0].dtype)
        return None

    def visit(self, expr: Any) -> Value | Any:
        """The new value of a bound expression."""
        from tvm import ir, relax

        if isinstance(expr, relax.TupleGetItem) and isinstance(self.values.get(expr.tuple_value), list):
            return self.values[expr.tuple_value][int(expr.index)]
        if not isinstance(expr, relax.Call) or not isinstance(expr.op, ir.Op):
            return self.generic(expr)
        name = expr.op.name.removeprefix("relax.")
        operands = list(expr.args)
        if name == "concat" and isinstance(operands[0], relax.Tuple):
            operands = list(operands[0].fields)
        idiom = self.idiom(expr)
        if idiom is not None:
            return idiom
        args = [self.values.get(a, a) if isinstance(a, relax.Var) else a for a in operands]
        known = [a for a in args if isinstance(a, Value)]
        if not known or any(isinstance(a, list | relax.Var) for a in args):
            return self.generic(expr)
        moved = self.weight_step(name, expr, known)
        if moved is not None:
            return moved
        if name == "split":
            return self.split(expr, known[0]) or self.generic(expr)
        result = None
        # In blocks where one of the operands is, and they are not views of something else.
        if name == "power" or not any(isinstance(a, ir.GenericConst) for a in args):
            result = pixels.serve(self, name, expr, known)
        if result is None:
            result = tokens.serve(self, name, expr, args)
        if result is not None:
            return result
        if name in ("nn.conv2d", "matmul"):
            self.fallbacks.append(f"{name} {' x '.join(str(list(v.shape)) for v in known)}")
        return self.generic(expr)

    def idiom(self, call: Any) -> Value | None:
        """What a call comes to that, with those before it, computes an activation."""
        found = find_idiom(call, self.bindings, self.scalars)
        value = None if found is None else self.values.get(found.args[0])
        if found is None or not isinstance(value, Value) or value.recipe is not None or value.dtype != "float32":
            return None
        name = found.op.name
        return pixels.serve(self, name, found, [value]) or tokens.serve(self, name, found, [value])

    def split(self, call: Any, value: Value) -> list[Value] | None:
        """Equal parts, as views or as weights of their own."""
        given = call.attrs.indices_or_sections
        axis = int(call.attrs.axis) % len(value.shape)
        size = value.shape[axis]
        if isinstance(given, int) or hasattr(given, "value"):
            count = int(given)
        else:
            bounds = [0, *(int(i) for i in given), size]
            count = len(bounds) - 1
            if bounds != [i * size // count for i in range(count + 1)]:
                return None
        if size % count:
            return None
        if value.recipe is not None:
            step = size // count
            return [
                Value(recipe.shape, recipe=recipe, dtype=value.dtype)
                for recipe in (value.recipe.slice(axis, i * step, (i + 1) * step) for i in range(count))
            ]
        return tokens.sections(self, value, axis, count)

    def generic(self, expr: Any) -> Value | Any:
        """The expression with plain operands."""
        from tvm import relax

        plain = self.substitute().visit_expr(expr)
        if getattr(getattr(plain, "op", None), "name", "") == "relax.take" and plain.attrs.mode == "fast":
            # Any index may come with the inputs: none may read outside of the table.
            plain = relax.op.take(plain.args[0], plain.args[1], plain.attrs.axis, mode="clip")
        result = self.emit(plain)
        if not isinstance(result.ty, relax.TensorType):
            return result
        return Value.plain(shape_of(result), result, str(result.ty.dtype))

    @cached_property
    def substitute(self) -> Any:
        """The class of mutators that put plain tensors in for variables. Making it takes as long as an operator."""
        from tvm import relax

        outer = self

        @relax.expr_functor.mutator
        class Substitute(relax.PyExprMutator):  # type: ignore[misc]
            def visit_var_(self, op: Any) -> Any:
                return self.lookup(op)

            def visit_dataflow_var_(self, op: Any) -> Any:
                return self.lookup(op)

            def lookup(self, op: Any) -> Any:
                value = outer.values.get(op)
                if isinstance(value, list):
                    return relax.Tuple([outer.plain(v) for v in value])
                return outer.plain(value) if isinstance(value, Value) else (value if value is not None else op)

        return Substitute


def rewrite(network: Network, target: Target, algorithms: Mapping[Convolution, Algorithm] | None = None) -> Rewritten:
    """The network with blocked layouts where its convolutions and matrix products are served by the template.

    An operator that the rewriter cannot serve keeps its plain layout. Convolutions and matrix products among them are
    listed in ``fallbacks``.

    Args:
        network: the network.
        target: decides the blocks.
        algorithms: how to compute convolutions; all that are not in it directly.
    """
    import tvm
    from tvm import relax

    main = network.module["main"]
    # Importers write some operators (Clip) as functions of the module beside main; what calls them is kept as it is.
    beside = {v: f for v, f in network.module.functions_items() if v.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.ir.IRModule(beside))
    walk = Rewriter(target.lanes, builder, algorithms or {})
    count = len(network.inputs)
    for param, spec in zip(main.params[:count], network.inputs, strict=True):
        var = relax.Var(param.name, relax.TensorType(spec.shape, spec.dtype))
        walk.parameters.append(var)
        walk.values[param] = Value.plain(spec.shape, var, spec.dtype)
    for param, (name, array) in zip(main.params[count:], network.weights.items(), strict=True):
        dtype = str(array.dtype)
        walk.values[param] = Value(array.shape, recipe=Recipe(name, array.shape, dtype), dtype=dtype)
        if array.size == 1 and array.dtype.kind in "fi":
            walk.scalars[param] = float(array.reshape(()))

    with builder.function("main", walk.parameters):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    walk.bindings[binding.var] = binding.value
                    walk.values[binding.var] = walk.visit(binding.value)
            body = main.body.body
            value = walk.values[body] if body in walk.values else walk.generic(body)
            if isinstance(value, list):
                value = relax.Tuple([walk.plain(part) for part in value])
            output = builder.emit_output(walk.plain(value) if isinstance(value, Value) else value)
        builder.emit_func_output(output)
    module = builder.finalize()
    # Weights were met along the way: they become parameters once all are known.
    function = module["main"]
    module["main"] = relax.Function(
        [*function.params, *walk.recipes.values()], function.body, function.ret_ty, function.is_pure, function.attrs
    )
    module = relax.transform.DeadCodeElimination()(module)
    assert isinstance(module, tvm.ir.IRModule)
    fallbacks = tuple(dict.fromkeys(walk.fallbacks))
    return Rewritten(module, tuple(walk.recipes), fallbacks, tuple(walk.convolutions.items()))
