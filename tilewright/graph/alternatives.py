"""Gives convolutions another algorithm after their network was cut into tasks.

A network is rewritten with every convolution computed directly, and its operators are grouped into the functions that
will be fused. Another algorithm has the same data and the same result, so it replaces one group:

    fused_conv2d_add_relu(data, w, bias)
    -->
    t = winograd4(data); p = products4(t, w'); fused_inverse4_add_relu(p, bias)

where w' is made from the same weight of the model by another recipe. A weight that varies from call to call is
transformed in the network, by a product of its packed form and the matrix of the transform. Everything else stays as
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.graph.convolution import Algorithm, Convolution, is_fused, winograd_tile
from tilewright.graph.weights import Recipe
from tilewright.ops import contraction, winograd
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import GlobalVar, IRModule

    from tilewright.graph.rewrite import Rewritten

__all__ = ["Replacement", "find_calls", "find_used", "replace_groups", "splice", "transform_kernel"]


def transform_kernel(conv: Convolution, algorithm: Algorithm, kernel: Recipe) -> Recipe:
    """The weights of a convolution as Winograd's algorithm takes them, from its ``(O, C, 3, 3)`` kernels."""
    m = winograd_tile(algorithm)
    assert m is not None
    oo, cc, _, _, cb, x = conv.packed_weight
    a = conv.tiling(m).a
    blocks = kernel.winograd(m).reshape((oo, x, cc, cb, a, a)).transpose((4, 5, 0, 2, 3, 1))
    return blocks.reshape(conv.transformed_weight(m))


@dataclass(frozen=True)
class Replacement:
    """A group of operators with another algorithm of its convolution.

    Attributes:
        module: its ``main`` has the parameters of the group, and the transformed weights in the place of the packed
            ones; it calls the functions beside it.
        place: the place of the weights among the parameters; None: the weights stay packed, and ``main`` transforms
            them.
        conv: the convolution.
        algorithm: its algorithm.
        marks: of the functions of ``module``, by name.
    """

    module: IRModule
    place: int | None
    conv: Convolution
    algorithm: Algorithm
    marks: Mapping[str, Mark]


def replace_groups(
    grouped: IRModule,
    rewritten: Rewritten,
    algorithms: Mapping[Convolution, Algorithm],
    fuse: Callable[[IRModule], tuple[IRModule, dict[str, Mark]]],
) -> dict[str, Replacement]:
    """The replacement of each group whose convolution has another algorithm than the direct one, by the group's name.

    Args:
        grouped: the network with its operators grouped, and the groups not fused yet.
        rewritten: the network before that.
        algorithms: of some convolutions.
        fuse: groups and fuses a module of operators, and takes off the marks of its functions.
    """
    from tvm import relax

    found: dict[str, Replacement] = {}
    for var, group in grouped.functions_items():
        name = var.name_hint
        if isinstance(group, relax.Function):
            inner = [c for c in find_calls(group) if c.args[0].name_hint in rewritten.functions]
            conv = rewritten.functions[inner[0].args[0].name_hint] if name != "main" and inner else None
        else:  # a function that nothing is fused with
            conv, inner = rewritten.functions.get(name), []
        algorithm = "direct" if conv is None else algorithms.get(conv, "direct")
        if conv is None or algorithm == "direct":
            continue
        whole = group if isinstance(group, relax.Function) else _alone(var, conv)
        found[name] = _replace(grouped, whole, conv, algorithm, rewritten, fuse)
    return found


