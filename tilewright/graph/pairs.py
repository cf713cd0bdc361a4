"""Joins pairs of calls of a fused network, of which the second reads the result of the first, into one.

    t = first(a, b); y = second(t, c)
    -->
    t, y = first_second(a, b, c)

If nothing else reads ``t``, it need not be a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.graph.again import count_uses
from tilewright.graph.calls import replace_calls
from tilewright.graph.grouping import fuse
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule
    from tvm.tirx import PrimFunc

__all__ = ["Pair", "find_pairs", "join_calls", "join_functions", "join_two"]


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

    @property
    def names(self) -> tuple[str, str]:
        """The names of both functions."""
        return str(self.first.args[0].name_hint), str(self.second.args[0].name_hint)

    def make_name(self, word: str) -> str:
        """The name of one function for both: that of the first, and a word for the second."""
        return f"{self.names[0].rstrip('0123456789')}_{word}"

    @property
    def places(self) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
        """The operands of both calls by their places among ``operands``; None: the first's result."""
        found = {operand: place for place, operand in enumerate(self.operands)}
        first = tuple(found[operand] for operand in self.first_reads)
        return first, tuple(None if operand is None else found[operand] for operand in self.second_reads)


def find_pairs(module: IRModule, place: int, fits: Callable[[Pair], bool], only: bool = False) -> list[Pair]:
    """Pairs of calls of a fused network, of which the second reads the result of the first. No call is in two pairs.

    Args:
        module: the fused network.
        place: among the operands of the second call, that of the first one's result.
        fits: whether two calls make a pair.
        only: whether a result that nothing else reads is left out. The joined call then comes where the second one
            was. All others come where the first one was, so all that they read is there before it.
    """
    from tvm import relax

    main = module["main"]
    uses = count_uses(main)
    calls: dict[relax.Expr, relax.Call] = {}
    order: dict[relax.Expr, int] = {param: -1 for param in main.params}
    same: dict[relax.Expr, relax.Expr] = {}
    pairs: list[Pair] = []
    taken: set[relax.Call] = set()
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
            first = calls.get(reads[place]) if len(reads) > place else None  # constants alone have no operands
            if first is None or first in taken:
                continue
            source, others = reads[place], [*reads[:place], *reads[place + 1 :]]
            own = tuple(same.get(operand, operand) for operand in first.args[1].fields)
            alone = only and uses[source] == 1 and call.args[1].fields[place].same_as(source) and source not in others
            pair = Pair(first, call, own, (*reads[:place], None, *reads[place + 1 :]), alone)
            early = all(order.get(operand, -1) < order[source] for operand in others)
            if (alone or early) and fits(pair):
                pairs.append(pair)
                taken |= {first, call}
    return pairs


def join_calls(
    module: IRModule, marks: Mapping[str, Mark], pairs: Sequence[Pair], describe: Callable[[Pair], tuple[str, Mark]]
) -> tuple[IRModule, Mapping[str, Mark]]:
    """The fused network with one function for each pair of calls, and all marks.

    Args:
        module: the fused network.
        marks: of its functions, by name.
        pairs: of calls.
        describe: gives the name of a pair's function, and its mark.
    """
    from tvm import relax

    if not pairs:
        return module, marks
    firsts = {pair.first: pair for pair in pairs if not pair.only}
    lasts = {pair.second: pair for pair in pairs if pair.only}
    found = dict(marks)
    made: dict[tuple[object, ...], relax.GlobalVar] = {}
    seconds: dict[relax.Call, relax.Var] = {}

    def replace(walk: relax.PyExprMutator, call: relax.Call) -> relax.Expr | None:
        if call in seconds:
            return seconds[call]
        pair = firsts.get(call) or lasts.get(call)
        if pair is None:
            return None
        key = (pair.names, pair.only, pair.places)
        if key not in made:
            name, mark = describe(pair)
            made[key] = walk.builder_.add_func(join_two(module, pair), name)
            found[str(made[key].name_hint)] = mark
        operands = [walk.visit_expr(operand) for operand in pair.operands]
        kinds = [each.ty_args[0] for each in (pair.first, pair.second)]
        if pair.only:
            return relax.call_tir(made[key], operands, kinds[1])
        both = walk.builder_.emit(relax.call_tir(made[key], operands, kinds))
        seconds[pair.second] = walk.builder_.emit(relax.TupleGetItem(both, 1))
        return relax.TupleGetItem(both, 0)

    return replace_calls(module, replace), found


def join_two(module: IRModule, pair: Pair) -> PrimFunc:
    """One function that computes what the two of a pair do."""
    first, second = (module[call.args[0]] for call in (pair.first, pair.second))
    kinds, results = [operand.ty for operand in pair.operands], (pair.first.ty_args[0], pair.second.ty_args[0])
    return join_functions(first, second, kinds, pair.places, results, pair.only)


def join_functions(
    first: PrimFunc,
    second: PrimFunc,
    operands: Sequence[relax.TensorType],
    reads: tuple[Sequence[int], Sequence[int | None]],
    results: tuple[relax.TensorType, relax.TensorType],
    only: bool = False,
) -> PrimFunc:
    """One function with both results of two functions.

    Args:
        first: gives the first result.
        second: gives the second one, and reads the first.
        operands: what they read.
        reads: the operands of each by their places; None: the first result.
        results: what they give.
        only: whether the second result alone is one of the whole function.
    """
    from tvm import relax

    builder = relax.BlockBuilder()
    called = [builder.add_func(function, "each") for function in (first, second)]
    params, inputs = ([relax.Var(f"{name}{i}", kind) for i, kind in enumerate(operands)] for name in "pq")
    with builder.function("joined", params, attrs={"Primitive": 1}, private=True):
        with builder.dataflow():
            between = builder.emit(relax.call_tir(called[0], [params[i] for i in reads[0]], results[0]))
            arguments = [between if i is None else params[i] for i in reads[1]]
            last = builder.emit(relax.call_tir(called[1], arguments, results[1]))
            output = builder.emit_output(last if only else relax.Tuple([between, last]))
        builder.emit_func_output(output)
    joined = builder.get().get_global_var("joined")
    with builder.function("main", inputs):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(relax.Call(joined, inputs)))
        builder.emit_func_output(output)
    function: PrimFunc = fuse(builder.finalize())["joined"]
    return function
