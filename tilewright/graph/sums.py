"""Joins the statistics of batch norms with the convolutions whose results they sum.

y = conv2d(x, w); s = channel_statistics(y)
-->
y, s = conv2d_statistics(x, w)

The gradient of a norm has such sums, too, of the gradient of its result and of its data:

d = conv2d_threshold_gradient(dy, w, z); s = channel_statistics(d, x, mean)
-->
d, s = conv2d_threshold_gradient_statistics(dy, w, z, x, mean)

So the result of the convolution is not read again for its sums (Jung et al., MLSys 2019, "Restructuring batch
normalization to accelerate CNN training").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.graph.grouping import fuse
from tilewright.ops.contraction.form import KIND as CONTRACTION
from tilewright.ops.depthwise_gradient import KIND as DEPTHWISE_GRADIENT
from tilewright.ops.mark import UNMARKED, Mark
from tilewright.ops.pixel_sums import KIND as SUMS
from tilewright.ops.pixel_sums import STATISTICS
from tilewright.ops.summed import make_mark
from tilewright.ops.window.places import RECOMPUTING
from tilewright.ops.winograd.expression import KIND as WINOGRAD

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule
    from tvm.tirx import PrimFunc

__all__ = ["Pair", "find_pairs", "join_calls", "join_functions", "join_statistics"]

#: The kinds of functions whose programs store each number of their result once.
_SUMMED = (CONTRACTION, DEPTHWISE_GRADIENT, WINOGRAD)


@dataclass(frozen=True)
class Pair:
    """Two calls in a fused network, of which the second reads the result of the first.

    Attributes:
        first, second: the calls.
        first_reads, second_reads: their operands. That of the second which is the first's result is None.
        only: whether nothing else reads the first one's result, so that it need not be written.
    """

    first: relax.Call
    second: relax.Call
    first_reads: tuple[relax.Expr, ...]
    second_reads: tuple[relax.Expr | None, ...]
    only: bool = False

    @property
    def operands(self) -> list[relax.Expr]:
        """What both read, each once."""
        others = [operand for operand in self.second_reads if operand is not None]
        return list(dict.fromkeys([*self.first_reads, *others]))


def join_statistics(module: IRModule, marks: Mapping[str, Mark]) -> tuple[IRModule, Mapping[str, Mark]]:
    """The fused network with one function for each convolution and the statistics of its result, and all marks.

    Args:
        module: the fused network.
        marks: of its functions, by name.
    """

    def fits(first: relax.Call, second: relax.Call, source: relax.Expr) -> bool:
        return _sums(second, marks) and _is_summed(first, source, marks)

    pairs = find_pairs(module, 0, fits)
    return join_calls(module, marks, pairs, lambda pair: ("statistics", make_mark(marks[_name(pair.first)])))


def join_calls(
    module: IRModule,
    marks: Mapping[str, Mark],
    pairs: Sequence[Pair],
    describe: Callable[[Pair], tuple[str, Mark]],
) -> tuple[IRModule, Mapping[str, Mark]]:
    """The fused network with one function for each pair of calls, and all marks.

    Args:
        module: the fused network.
        marks: of its functions, by name.
        pairs: of calls.
        describe: gives the last word of the name of a pair's function, and its mark.
    """
    import tvm
    from tvm import relax

    if not pairs:
        return module, marks
    firsts, seconds = ({getattr(pair, key): pair for pair in pairs} for key in ("first", "second"))
    found = dict(marks)
    made: dict[tuple[object, ...], relax.GlobalVar] = {}
    sums: dict[relax.Call, relax.Var] = {}

    @relax.expr_functor.mutator
    class Joiner(relax.PyExprMutator):  # type: ignore[misc]  # TVM has no types
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            if call in sums:
                return sums[call]
            pair = seconds.get(call) if call in seconds else firsts.get(call)
            if pair is None or (pair.only and call in firsts):
                return self.visit_expr_post_order(call)
            names = _name(pair.first), _name(pair.second)
            places = {operand: place for place, operand in enumerate(pair.operands)}
            key = (*names, pair.only, *(places.get(a, -1) for a in (*pair.first_reads, *pair.second_reads)))
            if key not in made:
                word, mark = describe(pair)
                made[key] = self.builder_.add_func(_join_two(module, pair), f"{names[0].rstrip('0123456789')}_{word}")
                found[str(made[key].name_hint)] = mark
            kinds = [each.ty_args[0] for each in (pair.first, pair.second)]
            operands = [self.visit_expr(operand) for operand in pair.operands]
            if pair.only:
                return relax.call_tir(made[key], operands, kinds[1])
            both = self.builder_.emit(relax.call_tir(made[key], operands, kinds))
            sums[pair.second] = self.builder_.emit(relax.TupleGetItem(both, 1))
            return relax.TupleGetItem(both, 0)

    joiner = Joiner(module)
    main = joiner.visit_expr(module["main"])
    joined = joiner.builder_.get()
    joined[joined.get_global_var("main")] = main
    joined = relax.transform.DeadCodeElimination()(joined)
    assert isinstance(joined, tvm.ir.IRModule)
    return joined, found


def find_pairs(module: IRModule, place: int, fits: Callable[[relax.Call, relax.Call, relax.Expr], bool]) -> list[Pair]:
    """Pairs of calls of a fused network, of which the second reads the result of the first.

    What both read is there before the first call. No call is in two pairs.

    Args:
        module: the fused network.
        place: among the operands of the second call, that of the first one's result.
        fits: whether two calls make a pair. Also gets the variable of the first one's result.
    """
    from tvm import relax

    main = module["main"]
    calls: dict[relax.Expr, relax.Call] = {}
    order: dict[relax.Expr, int] = {param: -1 for param in main.params}
    same: dict[relax.Expr, relax.Expr] = {}
    pairs: dict[relax.Call, Pair] = {}
    for block in main.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Var):  # another name
                same[binding.var] = same.get(call, call)
                continue
            order[binding.var] = len(order)
            if not isinstance(call, relax.Call) or getattr(call.op, "name", "") != "relax.call_tir":
                continue
            calls[binding.var] = call
            reads = [same.get(operand, operand) for operand in call.args[1].fields]
            if len(reads) <= place:  # such as a function of constants alone
                continue
            source, others = reads[place], [*reads[:place], *reads[place + 1 :]]
            first = calls.get(source)
            if first is None or first in pairs or not fits(first, call, source):
                continue
            if all(order.get(operand, -1) < order[source] for operand in others):
                own = tuple(same.get(operand, operand) for operand in first.args[1].fields)
                pairs[first] = Pair(first, call, own, (*reads[:place], None, *reads[place + 1 :]))
    return list(pairs.values())


def _name(call: relax.Call) -> str:
    """The name of the function that is called."""
    return str(call.args[0].name_hint)


def _sums(call: relax.Call, marks: Mapping[str, Mark]) -> bool:
    """Whether a call sums the channels of an image that is its first operand, with nothing fused before."""
    name = str(call.args[0].name_hint)
    if marks[name].kind != SUMS or name.rstrip("0123456789") != STATISTICS:
        return False
    shape = _shape(call.args[1].fields[0])
    return len(shape) == 5 and shape[1] * shape[4] == _shape(call)[1]


def _is_summed(call: relax.Call, var: relax.Expr, marks: Mapping[str, Mark]) -> bool:
    """Whether a call computes an image whose numbers are stored once."""
    name = str(call.args[0].name_hint)
    # A pool's gradient adds to its result again and again. If an activation's gradient follows, that is stored once.
    alone = marks[name].kind in _SUMMED or (marks[name] == UNMARKED and f"fused_{RECOMPUTING}_" in name)
    return alone and len(_shape(var)) == 5


def _shape(tensor: relax.Expr) -> tuple[int, ...]:
    from tvm import relax

    kind = tensor.ty
    if isinstance(tensor, relax.Call) and tensor.ty_args:
        kind = tensor.ty_args[0]
    return tuple(int(extent) for extent in kind.shape.values) if isinstance(kind, relax.TensorType) else ()


def _join_two(module: IRModule, pair: Pair) -> PrimFunc:
    """One function that computes what the two of a pair do."""
    places = {operand: place for place, operand in enumerate(pair.operands)}
    shapes = [_shape(operand) for operand in pair.operands]
    first, second = (module[call.args[0]] for call in (pair.first, pair.second))
    reads = tuple(places[a] for a in pair.first_reads)
    others = tuple(None if a is None else places[a] for a in pair.second_reads)
    results = _shape(pair.first), _shape(pair.second)
    return join_functions(first, second, shapes, reads, others, results, pair.only)


def join_functions(
    first: PrimFunc,
    second: PrimFunc,
    operands: Sequence[tuple[int, ...]],
    first_reads: Sequence[int],
    second_reads: Sequence[int | None],
    results: tuple[tuple[int, ...], tuple[int, ...]],
    only: bool = False,
) -> PrimFunc:
    """One function with both results of two functions of float32 tensors.

    Args:
        first: gives the first result.
        second: gives the second one, and reads the first.
        operands: the shapes of all operands.
        first_reads: the operands of ``first`` by their places.
        second_reads: those of ``second``; None: the first result.
        results: their shapes.
        only: whether the second result alone is one of the whole function.
    """
    from tvm import relax

    builder = relax.BlockBuilder()
    called = [builder.add_func(function, "each") for function in (first, second)]
    params, inputs = (
        [relax.Var(f"{name}{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(operands)]
        for name in "pq"
    )
    kinds = [relax.TensorType(shape, "float32") for shape in results]
    with builder.function("joined", params, attrs={"Primitive": 1}, private=True):
        with builder.dataflow():
            image = builder.emit(relax.call_tir(called[0], [params[i] for i in first_reads], kinds[0]))
            arguments = [image if i is None else params[i] for i in second_reads]
            total = builder.emit(relax.call_tir(called[1], arguments, kinds[1]))
            output = builder.emit_output(total if only else relax.Tuple([image, total]))
        builder.emit_func_output(output)
    joined = builder.get().get_global_var("joined")
    with builder.function("main", inputs):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(relax.Call(joined, inputs)))
        builder.emit_func_output(output)
    function: PrimFunc = fuse(builder.finalize())["joined"]
    return function
