"""Finds pairs of functions of which the second alone reads the result of the first, and joins both into one.

A 1x1 convolution and a depthwise one, or two dense layers:

    t = fused_conv2d_add_relu(x, w, b); y = fused_depthwise_conv2d_add_relu(t, v, c)
    -->
    y = expansion(x, w, b, v, c)

    t = fused_dense_add_gelu(x, w, b); y = fused_dense_add_add(t, v, c, r)
    -->
    y = mlp(x, w, b, v, c, r)

All functions are fused already. So whatever follows each convolution or layer goes with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tilewright.graph.alternatives import find_calls
from tilewright.graph.grouping import fuse
from tilewright.graph.task_use import find_weights, key_of, make_use, strip
from tilewright.ops.contraction.form import KIND as CONTRACTION
from tilewright.ops.expansion import KIND as EXPANSION
from tilewright.ops.expansion import ExpansionTemplate
from tilewright.ops.mark import Mark
from tilewright.ops.mlp import MlpTemplate
from tilewright.space.template import Template
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule
    from tvm.tirx import PrimFunc

__all__ = ["Joint", "count_joints", "find_pairs", "join_pairs"]

#: The templates of joint functions, by what :func:`tilewright.ops.contraction.form.mark_roles` says of both functions.
_TEMPLATES: Mapping[tuple[str, str], Template] = {
    ("boppl/rrrr", "boppl/rr"): ExpansionTemplate(),
    ("pol/r", "pol/r"): MlpTemplate(),
}


@dataclass(frozen=True)
class Joint:
    """Two functions of a network that one function can replace. Equal ones are computed in the same way.

    Attributes:
        keys: of the tasks of both functions.
        one: the task of the one function.
        several: the tasks of both.
    """

    keys: tuple[str, str]
    one: Task = field(compare=False)
    several: tuple[Task, Task] = field(compare=False)

    @property
    def work(self) -> int:
        """The number of multiply-adds, about."""
        return max(1, int(self.one.flop / 2))

    def __str__(self) -> str:
        return self.one.name


@dataclass(frozen=True)
class Pair:
    """Two calls in a fused network, of which the second alone reads the result of the first.

    Attributes:
        keys: of the tasks of both functions.
        first, second: the calls.
        template: schedules one function for both.
    """

    keys: tuple[str, str]
    first: relax.Call
    second: relax.Call
    template: Template

    @property
    def operands(self) -> list[relax.Expr]:
        """What both read, each once. The second reads the result of the first as its first operand."""
        return list(dict.fromkeys([*self.first.args[1], *list(self.second.args[1])[1:]]))


def find_pairs(module: IRModule, marks: Mapping[str, Mark]) -> list[Pair]:
    """The pairs of a fused network, in the order of their calls.

    Args:
        module: the fused functions, and a ``main`` that calls them.
        marks: of the functions.
    """
    from tvm import relax

    main = module["main"]
    bound: dict[relax.Var, relax.Expr] = {}
    readers: Counter[relax.Var] = Counter([main.body.body])

    def count(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            readers[expr] += 1

    for block in main.body.blocks:
        for binding in block.bindings:
            bound[binding.var] = binding.value
            relax.analysis.post_order_visit(binding.value, count)
    found = []
    taken: set[relax.Call] = set()
    ends = {roles for _, roles in _TEMPLATES}
    for second in find_calls(main):
        if _roles_of(second, marks) not in ends:
            continue
        read, *others = second.args[1]
        first = bound.get(read)
        alone = readers[read] == 1 and not any(other.same_as(read) for other in others)
        if first is None or not alone or not _is_call(first) or first in taken:
            continue
        template = _TEMPLATES.get((_roles_of(first, marks), _roles_of(second, marks)))
        if template is not None and _is_likely(module[first.args[0]], template):
            one, other = (key_of(strip(module[call.args[0]])) for call in (first, second))
            found.append(Pair((one, other), first, second, template))
            taken.add(second)
    return found


def count_joints(
    module: IRModule, marks: Mapping[str, Mark], inputs: int, target: Target
) -> tuple[tuple[Joint, int], ...]:
    """The pairs of a fused network that a template serves as one function, and how often each occurs.

    Args:
        module: the fused network.
        marks: of its functions.
        inputs: the number of its inputs. Further parameters of ``main`` are weights.
        target: what the network was rewritten for.
    """
    counts: Counter[Joint] = Counter()
    known: dict[tuple[str, str], Joint] = {}
    own = list(module["main"].params)[inputs:]
    weights = find_weights(module["main"], inputs)
    for pair in find_pairs(module, marks):
        kind = pair.template.kind
        if pair.keys not in known:
            function = strip(_join_two(module, pair))
            places = tuple(i for i, a in enumerate(pair.operands) if any(a.same_as(w) for w in own))
            one = make_use(key_of(function), [kind], function, Mark(kind), 1, places).task
            names = [str(call.args[0].name_hint) for call in (pair.first, pair.second)]
            several = [
                make_use(key, [name], strip(module[name]), marks[name], 1, weights[name]).task
                for key, name in zip(pair.keys, names, strict=True)
            ]
            known[pair.keys] = Joint(pair.keys, one, (several[0], several[1]))
        joint = known[pair.keys]
        if joint in counts or pair.template.serves(joint.one, target):
            counts[joint] += 1
    return tuple(counts.items())


def join_pairs(
    module: IRModule, marks: Mapping[str, Mark], chosen: Collection[tuple[str, str]]
) -> tuple[IRModule, dict[str, Mark]]:
    """The network with one function for each pair whose keys are in ``chosen``, and the marks of its functions.

    Args:
        module: the fused network.
        marks: of its functions.
        chosen: the keys of pairs.
    """
    import tvm
    from tvm import relax

    pairs = {pair.second: pair for pair in find_pairs(module, marks) if pair.keys in chosen}
    found = dict(marks)

    @relax.expr_functor.mutator
    class Joiner(relax.PyExprMutator):  # type: ignore[misc]  # TVM has no types
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            pair = pairs.get(call)
            if pair is None:
                return self.visit_expr_post_order(call)
            kind = pair.template.kind
            var = self.builder_.add_func(_join_two(module, pair), kind)
            found[str(var.name_hint)] = Mark(kind)
            return relax.call_tir(var, [self.visit_expr(a) for a in pair.operands], call.ty_args[0])

    joiner = Joiner(module)
    main = joiner.visit_expr(module["main"])
    made = joiner.builder_.get()
    made[made.get_global_var("main")] = main
    made = relax.transform.DeadCodeElimination()(made)
    assert isinstance(made, tvm.ir.IRModule)
    return made, found


def _join_two(module: IRModule, pair: Pair) -> PrimFunc:
    """One function that computes what the two of a pair do."""
    import tvm
    from tvm import relax

    kind = pair.template.kind
    params = [relax.Var(f"p{i}", operand.ty) for i, operand in enumerate(pair.operands)]
    given = dict(zip(pair.operands, params, strict=True))
    called = {call.args[0]: module[call.args[0]] for call in (pair.first, pair.second)}
    builder = relax.BlockBuilder(tvm.ir.IRModule(called))
    with builder.function(kind, params, attrs={"Primitive": 1}, private=True):
        with builder.dataflow():
            arguments = [given[a] for a in pair.first.args[1]]
            between = builder.emit(relax.call_tir(pair.first.args[0], arguments, pair.first.ty_args[0]))
            arguments = [between, *(given[a] for a in list(pair.second.args[1])[1:])]
            output = builder.emit_output(relax.call_tir(pair.second.args[0], arguments, pair.second.ty_args[0]))
        builder.emit_func_output(output)
    inputs = [relax.Var(f"q{i}", operand.ty) for i, operand in enumerate(pair.operands)]
    joined = builder.get().get_global_var(kind)
    with builder.function("main", inputs):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(relax.Call(joined, inputs)))
        builder.emit_func_output(output)
    function: PrimFunc = fuse(builder.finalize())[kind]
    return function


def _roles_of(call: relax.Call, marks: Mapping[str, Mark]) -> str:
    """The roles of the contraction that a call computes; "" if it computes none."""
    mark = marks.get(str(call.args[0].name_hint))
    return mark.detail if mark is not None and mark.kind == CONTRACTION else ""


def _is_call(expr: relax.Expr) -> bool:
    from tvm import ir, relax

    return isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op) and expr.op.name == "relax.call_tir"


def _is_likely(function: PrimFunc, template: Template) -> bool:
    """Whether the template may serve a pair with this first function: an expansion begins with a 1x1 kernel."""
    shape = [int(extent) for extent in function.params[1].ty.shape]
    return template.kind != EXPANSION or (len(shape) == 6 and shape[2:4] == [1, 1])
