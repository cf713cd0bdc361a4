"""Blocked layouts over a graph: NCHW --> NCHW[x]c wherever convolutions gain, weights packed at build time.

Every value of the graph is kept plain, blocked, or both, and converted where somebody needs it; so conversions
cancel where they meet, and element-wise operators, pooling and concatenation stay in the layout that they get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tilewright.network import blocked, winograd
from tilewright.network.convolution import Algorithm, Convolution, winograd_tile
from tilewright.network.network import Network
from tilewright.network.weights import Recipe
from tilewright.target import Target

__all__ = ["Rewritten", "rewrite"]

_UNARY = {"nn.relu", "sigmoid", "tanh", "exp", "sqrt", "rsqrt", "abs", "negative", "clip", "nn.gelu", "nn.silu"}
_UNARY |= {"nn.leakyrelu", "nn.gelu_tanh", "erf"}
_BINARY = {"add", "subtract", "multiply", "divide", "maximum", "minimum"}
_POOL = {"nn.max_pool2d", "nn.avg_pool2d"}


@dataclass
class _Value:
    """One tensor of the graph, in the layouts that it exists in."""

    shape: tuple[int, ...]
    plain: Any = None
    packed: Any = None
    block: int = 0
    recipe: Recipe | None = None


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
class _Rewriter:
    lanes: int
    builder: Any
    algorithms: Mapping[Convolution, Algorithm] = field(default_factory=dict)
    convolutions: dict[Convolution, int] = field(default_factory=dict)
    parameters: list[Any] = field(default_factory=list)
    recipes: dict[Recipe, Any] = field(default_factory=dict)
    values: dict[Any, _Value] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)

    # Values and their layouts

    def weight(self, recipe: Recipe) -> Any:
        """The parameter of the new function that holds what ``recipe`` makes."""
        if recipe not in self.recipes:
            from tvm import relax

            var = relax.Var(f"w{len(self.recipes)}", relax.TensorType(recipe.shape, recipe.dtype))
            self.recipes[recipe] = var
        return self.recipes[recipe]

    def plain(self, value: _Value) -> Any:
        """The tensor in its own layout."""
        if value.plain is None and value.recipe is not None:
            value.plain = self.weight(value.recipe)
        if value.plain is None:
            from tvm import relax

            _, _, h, w = value.shape
            tensor = value.packed
            if h * w > 1:
                tensor = self.emit(relax.op.permute_dims(tensor, [0, 1, 4, 2, 3]))
            value.plain = self.emit(relax.op.reshape(tensor, value.shape))
        return value.plain

    def packed(self, value: _Value, block: int) -> Any:
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

    def conv2d(self, call: Any, args: list[_Value]) -> _Value | None:
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
        dilation = _pair(attrs.dilation)
        known = Convolution(data.shape, kernel.shape, _pair(attrs.strides), _four(attrs.padding), (cb, x))
        if dilation == (1, 1) and cb >= self.lanes // 2 and len(known.algorithms) > 1:
            self.convolutions[known] = self.convolutions.get(known, 0) + 1
            tile = winograd_tile(self.algorithms.get(known, "direct"))
            if tile is not None:
                return _Value(_shape(call), packed=self.winograd(tile, known, source, kernel), block=x)
        recipe = kernel.reshape((out // x, x, channels // cb, cb, kh, kw)).transpose((0, 2, 4, 5, 3, 1))
        n, _, h, w = data.shape
        function = blocked.conv2d(
            (n, channels // cb, h, w, cb),
            recipe.shape,
            _pair(attrs.strides),
            _four(attrs.padding),
            dilation,
        )
        shape = _shape(call)
        result = self.call(function, [source, self.weight(recipe)], (n, out // x, shape[2], shape[3], x), "conv2d")
        return _Value(shape, packed=result, block=x)

    def winograd(self, m: int, conv: Convolution, source: Any, kernel: Recipe) -> Any:
        """The convolution by F(m x m, 3 x 3), of packed data."""
        oo, cc, _, _, cb, x = conv.packed_weight
        tiling, shape = conv.tiling(m), conv.transformed_weight(m)
        a = tiling.a
        recipe = kernel.winograd(m).reshape((oo, x, cc, cb, a, a)).transpose((4, 5, 0, 2, 3, 1)).reshape(shape)
        v = self.call(
            winograd.data_transform(tiling, conv.packed_data), [source], (a * a, cc, tiling.tiles, cb), f"winograd{m}"
        )
        shapes = (a * a, oo, tiling.tiles, x), (conv.data[0], oo, tiling.rows, tiling.cols, x)
        products = self.call(winograd.products(tiling, shape), [v, self.weight(recipe)], shapes[0], f"products{m}")
        return self.call(winograd.inverse_transform(tiling, oo, x), [products], shapes[1], f"inverse{m}")

    def matmul(self, call: Any, args: list[_Value]) -> _Value | None:
        from tvm import relax

        left, right = args
        shape = _shape(call)
        if right.recipe is not None and len(right.shape) == 2 and right.recipe.dtype == "float32":
            depth, n = right.shape
            x = self.channel_block(n)
            if x < self.lanes // 2:
                return None
            rows = 1
            for d in left.shape[:-1]:
                rows *= d
            source = self.plain(left)
            if len(left.shape) != 2:
                source = self.emit(relax.op.reshape(source, (rows, depth)))
            recipe = right.recipe.reshape((depth, n // x, x)).transpose((1, 0, 2))
            result = self.call(blocked.dense(rows, recipe.shape), [source, self.weight(recipe)], (rows, n), "dense")
            if len(shape) != 2:
                result = self.emit(relax.op.reshape(result, shape))
            return _Value(shape, plain=result)
        if len(left.shape) < 3 or left.shape[:-2] != right.shape[:-2] or right.recipe or left.recipe:
            return None
        m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
        x = self.channel_block(n)
        if x < self.lanes // 2 or str(call.ty.dtype) != "float32":
            return None
        batch = 1
        for d in left.shape[:-2]:
            batch *= d
        a = self.emit(relax.op.reshape(self.plain(left), (batch, m, k)))
        b = self.emit(relax.op.reshape(self.plain(right), (batch, k, n)))
        result = self.call(blocked.batch_matmul(batch, m, n, k, x), [a, b], (batch, m, n), "batch_matmul")
        return _Value(shape, plain=self.emit(relax.op.reshape(result, shape)))

    def unary(self, call: Any, args: list[_Value]) -> _Value | None:
        if args[0].packed is None:
            return None
        rest = list(call.args[1:])  # clip has scalar bounds
        return self.like(args[0], call, [args[0].packed, *rest])

    def binary(self, call: Any, args: list[_Value]) -> _Value | None:
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

    def pool(self, call: Any, args: list[_Value]) -> _Value | None:
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
        return _Value(_shape(call), packed=self.emit(result), block=args[0].block)

    def mean(self, call: Any, args: list[_Value]) -> _Value | None:
        axes = [int(a) % 4 for a in call.attrs.axis or ()]
        if args[0].packed is None or axes != [2, 3] or not call.attrs.keepdims:
            return None
        return self.like(args[0], call, [args[0].packed], _shape(call))

    def concat(self, call: Any, args: list[_Value]) -> _Value | None:
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
        return _Value(_shape(call), packed=self.emit(relax.op.concat(parts, 1)), block=block)

    def like(self, value: _Value, call: Any, arguments: list[Any], shape: tuple[int, ...] | None = None) -> _Value:
        """The same operator on blocked operands."""
        from tvm import relax

        result = self.emit(relax.Call(call.op, arguments, call.attrs))
        return _Value(shape or value.shape, packed=result, block=value.block)

    # The walk

    def handler(self, name: str) -> Callable[[Any, list[_Value]], _Value | None] | None:
        if name in _UNARY:
            return self.unary
        if name in _BINARY:
            return self.binary
        if name in _POOL:
            return self.pool
        table: dict[str, Callable[[Any, list[_Value]], _Value | None]] = {
            "nn.conv2d": self.conv2d,
            "matmul": self.matmul,
            "mean": self.mean,
            "concat": self.concat,
        }
        return table.get(name)

    def weight_step(self, name: str, call: Any, args: list[_Value]) -> _Value | None:
        """An operator on a weight that only moves its elements."""
        if len(args) < 1 or args[0].recipe is None:
            return None
        shape = _shape(call)
        if name in ("reshape", "expand_dims", "squeeze"):
            return _Value(shape, recipe=args[0].recipe.reshape(shape))
        if name == "permute_dims":
            axes = call.attrs.axes
            order = tuple(int(a) for a in axes) if axes is not None else tuple(reversed(range(len(shape))))
            return _Value(shape, recipe=args[0].recipe.transpose(order))
        return None

    def visit(self, expr: Any) -> _Value | Any:
        """The new value of a bound expression."""
        from tvm import ir, relax

        if not isinstance(expr, relax.Call) or not isinstance(expr.op, ir.Op):
            return self.generic(expr)
        name = expr.op.name.removeprefix("relax.")
        operands = list(expr.args)
        if name == "concat" and isinstance(operands[0], relax.Tuple):
            operands = list(operands[0].fields)
        known = [self.values[a] for a in operands if isinstance(a, relax.Var) and a in self.values]
        moved = self.weight_step(name, expr, known)
        if moved is not None:
            return moved
        handle = self.handler(name)
        if handle is not None and known and len(known) == len([a for a in operands if isinstance(a, relax.Var)]):
            result = handle(expr, known)
            if result is not None:
                return result
            if name in ("nn.conv2d", "matmul"):
                self.fallbacks.append(f"{name} {' x '.join(str(list(v.shape)) for v in known)}")
        return self.generic(expr)

    def generic(self, expr: Any) -> _Value | Any:
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
                return outer.plain(value) if isinstance(value, _Value) else (value if value is not None else op)

        outer = self
        result = self.emit(Substitute().visit_expr(expr))
        return _Value(_shape(result), plain=result) if isinstance(result.ty, relax.TensorType) else result


def rewrite(network: Network, target: Target, algorithms: Mapping[Convolution, Algorithm] | None = None) -> Rewritten:
    """The network with blocked layouts where its convolutions and matrix products are served by the template.

    An operator that the rewriter cannot serve keeps its plain layout and is listed in ``fallbacks``.

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
    walk = _Rewriter(target.lanes, builder, algorithms or {})
    count = len(network.inputs)
    for param, spec in zip(main.params[:count], network.inputs, strict=True):
        var = relax.Var(param.name, relax.TensorType(spec.shape, spec.dtype))
        walk.parameters.append(var)
        walk.values[param] = _Value(spec.shape, plain=var)
    for param, (name, array) in zip(main.params[count:], network.weights.items(), strict=True):
        walk.values[param] = _Value(array.shape, recipe=Recipe(name, array.shape, str(array.dtype)))

    with builder.function("main", walk.parameters):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    walk.values[binding.var] = walk.visit(binding.value)
            value = walk.values[main.body.body]
            output = builder.emit_output(walk.plain(value) if isinstance(value, _Value) else value)
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


def _shape(call: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in call.ty.shape.values)


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second


def _four(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return top, left, bottom, right
