"""Rewrites a network to blocked layouts: NCHW --> NCHW[x]c where convolutions gain, with weights packed at build time.

Element-wise operators, pooling and concatenation keep the layout of their operands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.frontend.network import Network
from tilewright.graph.again import count_uses
from tilewright.graph.column_sums import join_column_sums
from tilewright.graph.convolution import Convolution
from tilewright.graph.layouts import find_last
from tilewright.graph.norms import join_norms
from tilewright.graph.quantised import ByteAttentions
from tilewright.graph.rewriter import Rewriter
from tilewright.graph.tokens import BINARY, UNARY
from tilewright.graph.value import Value
from tilewright.graph.weights import Recipe
from tilewright.ops.contraction.dot_products import multiplies_pairs, multiplies_signed
from tilewright.ops.contraction.expression import Product
from tilewright.ops.rows import Guard
from tilewright.target import Target
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["Rewritten", "rewrite"]


@dataclass(frozen=True)
class Rewritten:
    """A rewritten network.

    Attributes:
        module: the module, with ``main(inputs..., weights...)``.
        recipes: how the weights are made, in the order of ``main``'s parameters.
        fallbacks: the convolutions and matrix products that keep their plain layout.
        convolutions: the convolutions for which there is a choice of algorithms, and how often each occurs.
        functions: of those convolutions, by the name of the function in ``module`` that computes each directly.
        kernels: of their packed weights, the weights before they were packed. Varying weights are left out.
        transforming: the names of those functions whose weights vary from call to call.
        products: of batches of matrices, by the name of the function that computes each.
        softmaxes: the names of functions that are softmaxes, and which rows of them give zeros.
        made: weights that were computed from the model's, by the sources of their recipes.
    """

    module: IRModule
    recipes: tuple[Recipe, ...]
    fallbacks: tuple[str, ...]
    convolutions: tuple[tuple[Convolution, int], ...] = ()
    functions: Mapping[str, Convolution] = field(default_factory=dict)
    kernels: Mapping[Recipe, Recipe] = field(default_factory=dict)
    transforming: frozenset[str] = frozenset()
    products: Mapping[str, Product] = field(default_factory=dict)
    softmaxes: Mapping[str, Guard] = field(default_factory=dict)
    made: Mapping[str, Array] = field(default_factory=dict)


def rewrite(network: Network, target: Target) -> Rewritten:
    """Rewrite the network to blocked layouts for the convolutions and matrix products that templates serve.

    An operator without a blocked form keeps its plain layout. The result lists the convolutions and matrix products
    among these as ``fallbacks``.

    Args:
        network: the network.
        target: its vector length decides the blocks, and its instructions the format of bytes' weights.
    """
    import tvm
    from tvm import relax

    main = network.module["main"]
    # Importers write some operators (Clip) as functions beside main. Calls of these are kept.
    beside = {v: f for v, f in network.module.functions_items() if v.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.ir.IRModule(beside))
    walk = Rewriter(target.lanes, builder, uses=count_uses(main) if network.varying else Counter())
    walk.arrays, walk.cached, walk.multiplies_bf16 = network.weights, target.l2, network.multiplies_bf16
    walk.pairs, walk.signed = multiplies_pairs(target), multiplies_signed(target)
    if not network.varying:
        walk.last = find_last(main, UNARY | BINARY)
    count = len(network.parameters)
    for param, spec in zip(main.params[:count], network.parameters, strict=True):
        var = relax.Var(param.name, relax.TensorType(spec.shape, spec.dtype))
        walk.parameters.append(var)
        if spec.name in network.varying:
            walk.varying[spec.name] = var
            walk.values[param] = Value(spec.shape, recipe=Recipe(spec.name, spec.shape, spec.dtype), dtype=spec.dtype)
        else:
            walk.values[param] = Value.plain(spec.shape, var, spec.dtype)
    for param, (name, array) in zip(main.params[count:], network.weights.items(), strict=True):
        dtype = str(array.dtype)
        walk.values[param] = Value(array.shape, recipe=Recipe(name, array.shape, dtype), dtype=dtype)
        if array.size == 1 and array.dtype.kind in "fi":
            walk.scalars[param] = float(array.reshape(()))

    with builder.function("main", walk.parameters):
        with builder.dataflow():
            _visit(walk, [binding for block in main.body.blocks for binding in block.bindings])
            body = main.body.body
            value = walk.values[body] if body in walk.values else walk.keep_plain(body)
            if isinstance(value, list):
                value = relax.Tuple([walk.make_plain(part) for part in value])
            output = builder.emit_output(walk.make_plain(value) if isinstance(value, Value) else value)
        builder.emit_func_output(output)
    module = builder.finalize()
    # The walk has found the weights, which become further parameters of main.
    function = module["main"]
    module["main"] = relax.Function(
        [*function.params, *walk.recipes.values()], function.body, function.ret_ty, function.is_pure, function.attrs
    )
    module = join_column_sums(relax.transform.DeadCodeElimination()(module))
    module = join_norms(module, walk.moments, walk.lanes)
    assert isinstance(module, tvm.ir.IRModule)
    fallbacks = tuple(dict.fromkeys(walk.fallbacks))
    return Rewritten(
        module,
        tuple(walk.recipes),
        fallbacks,
        tuple(walk.convolutions.items()),
        walk.functions,
        walk.kernels,
        frozenset(walk.transforming),
        walk.products,
        walk.softmaxes,
        walk.made,
    )


def _visit(walk: Rewriter, bindings: Sequence[relax.VarBinding]) -> None:
    """Give the variable of each binding its new value. Attentions of bytes have one value each."""
    attentions = ByteAttentions(walk, bindings)
    expressions = {binding.var: binding.value for binding in bindings}
    for var, expr in expressions.items():
        site = attentions.sites.get(var)
        served = None if site is None else attentions.emit(site)
        if served is not None:
            walk.bindings[var], walk.values[var] = expr, served
        elif var not in attentions.inside:
            for each in (*(site.inside if site is not None else ()), var):
                walk.bindings[each] = expressions[each]
                walk.values[each] = walk.visit(expressions[each])
