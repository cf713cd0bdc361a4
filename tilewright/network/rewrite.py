"""Blocked layouts over a graph: NCHW --> NCHW[x]c wherever convolutions gain, weights packed at build time.

Every value of the graph is kept plain, blocked, or both, and converted where somebody needs it; so conversions
cancel where they meet, and element-wise operators, pooling and concatenation stay in the layout that they get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tilewright.network import blocked, tokens
from tilewright.network.elementary import ELEMENTARY
from tilewright.network.network import Network
from tilewright.network.value import Value
from tilewright.network.view import View
from tilewright.network.weights import Recipe
from tilewright.target import Target

__all__ = ["Rewritten", "rewrite"]

_POOL = {"nn.max_pool2d", "nn.avg_pool2d"}


@dataclass(frozen=True)
class Rewritten:
    """The module after rewriting: ``main(inputs..., weights...)``, and how its weights are made."""

    module: Any
    recipes: tuple[Recipe, ...]
    fallbacks: tuple[str, ...]


@dataclass
class Rewriter:
    lanes: int
    builder: Any
    parameters: list[Any] = field(default_factory=list)
    recipes: dict[Recipe, Any] = field(default_factory=dict)
    values: dict[Any, Any] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    #: What each variable of the network was bound to.
    bindings: dict[Any, Any] = field(default_factory=dict)

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
            from tvm import relax

            if value.recipe is not None:
                value.base = self.weight(value.recipe)
            else:
                _, _, h, w = value.shape
                tensor = value.packed
                if h * w > 1:
                    tensor = self.emit(relax.op.permute_dims(tensor, [0, 1, 4, 2, 3]))
                value.base = self.reshaped(tensor, value.shape)
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

    def packed(self, value: Value, block: int) -> Any:
        """The tensor as ``(n, C/block, h, w, block)``."""
        if value.packed is None or value.block != block:
            from tvm import relax

            n, c, h, w = value.shape
            tensor = relax.op.reshape(self.plain(value), (n, c // block, block, h, w))
            value.packed = self.emit(relax.op.permute_dims(self.emit(tensor), [0, 1, 3, 4, 2]))
            value.block = block
        return value.packed

    def emit(self, expr: Any) -> Any:
        return self.builder.emit(expr)

    def call(self, function: Any, arguments: list[Any], shape: tuple[int, ...], name: str) -> Any:
        from tvm import relax

        out = relax.TensorType(shape, "float32")
        return self.emit(relax.call_tir(self.builder.add_func(function, name), arguments, out))

    def channel_block(self, channels: int, most: int | None = None) -> int:
        """The largest divisor of ``channels`` that fits a vector register."""
        return max(d for d in range(1, (most or self.lanes) + 1) if channels % d == 0)

    # Operators: each returns the new value, or None where it cannot be served in blocked layout

    def conv2d(self, call: Any, args: list[Value]) -> Value | None:
        data, weight = args
        attrs = call.attrs
        kernel = weight.recipe
        layouts = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout))
        if kernel is None or layouts != ("NCHW", "OIHW", "NCHW") or int(attrs.groups) != 1:
            return None
        if kernel.dtype != "float32":
            return None
        out, channels, kh, kw = kernel.shape
        x = self.channel_block(out)
        if x < self.lanes // 2:
            return None
        cb = data.block if data.packed is not None else self.channel_block(channels)
        source = self.packed(data, cb)
        recipe = kernel.reshape((out // x, x, channels // cb, cb, kh, kw)).transpose((0, 2, 4, 5, 3, 1))
        n, _, h, w = data.shape
        function = blocked.conv2d(
            (n, channels // cb, h, w, cb),
            recipe.shape,
            _pair(attrs.strides),
            _four(attrs.padding),
            _pair(attrs.dilation),
        )
        shape = _shape(call)
        result = self.call(function, [source, self.weight(recipe)], (n, out // x, shape[2], shape[3], x), "conv2d")
        return Value(shape, packed=result, block=x)

    def unary(self, call: Any, args: list[Value]) -> Value | None:
        if args[0].packed is None:
            return None
        name = call.op.name.removeprefix("relax.")
        if name in ELEMENTARY and str(call.ty.dtype) == "float32":
            shape = tuple(int(d) for d in args[0].packed.ty.shape.values)
            result = tokens.elementary(self, name, args[0].packed, shape)
            return Value(args[0].shape, packed=result, block=args[0].block)
        rest = list(call.args[1:])  # clip has scalar bounds
        return self.like(args[0], call, [args[0].packed, *rest])

    def binary(self, call: Any, args: list[Value]) -> Value | None:
        first = next((a for a in args if a.packed is not None), None)
        shape = _shape(call)
        if first is None or first.shape != shape:
            return None
        operands = []
        for arg in args:
            if arg.recipe is not None:
                recipe = self.channel_weight(arg.recipe, shape, first.block)
                if recipe is None:
                    return None
                operands.append(self.weight(recipe))
            elif arg.shape == shape or (len(arg.shape) == 4 and arg.shape[1] == shape[1]):
                operands.append(self.packed(arg, first.block))
            else:
                return None
        return self.like(first, call, operands)

    def channel_weight(self, recipe: Recipe, shape: tuple[int, ...], block: int) -> Recipe | None:
        """A weight of one number per channel, or a single one, so that it broadcasts over blocked data."""
        channels = shape[1]
        size = 1
        for d in recipe.shape:
            size *= d
        if size == 1:
            return recipe.reshape((1, 1, 1, 1, 1))
        padded = (1,) * (4 - len(recipe.shape)) + recipe.shape
        if len(padded) != 4 or padded != (1, channels, 1, 1):
            return None
        return recipe.reshape((1, channels // block, 1, 1, block))

    def pool(self, call: Any, args: list[Value]) -> Value | None:
        from tvm import relax

        if args[0].packed is None or str(call.attrs.layout) != "NCHW":
            return None
        layout = f"NCHW{args[0].block}c"
        attrs = call.attrs
        kind = relax.op.nn.max_pool2d if call.op.name.endswith("max_pool2d") else relax.op.nn.avg_pool2d
        result = kind(
            args[0].packed,
            [int(v) for v in attrs.pool_size],
            [int(v) for v in attrs.strides],
            [int(v) for v in attrs.padding],
            [int(v) for v in attrs.dilation],
            bool(attrs.ceil_mode),
            bool(attrs.count_include_pad),
            layout,
            layout,
        )
        return Value(_shape(call), packed=self.emit(result), block=args[0].block)

    def mean(self, call: Any, args: list[Value]) -> Value | None:
        axes = [int(a) % 4 for a in call.attrs.axis or ()]
        if args[0].packed is None or axes != [2, 3] or not call.attrs.keepdims:
            return None
        return self.like(args[0], call, [args[0].packed], _shape(call))

    def concat(self, call: Any, args: list[Value]) -> Value | None:
        from tvm import relax

        blocks = {a.block for a in args if a.packed is not None}
        if (
            len(blocks) != 1
            or int(call.attrs.axis.value if hasattr(call.attrs.axis, "value") else call.attrs.axis) != 1
        ):
            return None
        block = blocks.pop()
        if any(len(a.shape) != 4 or a.shape[1] % block for a in args):
            return None
        parts = [self.packed(a, block) for a in args]
        return Value(_shape(call), packed=self.emit(relax.op.concat(parts, 1)), block=block)

    def like(self, value: Value, call: Any, arguments: list[Any], shape: tuple[int, ...] | None = None) -> Value:
        """The same operator on blocked operands."""
        from tvm import relax

        result = self.emit(relax.Call(call.op, arguments, call.attrs))
        return Value(shape or value.shape, packed=result, block=value.block)

    # The walk

    def handler(self, name: str) -> Callable[[Any, list[Value]], Value | None] | None:
        if name in tokens.UNARY:
            return self.unary
        if name in tokens.BINARY:
            return self.binary
        if name in _POOL:
            return self.pool
        table: dict[str, Callable[[Any, list[Value]], Value | None]] = {
            "nn.conv2d": self.conv2d,
            "mean": self.mean,
            "concat": self.concat,
        }
        return table.get(name)

    def weight_step(self, name: str, call: Any, args: list[Value]) -> Value | None:
        """An operator on a weight that only moves its elements."""
        if len(args) < 1 or args[0].recipe is None:
            return None
        shape = _shape(call)
        if name in ("reshape", "expand_dims", "squeeze"):
            return Value(shape, recipe=args[0].recipe.reshape(shape), dtype=args[0].dtype)
        if name == "permute_dims":
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
        args = [self.values.get(a, a) if isinstance(a, relax.Var) else a for a in operands]
        known = [a for a in args if isinstance(a, Value)]
        if not known or any(isinstance(a, list | relax.Var) for a in args):
            return self.generic(expr)
        moved = self.weight_step(name, expr, known)
        if moved is not None:
            return moved
        if name == "split":
            return self.split(expr, known[0]) or self.generic(expr)
        handle = self.handler(name)
        result = None
        # In blocks where one of the operands is, and they are not views of something else.
        if handle is not None and not any(isinstance(a, ir.GenericConst) for a in args):
            result = handle(expr, known)
        if result is None:
            result = tokens.serve(self, name, expr, args)
        if result is not None:
            return result
        if name in ("nn.conv2d", "matmul"):
            self.fallbacks.append(f"{name} {' x '.join(str(list(v.shape)) for v in known)}")
        return self.generic(expr)

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

        outer = self
        result = self.emit(Substitute().visit_expr(expr))
        if not isinstance(result.ty, relax.TensorType):
            return result
        return Value.plain(_shape(result), result, str(result.ty.dtype))


def rewrite(network: Network, target: Target) -> Rewritten:
    """The network with blocked layouts where its convolutions and matrix products are served by the template.

    An operator that the rewriter cannot serve keeps its plain layout and is listed in ``fallbacks``.
    """
    import tvm
    from tvm import relax

    main = network.module["main"]
    # Importers write some operators (Clip) as functions of the module beside main; what calls them is kept as it is.
    beside = {v: f for v, f in network.module.functions_items() if v.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.ir.IRModule(beside))
    walk = Rewriter(target.lanes, builder)
    count = len(network.inputs)
    for param, spec in zip(main.params[:count], network.inputs, strict=True):
        var = relax.Var(param.name, relax.TensorType(spec.shape, spec.dtype))
        walk.parameters.append(var)
        walk.values[param] = Value.plain(spec.shape, var, spec.dtype)
    for param, (name, array) in zip(main.params[count:], network.weights.items(), strict=True):
        dtype = str(array.dtype)
        walk.values[param] = Value(array.shape, recipe=Recipe(name, array.shape, dtype), dtype=dtype)

    with builder.function("main", walk.parameters):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    walk.bindings[binding.var] = binding.value
                    walk.values[binding.var] = walk.visit(binding.value)
            value = walk.values[main.body.body]
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
    return Rewritten(module, tuple(walk.recipes), tuple(dict.fromkeys(walk.fallbacks)))


def _shape(call: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in call.ty.shape.values)


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second


def _four(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return top, left, bottom, right
