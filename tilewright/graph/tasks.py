"""Cuts a network into tasks: fuses its operators, and merges functions of equal structure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tilewright.errors import ShapeError, TilewrightError, UnsupportedOperatorError
from tilewright.executable.plan import Plan
from tilewright.executable.planner import make_plan
from tilewright.frontend.network import Network
from tilewright.graph.alternatives import replace_groups, splice
from tilewright.graph.attention import AttentionSite, find_attentions
from tilewright.graph.convolution import Algorithm, Convolution
from tilewright.graph.excitation import join_excitations
from tilewright.graph.grouping import enter_context, fuse, group
from tilewright.graph.joining import join_sites, separate_site
from tilewright.graph.rewrite import Rewritten, rewrite
from tilewright.graph.weights import Recipe
from tilewright.measure.memory import memory_error
from tilewright.notebook import html_table
from tilewright.ops.attention import Attention
from tilewright.ops.mark import Mark, take_mark, take_marks
from tilewright.target import Target
from tilewright.task import WEIGHTS, Task
from tilewright.wording import counted, describe_error

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr, IRModule
    from tvm.tirx import Let, PrimFunc, Sub

__all__ = ["Extraction", "TaskList", "TaskUse", "extract", "task_of"]


@dataclass(frozen=True)
class TaskUse:
    """A task and its uses in a network.

    Attributes:
        task: the task.
        weight: number of calls in the network.
        functions: names of the fused functions that are this task.
    """

    task: Task
    weight: int
    functions: tuple[str, ...]


class TaskList(tuple[TaskUse, ...]):
    """Tasks and their uses, as a tuple that notebooks show as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        rows = [
            (use.task.name, use.task.kind, f"{use.weight:g}", f"{use.weight * use.task.flop / 1e6:.4g}") for use in self
        ]
        return html_table(counted(len(self), "task"), ("task", "kind", "calls", "MFLOP of a run"), rows)


@dataclass(frozen=True)
class Extraction:
    """A network that is ready to be tuned and built.

    Attributes:
        network: the network.
        target: what it was rewritten for.
        rewritten: the network in the layouts that its operators need, every convolution computed directly.
        module: the fused functions, and a ``main`` that calls them.
        recipes: how the weights are made, in the order of ``main``'s parameters after the inputs.
        uses: the tasks, the heaviest first: a :class:`TaskList` where the network was cut.
        plan: of its calls; None: the network runs on the virtual machine of Relax.
    """

    network: Network
    target: Target
    rewritten: Rewritten
    module: IRModule
    recipes: tuple[Recipe, ...]
    uses: tuple[TaskUse, ...]
    plan: Plan | None
    _direct: _Direct = field(repr=False)

    @property
    def parts(self) -> tuple[Extraction, ...]:
        """Itself: the network in its only bucket."""
        return (self,)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the tuning that its only bucket gets."""
        return (1.0,)

    @property
    def factors(self) -> tuple[float, ...]:
        """What one second of its only bucket weighs in the tuning."""
        return (1.0,)

    @property
    def convolutions(self) -> tuple[tuple[Convolution, int], ...]:
        """The convolutions for which there is a choice of algorithms, and how often each occurs."""
        return self.rewritten.convolutions

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Operators that stay in plain layout, and have the auto space."""
        return self.rewritten.fallbacks

    def with_algorithms(
        self, algorithms: Mapping[Convolution, Algorithm], joined: Collection[Attention] = frozenset()
    ) -> Extraction:
        """The network with other algorithms for some convolutions; all others are computed directly.

        Only the functions of these convolutions are made anew (:mod:`tilewright.graph.alternatives`).

        Args:
            algorithms: of convolutions.
            joined: which of ``attentions`` are one function. All others are several.

        Raises:
            UnsupportedOperatorError: TVM cannot compile it.
            ResourceError: memory is missing.
        """
        with _translating(self.network):
            return _with_algorithms(self, algorithms, joined)

    @cached_property
    def _sites(self) -> list[AttentionSite]:
        return find_attentions(self.rewritten, self.network)

    @property
    def attentions(self) -> tuple[tuple[Attention, int], ...]:
        """The attentions that one function can compute, and how often each occurs."""
        return tuple(Counter(site.form for site in self._sites).items())

    def separate_tasks(self, attention: Attention) -> tuple[Task, ...]:
        """The tasks that compute one of ``attentions`` if it is several functions."""
        site = next(site for site in self._sites if site.form == attention)
        with _translating(self.network), enter_context(self.target):
            module, marks = take_marks(fuse(group(separate_site(self.rewritten.module, site))))
        functions = {v.name_hint: f for v, f in module.functions_items()}
        bare = {name: _bare(functions[name]) for name in _calls(module["main"])}
        return tuple(_use(_key(f), [name], f, marks[name], 1, ()).task for name, f in bare.items())