def _alone(function: GlobalVar, conv: Convolution) -> relax.Function:
    """A group that is a convolution and nothing else."""
    from tvm import relax

    data = relax.Var("data", relax.TensorType(conv.packed_data, "float32"))
    weight = relax.Var("weight", relax.TensorType(conv.packed_weight, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [data, weight]):
        with builder.dataflow():
            result = builder.emit_output(relax.call_tir(function, [data, weight], _result(conv)))
        builder.emit_func_output(result)
    return builder.get()["main"]


def _replace(
    grouped: IRModule,
    group: relax.Function,
    conv: Convolution,
    algorithm: Algorithm,
    rewritten: Rewritten,
    fuse: Callable[[IRModule], tuple[IRModule, dict[str, Mark]]],
) -> Replacement:
    import tvm
    from tvm import relax

    calls = find_calls(group)
    direct = next(c for c in calls if rewritten.functions.get(c.args[0].name_hint) == conv)
    place = next(i for i, p in enumerate(group.params) if p.same_as(direct.args[1][1]))
    m = winograd_tile(algorithm)
    assert m is not None
    params = [relax.Var(p.name, p.ty) for p in group.params]
    transforms = direct.args[0].name_hint in rewritten.transforming
    if not transforms:
        params[place] = relax.Var("w", relax.TensorType(conv.transformed_weight(m), "float32"))
    beside = {c.args[0]: grouped[c.args[0]] for c in calls if c is not direct}
    builder = relax.BlockBuilder(tvm.ir.IRModule(beside))
    values: dict[relax.Var, relax.Expr] = dict(zip(group.params, params, strict=True))
    with builder.function("main", params):
        with builder.dataflow():
            for block in group.body.blocks:
                for binding in block.bindings:
                    call = binding.value
                    arguments = [values.get(a, a) for a in call.args[1]]
                    if call.same_as(direct):
                        weight = _emit_transform(builder, conv, m, params[place]) if transforms else params[place]
                        result = _emit(builder, algorithm, conv, arguments[0], weight)
                    else:
                        result = builder.emit(relax.call_tir(call.args[0], arguments, call.ty_args[0]))
                    values[binding.var] = result
            output = builder.emit_output(values[group.body.body])
        builder.emit_func_output(output)
    module, marks = fuse(builder.finalize())
    return Replacement(module, None if transforms else place, conv, algorithm, marks)


def _emit_transform(builder: relax.BlockBuilder, conv: Convolution, m: int, weight: relax.Var) -> relax.Var:
    """Emit the transform of packed weights: ``(O/x, C/cb, 3, 3, cb, x)`` --> ``(a*a, O/x, C/cb, cb, x)``."""
    from tvm import relax

    oo, cc, kh, kw, cb, x = conv.packed_weight
    matrix = winograd.weight_matrix(m)
    rows, blocks, width = len(matrix), (oo * cc, kh * kw, cb * x), oo * cc * cb * x
    function = builder.add_func(contraction.dense(rows, blocks, width), f"transform{m}")
    taps = builder.emit(relax.op.reshape(weight, blocks))
    out = relax.TensorType((rows, width), "float32")
    result = builder.emit(relax.call_tir(function, [relax.const(matrix), taps], out))
    return builder.emit(relax.op.reshape(result, conv.transformed_weight(m)))


def _emit(
    builder: relax.BlockBuilder, algorithm: Algorithm, conv: Convolution, data: relax.Expr, weight: relax.Expr
) -> relax.Var:
    """Emit a convolution of blocked data by Winograd's F(m x m, 3 x 3)."""
    from tvm import relax, tirx

    m = winograd_tile(algorithm)
    assert m is not None
    oo, cc, _, _, cb, x = conv.packed_weight
    tiling, shape = conv.tiling(m), conv.transformed_weight(m)
    squares = tiling.a * tiling.a

    def call(function: tirx.PrimFunc, arguments: Sequence[relax.Expr], result: tuple[int, ...], name: str) -> relax.Var:
        out = relax.TensorType(result, "float32")
        return builder.emit(relax.call_tir(builder.add_func(function, name), list(arguments), out))

    result = (conv.data[0], oo, tiling.rows, tiling.cols, x)
    if is_fused(algorithm):
        return call(winograd.fused(tiling, conv.packed_data, shape), [data, weight], result, f"conv_winograd{m}")
    transformed = call(
        winograd.data_transform(tiling, conv.packed_data), [data], (squares, cc, tiling.tiles, cb), f"winograd{m}"
    )
    products = call(
        winograd.products(tiling, shape), [transformed, weight], (squares, oo, tiling.tiles, x), f"products{m}"
    )
    return call(winograd.inverse_transform(tiling, oo, x), [products], result, f"inverse{m}")


def _result(conv: Convolution) -> relax.TensorType:
    from tvm import relax

    n, out, rows, cols = conv.result
    x = conv.blocks[1]
    return relax.TensorType((n, out // x, rows, cols, x), "float32")


def find_calls(function: relax.Function) -> list[relax.Call]:
    """The calls of TIR functions in a function, in their order."""
    from tvm import ir, relax

    found = []
    for block in function.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and isinstance(call.op, ir.Op) and call.op.name == "relax.call_tir":
                found.append(call)
    return found


def splice(
    module: IRModule, rewritten: Rewritten, inputs: int, replacements: Mapping[str, Replacement]
) -> tuple[IRModule, tuple[Recipe, ...], dict[tuple[str, str], str]]:
    """A fused network with some of its functions replaced, the recipes of its weights, and the names of new functions.

    New functions are named by the function that they replace and their name in its replacement.

    Args:
        module: the fused network; its ``main`` takes the inputs, and then the weights.
        rewritten: the network before it was grouped.
        inputs: the number of inputs.
        replacements: fused, by the names of functions.
    """
    import tvm
    from tvm import ir, relax

    main = module["main"]
    recipes = dict(zip(main.params[inputs:], rewritten.recipes, strict=True))
    added: dict[Recipe, relax.Var] = {}
    functions: dict[tuple[str, str], GlobalVar] = {}

    def weight(packed: relax.Var, new: Replacement) -> relax.Var:
        recipe = transform_kernel(new.conv, new.algorithm, rewritten.kernels[recipes[packed]])
        if recipe not in added:
            added[recipe] = relax.Var(f"v{len(added)}", relax.TensorType(recipe.shape, recipe.dtype))
        return added[recipe]

    @relax.expr_functor.mutator
    class Splicer(relax.PyExprMutator):  # type: ignore[misc]  # TVM has no types
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            call = self.visit_expr_post_order(call)
            if not (isinstance(call.op, ir.Op) and call.op.name == "relax.call_tir"):
                return call
            name = call.args[0].name_hint
            if name not in replacements:
                return call
            new = replacements[name]
            arguments = list(call.args[1])
            if new.place is not None:
                arguments[new.place] = weight(arguments[new.place], new)
            part = new.module["main"]
            values: dict[relax.Var, relax.Expr] = dict(zip(part.params, arguments, strict=True))
            for inner in _bindings(part):
                if inner.value.op.name == "relax.reshape":
                    source, shape = inner.value.args
                    values[inner.var] = self.builder_.emit(relax.op.reshape(values.get(source, source), shape))
                    continue
                function = inner.value.args[0]
                if (name, function.name_hint) not in functions:
                    added_function = self.builder_.add_func(new.module[function], function.name_hint)
                    functions[name, function.name_hint] = added_function
                operands = [values.get(a, a) for a in inner.value.args[1]]
                called = relax.call_tir(functions[name, function.name_hint], operands, inner.value.ty_args[0])
                values[inner.var] = self.builder_.emit(called)
            return values[part.body.body]

    splicer = Splicer(module)
    whole = splicer.visit_expr(main)
    used = find_used(whole)
    kept = [var for var in recipes if var in used]
    params = [*main.params[:inputs], *kept, *added.values()]
    spliced = splicer.builder_.get()
    spliced[spliced.get_global_var("main")] = relax.Function(
        params, whole.body, whole.ret_ty, whole.is_pure, whole.attrs
    )
    spliced = relax.transform.DeadCodeElimination()(spliced)
    assert isinstance(spliced, tvm.ir.IRModule)
    names = {key: str(var.name_hint) for key, var in functions.items()}
    return spliced, (*(recipes[var] for var in kept), *added), names


def _bindings(function: relax.Function) -> list[relax.VarBinding]:
    return [binding for block in function.body.blocks for binding in block.bindings]


def find_used(function: relax.Function) -> set[relax.Var]:
    """The variables that the body of a function reads."""
    from tvm import relax

    found: set[relax.Var] = set()

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            found.add(expr)

    relax.analysis.post_order_visit(function.body, visit)
    return found
