"""Blocked layouts over a graph: NCHW --> NCHW[x]c wherever convolutions gain, weights packed at build time.

Every value of the graph is kept plain, blocked, or both, and converted where somebody needs it; so conversions
cancel where they meet, and element-wise operators, pooling and concatenation stay in the layout that they get.

The channels of blocked values lie in any order, with gaps (``network.channels``), which weights are packed for: so a
channel shuffle moves nothing, and channels need not divide. Grouped convolutions whose channels make no whole blocks
work on one block of all channels (channels last), where any group is a stretch of lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilewright.network import blocked, tokens, winograd
from tilewright.network.channels import find_lattice, grouped_order, padded_order, permuted
from tilewright.network.convolution import Algorithm, Convolution, winograd_tile
from tilewright.network.elementary import ELEMENTARY
from tilewright.network.network import Network
from tilewright.network.value import Value
from tilewright.network.view import View
from tilewright.network.weights import Recipe
from tilewright.target import Target

__all__ = ["Rewritten", "rewrite"]

_POOL = {"nn.max_pool2d", "nn.avg_pool2d"}
#: Operators that can make infinities or NaN in lanes that hold no channel, which weights of zero do not silence.
_UNSAFE = {"divide", "exp", "sqrt", "rsqrt"}


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
    lanes: int
    builder: Any
    algorithms: Mapping[Convolution, Algorithm] = field(default_factory=dict)
    convolutions: dict[Convolution, int] = field(default_factory=dict)
    parameters: list[Any] = field(default_factory=list)
    recipes: dict[Recipe, Any] = field(default_factory=dict)
    values: dict[Any, Any] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    samples: dict[Any, Any] = field(default_factory=dict)
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

    def channel_block(self, channels: int, most: int | None = None) -> int:
        """The largest divisor of ``channels`` that fits a vector register."""
        return max(d for d in range(1, (most or self.lanes) + 1) if channels % d == 0)

    # Operators: each returns the new value, or None where it cannot be served in blocked layout

    def conv2d(self, call: Any, args: list[Value]) -> Value | None:
        data, weight = args
        attrs = call.attrs
        kernel = weight.recipe
        layouts = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout))
        if kernel is None or layouts != ("NCHW", "OIHW", "NCHW") or kernel.dtype != "float32":
            return None
        if int(attrs.groups) == kernel.shape[0] == data.channels > 1:
            return self.depthwise_conv2d(call, data, kernel)
        if int(attrs.groups) != 1:
            return self.grouped_conv2d(call, data, kernel)
        out, channels, kh, kw = kernel.shape
        x, order = self.channel_block(out), None
        if x < self.lanes // 2:
            x, order = self.lanes, padded_order(out, self.lanes)
            kernel = kernel.take(0, order)
        cb = data.block if data.packed is not None else self.channel_block(channels)
        source = self.packed(data, cb, data.order)
        if data.order is not None:
            kernel = kernel.take(1, data.order)
        out, channels = kernel.shape[:2]
        shape = (data.shape[0], channels, *data.shape[2:])
        known = Convolution(shape, kernel.shape, _pair(attrs.strides), _four(attrs.padding), (cb, x))
        if _pair(attrs.dilation) == (1, 1) and cb >= self.lanes // 2 and len(known.algorithms) > 1:
            self.convolutions[known] = self.convolutions.get(known, 0) + 1
            tile = winograd_tile(self.algorithms.get(known, "direct"))
            if tile is not None:
                packed = self.winograd(tile, known, source, kernel)
                return Value(_shape(call), packed=packed, block=x, order=order, fused=True)
        recipe = kernel.reshape((out // x, x, channels // cb, cb, kh, kw)).transpose((0, 2, 4, 5, 3, 1))
        stride, padding, dilation = _window(attrs)
        if kh == kw == 1 and stride != (1, 1) and not any(padding):
            source, stride = self.sampled(source, stride), (1, 1)
        function = blocked.conv2d(_shape_of(source), recipe.shape, stride, padding, dilation)
        return self.convolved(call, function, [source, self.weight(recipe)], x, order, out // x)

    def sampled(self, source: Any, stride: tuple[int, int]) -> Any:
        """Every ``stride``-th pixel of a blocked tensor, so that a 1x1 convolution finds its pixels side by side.

        Copying them takes a hundredth of the convolution, which then runs as a matrix product: at 7x7 pixels twice as
        fast as with gaps between them.
        """
        from tvm import relax

        if (source, stride) not in self.samples:
            _, _, h, w, _ = _shape_of(source)
            result = relax.op.strided_slice(source, [2, 3], [0, 0], [h, w], list(stride), assume_inbound=True)
            self.samples[source, stride] = self.emit(result)
        return self.samples[source, stride]

    def depthwise_conv2d(self, call: Any, data: Value, kernel: Recipe) -> Value:
        """Every channel by itself: blocks and their order stay."""
        x = self.channel_block(data.block if data.channels_last else len(data.places))
        block, order = data.block, data.order
        if data.packed is None:
            block = x
        elif not data.channels_last:
            x = block
        if x < self.lanes // 2:
            x = block = self.lanes
            order = padded_order(data.channels, block)
        source = self.packed(data, block, order)
        if order is not None:
            kernel = kernel.take(0, order)
        places, _, kh, kw = kernel.shape
        recipe = kernel.reshape((places // x, x, kh, kw)).transpose((0, 2, 3, 1))
        function = blocked.depthwise_conv2d(_shape_of(source), recipe.shape, *_window(call.attrs))
        arguments = [source, self.weight(recipe)]
        return self.convolved(call, function, arguments, block, order, places // block, "depthwise_conv2d")

    def grouped_conv2d(self, call: Any, data: Value, kernel: Recipe) -> Value:
        """Channels by groups: on blocks where those of a group fill theirs, channels last elsewhere."""
        groups = int(call.attrs.groups)
        out, depth, kh, kw = kernel.shape
        each = out // groups
        x = self.lanes if each > self.lanes // 2 else each
        padded = -(-each // x) * x
        if data.packed is None:
            block = self.channel_block(depth)
            self.packed(data, block if block >= self.lanes // 2 else data.channels)
        at = {c: p for p, c in enumerate(data.places)}
        members = [[at[g * depth + i] for i in range(depth)] for g in range(groups)]
        block = data.block
        blocks = len(data.places) // block
        used = [[p // block for p in group] for group in members]
        # Whole blocks are read: with more than a quarter of the channels for nothing, channels last are better.
        lattice = find_lattice(used, blocks)
        if blocks > 1 and lattice.count == 1 and 4 * lattice.length * block <= 5 * depth:
            source = self.packed(data, block, data.order)
            inputs = [[b * block + i for b in lattice.places(g) for i in range(block)] for g in range(groups)]
            sums = (lattice.length, block)
            order_block = x
        else:
            order = data.order
            lattice = find_lattice(members, len(data.places))
            if lattice.size > 2 * depth:
                # In the order that grouped convolutions write, which a residual may be wanted in, too.
                places = grouped_order(groups, depth, self.lanes if depth > self.lanes // 2 else depth)
                order = places if -1 in places else None
                at = {c: p for p, c in enumerate(places) if c >= 0}
                members = [[at[g * depth + i] for i in range(depth)] for g in range(groups)]
                lattice = find_lattice(members, len(places))
            source = self.packed(data, len(order or at), order)
            inputs = [lattice.places(g) for g in range(groups)]
            sums = (lattice.count, lattice.length)
            order_block = groups * padded
        # Where there is an input of another group, or none, the weight is zero.
        channel = {p: c for c, p in at.items()}
        table = [
            c if c // depth == g else -1
            for g, places in enumerate(inputs)
            for c in (channel.get(p, -1) for p in places)
        ]
        recipe = kernel.reshape((groups, each, depth, kh, kw)).transpose((1, 3, 4, 0, 2))
        recipe = recipe.reshape((each, kh, kw, groups * depth)).take(3, tuple(table))
        order = None
        if padded != each:
            recipe = recipe.take(0, padded_order(each, padded))
            order = grouped_order(groups, each, padded)
        recipe = recipe.reshape((padded // x, x, kh, kw, groups, *sums)).transpose((4, 0, 5, 2, 3, 6, 1))
        function = blocked.grouped_conv2d(
            _shape_of(source), recipe.shape, *_window(call.attrs), lattice.step, lattice.period
        )
        arguments = [source, self.weight(recipe)]
        number = groups * padded // order_block
        return self.convolved(call, function, arguments, order_block, order, number, "grouped_conv2d")

    def convolved(
        self,
        call: Any,
        function: Any,
        arguments: list[Any],
        block: int,
        order: tuple[int, ...] | None,
        blocks: int,
        name: str = "conv2d",
    ) -> Value:
        """The blocked result of a convolution."""
        n, _, h, w = shape = _shape(call)
        result = self.call(function, arguments, (n, blocks, h, w, block), name)
        return Value(shape, packed=result, block=block, order=order, fused=True)

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

    def unary(self, call: Any, args: list[Value]) -> Value | None:
        if args[0].packed is None or self.unsafe(call, args[0]):
            return None
        name = call.op.name.removeprefix("relax.")
        if name in ELEMENTARY and str(call.ty.dtype) == "float32":
            shape = tuple(int(d) for d in args[0].packed.ty.shape.values)
            result = tokens.elementary(self, name, args[0].packed, shape)
            value = args[0]
            return Value(value.shape, packed=result, block=value.block, order=value.order, fused=value.fused)
        rest = list(call.args[1:])  # clip has scalar bounds
        return self.like(args[0], call, [args[0].packed, *rest])

    def binary(self, call: Any, args: list[Value]) -> Value | None:
        # The layout of a convolution's result, which this is fused with: the other operand is converted.
        first = min((a for a in args if a.packed is not None), key=lambda a: not a.fused, default=None)
        shape = _shape(call)
        if first is None or first.shape != shape or len(shape) != 4 or self.unsafe(call, first):
            return None
        operands = []
        for arg in args:
            if arg.recipe is not None:
                recipe = self.channel_weight(arg.recipe, first)
                if recipe is None:
                    return None
                operands.append(self.weight(recipe))
            elif arg.shape == shape or (len(arg.shape) == 4 and arg.shape[1] == shape[1]):
                operands.append(self.packed(arg, first.block, first.order))
            else:
                return None
        return self.like(first, call, operands)

    def power(self, call: Any, args: list[Value]) -> Value | None:
        """Powers by square roots, which vectorise: ``x ** 0.75`` in a LRN took 10 times as long by powf."""
        from tvm import ir, relax

        exponent = call.args[1]
        number = float(exponent.value.numpy()) if isinstance(exponent, ir.Constant) and not _shape(exponent) else 0.0
        if number not in (0.25, 0.5, 0.75) or str(call.ty.dtype) != "float32" or len(args) != 1:
            return None
        value = args[0]
        blocked_too = value.packed is not None and -1 not in value.places
        root = self.emit(relax.op.sqrt(value.packed if blocked_too else self.plain(value)))
        if number != 0.5:
            fourth = self.emit(relax.op.sqrt(root))
            root = fourth if number == 0.25 else self.emit(relax.op.multiply(root, fourth))
        if not blocked_too:
            return Value.plain(value.shape, root)
        return Value(value.shape, packed=root, block=value.block, order=value.order, fused=value.fused)

    def unsafe(self, call: Any, value: Value) -> bool:
        """Whether lanes without a channel may become infinite."""
        return call.op.name.removeprefix("relax.") in _UNSAFE and -1 in value.places

    def channel_weight(self, recipe: Recipe, value: Value) -> Recipe | None:
        """A weight of one number per channel, or a single one, so that it broadcasts over the blocked ``value``."""
        channels = value.channels
        size = 1
        for d in recipe.shape:
            size *= d
        if size == 1:
            return recipe.reshape((1, 1, 1, 1, 1))
        padded = (1,) * (4 - len(recipe.shape)) + recipe.shape
        if len(padded) != 4 or padded != (1, channels, 1, 1):
            return None
        recipe = recipe.reshape((channels,))
        if value.order is not None:
            recipe = recipe.take(0, value.order)
        return recipe.reshape((1, len(value.places) // value.block, 1, 1, value.block))

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
        return Value(_shape(call), packed=self.emit(result), block=args[0].block, order=args[0].order)

    def shuffle(self, call: Any, args: list[Value]) -> Value | None:
        """Channels split, merged or transposed among themselves: only their order changes, nothing moves."""
        value, shape = args[0], _shape(call)
        if value.packed is None or len(shape) < 4:
            return None
        order = value.order
        if call.op.name.endswith("permute_dims"):
            rank = len(shape)
            axes = call.attrs.axes
            moved = [int(a) % rank for a in axes] if axes is not None else [*reversed(range(rank))]
            if moved[0] != 0 or moved[-2:] != [rank - 2, rank - 1]:
                return None
            order = permuted(value.places, value.shape[1:-2], tuple(a - 1 for a in moved[1:-2]))
        elif (value.shape[0], *value.shape[-2:]) != (shape[0], *shape[-2:]):
            return None
        if order == tuple(range(value.channels)):
            order = None
        return Value(shape, packed=value.packed, block=value.block, order=order)

    def mean(self, call: Any, args: list[Value]) -> Value | None:
        axes = [int(a) % 4 for a in call.attrs.axis or ()]
        if args[0].packed is None or len(args[0].shape) != 4 or axes != [2, 3] or not call.attrs.keepdims:
            return None
        return self.like(args[0], call, [args[0].packed], _shape(call))

    def concat(self, call: Any, args: list[Value]) -> Value | None:
        from tvm import relax

        axis = int(call.attrs.axis.value if hasattr(call.attrs.axis, "value") else call.attrs.axis)
        if axis != 1 or any(len(a.shape) != 4 or a.recipe is not None for a in args):
            return None
        last = any(a.channels_last and a.block > self.lanes for a in args)
        blocks = {a.block for a in args if a.packed is not None}
        if not last and (len(blocks) != 1 or any(len(a.places) % min(blocks) for a in args)):
            return None
        order: list[int] = []
        for arg in args:
            base = sum(c >= 0 for c in order)
            order += [c if c < 0 else c + base for c in arg.places]
        parts = [self.packed(a, len(a.places) if last else min(blocks), a.order) for a in args]
        block = len(order) if last else min(blocks)
        natural = order == [*range(len(order))]
        result = self.emit(relax.op.concat(parts, 4 if last else 1))
        return Value(_shape(call), packed=result, block=block, order=None if natural else tuple(order))

    def like(self, value: Value, call: Any, arguments: list[Any], shape: tuple[int, ...] | None = None) -> Value:
        """The same operator on blocked operands."""
        from tvm import relax

        result = self.emit(relax.Call(call.op, arguments, call.attrs))
        return Value(shape or value.shape, packed=result, block=value.block, order=value.order, fused=value.fused)

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
            "power": self.power,
            "reshape": self.shuffle,
            "permute_dims": self.shuffle,
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
        if handle is not None and (name == "power" or not any(isinstance(a, ir.GenericConst) for a in args)):
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
    walk = Rewriter(target.lanes, builder, algorithms or {})
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
    fallbacks = tuple(dict.fromkeys(walk.fallbacks))
    return Rewritten(module, tuple(walk.recipes), fallbacks, tuple(walk.convolutions.items()))


def _shape(call: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in call.ty.shape.values)


def _shape_of(tensor: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in tensor.ty.shape.values)


def _window(attrs: Any) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Stride, padding and dilation."""
    return _pair(attrs.strides), _four(attrs.padding), _pair(attrs.dilation)


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second


def _four(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return top, left, bottom, right