@dataclass(frozen=True)
class _Direct:
    """A network that computes every convolution directly, on its way from operators to fused functions.

    Attributes:
        grouped: the operators in groups that are not fused yet.
        fused: the fused module.
        marks: of its functions.
    """

    grouped: IRModule
    fused: IRModule
    marks: Mapping[str, Mark]


def extract(network: Network, target: Target, algorithms: Mapping[Convolution, Algorithm] | None = None) -> Extraction:
    """Rewrite and fuse a network, and list its tasks, heaviest first (FLOP times weight).

    Args:
        network: the network.
        target: the machine to rewrite it for.
        algorithms: of convolutions. Those that are missing are computed directly.

    Raises:
        UnsupportedOperatorError: TVM imports an operator of the network, but cannot compile it.
        ShapeError: the values of an input decide the shape of a tensor.
        ResourceError: memory is missing.
    """
    with _translating(network):
        rewritten = rewrite(network, target)
        with enter_context(target):
            grouped = group(rewritten.module)
            fused, marks = take_marks(fuse(grouped))
        direct = _Direct(grouped, fused, marks)
        extraction = _list_tasks(network, target, rewritten, fused, rewritten.recipes, marks, direct)
        return extraction if not algorithms else _with_algorithms(extraction, algorithms)


@contextmanager
def _translating(network: Network) -> Iterator[None]:
    """Translate what TVM and Python raise while a network is cut into tasks."""
    try:
        yield
    except TilewrightError:
        raise
    except MemoryError as exc:
        raise memory_error(f"cutting {network.name} into tasks") from exc
    except Exception as exc:  # TVM's passes and ours raise errors of all classes
        raise UnsupportedOperatorError(
            f"every operator is one that can be compiled, but one of {network.name} is not: {describe_error(exc)}; "
            "replace it before export"
        ) from exc


def _with_algorithms(
    extraction: Extraction, algorithms: Mapping[Convolution, Algorithm], joined: Collection[Attention] = frozenset()
) -> Extraction:
    direct, rewritten = extraction._direct, extraction.rewritten
    network, target = extraction.network, extraction.target

    with enter_context(target):
        if joined:
            rewritten = join_sites(rewritten, len(network.parameters), extraction._sites, joined)
            grouped = group(rewritten.module)
            direct = _Direct(grouped, *take_marks(fuse(grouped)))
        marks = dict(direct.marks)
        replacements = replace_groups(
            direct.grouped, rewritten, algorithms, lambda module: take_marks(fuse(group(module)))
        )
        module, recipes, names = splice(direct.fused, rewritten, len(network.parameters), replacements)
    marks |= {new: replacements[group].marks[old] for (group, old), new in names.items()}
    return _list_tasks(network, target, extraction.rewritten, module, recipes, marks, extraction._direct)


def _list_tasks(
    network: Network,
    target: Target,
    rewritten: Rewritten,
    module: IRModule,
    recipes: tuple[Recipe, ...],
    marks: Mapping[str, Mark],
    direct: _Direct,
) -> Extraction:
    from tvm import relax, tirx

    module, marks = join_excitations(module, marks)
    plan = make_plan(module, len(network.parameters), 4 * target.lanes, network.in_place)
    if plan is not None:
        _check_results(network, plan)
    if plan is None and network.segments:
        raise UnsupportedOperatorError("a network of which a part runs in ONNX Runtime has a plan, but this has none")
    calls = _calls(module["main"]) if plan is None else Counter(call.kernel for call in plan.calls if call.kernel)
    weights = _weights(module["main"], len(network.parameters))
    groups: dict[str, list[str]] = {}
    functions: dict[str, PrimFunc] = {}
    for var, function in module.functions_items():
        name = var.name_hint
        if not isinstance(function, tirx.PrimFunc) or name not in calls or relax.analysis.has_reshape_pattern(function):
            continue  # the build turns a reshape into a view
        bare = _bare(function)
        key = _key(bare)
        groups.setdefault(key, []).append(name)
        functions.setdefault(key, bare)
    uses = [
        _use(key, names, functions[key], marks[names[0]], sum(calls[n] for n in names), weights[names[0]])
        for key, names in groups.items()
    ]
    uses.sort(key=lambda use: (-use.task.flop * use.weight, use.task.key))
    return Extraction(network, target, rewritten, module, recipes, TaskList(uses), plan, direct)


def _check_results(network: Network, plan: Plan) -> None:
    """Raise ``UnsupportedOperatorError`` if the plan has other outputs than the network: TVM made something else."""
    from tvm import relax

    result = network.module["main"].ret_ty
    kinds = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    for kind, number in zip(kinds, plan.outputs, strict=True):
        found, wanted = plan.tensors[number], tuple(int(d) for d in kind.shape.values)
        if (found.shape, found.dtype) != (wanted, str(kind.dtype)):
            raise UnsupportedOperatorError(
                f"a compiled operator gives what the model says, but a result is {found.dtype} {list(found.shape)} "
                f"instead of {kind.dtype} {list(wanted)}"
            )


def task_of(name: str, function: PrimFunc, weights: tuple[int, ...] = ()) -> Task:
    """The task of a function by itself, into which nothing is fused.

    Args:
        name: the name of the function, from which the task's name is made.
        function: the function of an expression.
        weights: places of the parameters that are weights.
    """
    bare, mark = take_mark(_bare(function))
    return _use(_key(bare), [name], bare, mark, 1, weights).task


def _bare(function: PrimFunc) -> PrimFunc:
    return function.without_attr("global_symbol").without_attr("op_pattern")


def _key(bare: PrimFunc) -> str:
    from tvm_ffi import structural_hash

    return f"{structural_hash(bare, map_free_vars=True) & (1 << 64) - 1:016x}"


def _calls(main: relax.Function) -> dict[str, int]:
    """Number of calls of each function in ``main``."""
    from tvm import ir, relax

    counts: dict[str, int] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op) and expr.op.name == "relax.call_tir":
            name = expr.args[0].name_hint
            counts[name] = counts.get(name, 0) + 1

    relax.analysis.post_order_visit(main, visit)
    return counts


def _weights(main: relax.Function, inputs: int) -> dict[str, tuple[int, ...]]:
    """The places of each function's parameters that are weights (of ``main``, after its inputs) in all calls."""
    from tvm import ir, relax

    own = list(main.params)[inputs:]
    found: dict[str, set[int]] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op) and expr.op.name == "relax.call_tir":
            name = expr.args[0].name_hint
            here = {
                place
                for place, argument in enumerate(expr.args[1])
                if any(argument.same_as(parameter) for parameter in own)
            }
            found[name] = found.get(name, here) & here

    relax.analysis.post_order_visit(main, visit)
    return {name: tuple(sorted(places)) for name, places in found.items()}


def _use(key: str, names: list[str], function: PrimFunc, mark: Mark, weight: int, weights: tuple[int, ...]) -> TaskUse:
    import tvm

    main = function.with_attr("global_symbol", "main")
    for attribute, value in mark.attributes.items():
        main = main.with_attr(attribute, value)
    if weights:
        main = main.with_attr(WEIGHTS, ",".join(map(str, weights)))
    module = tvm.ir.IRModule({"main": main})
    try:
        flop = float(tvm.s_tir.analysis.estimate_tir_flops(tvm.ir.IRModule({"main": _countable(main)})))
    except (RuntimeError, ValueError, TypeError):  # functions that it cannot count (casts, look-ups) move data
        flop = 0.0
    shapes = [_fixed(p.ty, names[0]) for p in function.params]
    # Moving data counts as one operation for each element that is written, so that no task is free.
    flop = max(flop, float(math.prod(shapes[-1])) if shapes else 0.0)
    stem = names[0].removeprefix("fused_").rstrip("0123456789")[:40]
    text = " ".join("x".join(map(str, s)) for s in (shapes[0], shapes[-1])) if shapes else ""
    return TaskUse(Task(key, f"{stem} {text}", mark.kind, flop, tvm.ir.save_json(module)), weight, tuple(names))


def _fixed(tensor: relax.TensorType, function: str) -> list[int]:
    try:
        return [int(d) for d in tensor.shape]
    except (TypeError, ValueError) as exc:
        raise ShapeError(
            f"every tensor has a fixed shape, but an operand or a result of {function} is {tensor}: values decide how "
            "large it is; cut the model before that operator"
        ) from exc


def _countable(function: PrimFunc) -> PrimFunc:
    """The function as TVM counts its operations.

    TVM counts no ``let``, so ``let t = a in b`` --> ``a + b``, which has the operations of a count once. Numbers that
    are made of bits, as weights of 4 bits are, count nothing: ``reinterpret(bits) * scale - shift`` --> ``scale``.
    How often a number is made is not what the network computes, but a choice of its program.
    """
    from tvm import ir, tirx
    from tvm_ffi import structural_map

    def unbound(node: Let) -> Expr:
        return node.value.astype(node.body.ty.dtype) + node.body

    def plain(node: Sub) -> Expr:
        made = node.a.a if isinstance(node.a, tirx.Mul) else None
        if not isinstance(made, ir.Call) or getattr(made.op, "name", "") != "tirx.reinterpret":
            return node
        scale = node.a.b
        return scale.a if isinstance(scale, tirx.Mul) else scale

    return function.with_body(structural_map(function.body, ((tirx.Let, unbound), (tirx.Sub, plain))))
