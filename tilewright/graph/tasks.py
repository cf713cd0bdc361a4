"""Cuts a network into tasks: fuses its operators, and merges functions of equal structure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError, UnsupportedOperatorError
from tilewright.executable.plan import Plan
from tilewright.executable.planner import make_plan
from tilewright.frontend.network import Network
from tilewright.graph.activations import join_activations
from tilewright.graph.alternatives import replace_groups, splice
from tilewright.graph.attention import AttentionSite, find_attentions
from tilewright.graph.computed import join_computed
from tilewright.graph.convolution import Algorithm, Convolution
from tilewright.graph.excitation import join_excitations
from tilewright.graph.expansions import Joint, count_joints, join_pairs
from tilewright.graph.grouping import enter_context, fuse, group
from tilewright.graph.joining import join_sites, separate_site
from tilewright.graph.rewrite import Rewritten, rewrite
from tilewright.graph.sums import join_statistics
from tilewright.graph.task_use import TaskUse, find_weights, key_of, make_use, strip, task_of
from tilewright.graph.weights import Recipe
from tilewright.measure.memory import memory_error
from tilewright.notebook import html_table
from tilewright.ops.attention import Attention
from tilewright.ops.mark import Mark, take_marks
from tilewright.target import Target
from tilewright.task import Task
from tilewright.wording import counted, describe_error

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule
    from tvm.tirx import PrimFunc

__all__ = ["Extraction", "TaskList", "TaskUse", "extract", "task_of"]


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
        self, algorithms: Mapping[Convolution, Algorithm], joined: Collection[Attention | Joint] = frozenset()
    ) -> Extraction:
        """The network with other algorithms for some convolutions; all others are computed directly.

        Only the functions of these convolutions are made anew (:mod:`tilewright.graph.alternatives`).

        Args:
            algorithms: of convolutions.
            joined: which of ``attentions`` and ``joints`` are one function. All others are several.

        Raises:
            UnsupportedOperatorError: TVM cannot compile it.
            ResourceError: memory is missing.
        """
        with _translating(self.network):
            sites = self._sites if any(isinstance(form, Attention) for form in joined) else []
            return _with_algorithms(self.network, self.target, self.rewritten, self._direct, algorithms, joined, sites)

    @cached_property
    def _sites(self) -> list[AttentionSite]:
        return find_attentions(self.rewritten, self.network)

    @property
    def attentions(self) -> tuple[tuple[Attention, int], ...]:
        """The attentions that one function can compute, and how often each occurs."""
        return tuple(Counter(site.form for site in self._sites).items())

    @cached_property
    def joints(self) -> tuple[tuple[Joint, int], ...]:
        """Pairs of convolutions or dense layers that one function can compute, and how often each occurs."""
        direct = self._direct
        with _translating(self.network), enter_context(self.target):
            return count_joints(direct.fused, direct.marks, len(self.network.parameters), self.target)

    def separate_tasks(self, form: Attention | Joint) -> tuple[Task, ...]:
        """The tasks that compute one of ``attentions`` or ``joints`` if it is several functions."""
        if isinstance(form, Joint):
            return form.several
        site = next(site for site in self._sites if site.form == form)
        with _translating(self.network), enter_context(self.target):
            module, marks = take_marks(fuse(group(separate_site(self.rewritten.module, site))))
        functions = {v.name_hint: f for v, f in module.functions_items()}
        bare = {name: strip(functions[name]) for name in _calls(module["main"])}
        return tuple(make_use(key_of(f), [name], f, marks[name], 1, ()).task for name, f in bare.items())


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


def extract(
    network: Network,
    target: Target,
    algorithms: Mapping[Convolution, Algorithm] | None = None,
    assume: Callable[[Iterable[Convolution]], Mapping[Convolution, Algorithm]] | None = None,
) -> Extraction:
    """Rewrite and fuse a network, and list its tasks, heaviest first (FLOP times weight).

    Args:
        network: the network.
        target: the machine to rewrite it for.
        algorithms: of convolutions. Those that are missing are computed directly.
        assume: gives ``algorithms`` instead, when the convolutions for which there is a choice are known.

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
        if assume is not None:
            algorithms = assume(conv for conv, _ in rewritten.convolutions)
        if algorithms:
            return _with_algorithms(network, target, rewritten, direct, algorithms)
        return _list_tasks(network, target, rewritten, fused, rewritten.recipes, marks, direct)


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
    network: Network,
    target: Target,
    original: Rewritten,
    unchanged: _Direct,
    algorithms: Mapping[Convolution, Algorithm],
    joined: Collection[Attention | Joint] = frozenset(),
    sites: Sequence[AttentionSite] = (),
) -> Extraction:
    direct, rewritten = unchanged, original
    with enter_context(target):
        attentions = {form for form in joined if isinstance(form, Attention)}
        if attentions:
            rewritten = join_sites(rewritten, len(network.parameters), sites, attentions)
            grouped = group(rewritten.module)
            direct = _Direct(grouped, *take_marks(fuse(grouped)))
        marks = dict(direct.marks)
        replacements = replace_groups(
            direct.grouped, rewritten, algorithms, lambda module: take_marks(fuse(group(module)))
        )
        module, recipes, names = splice(direct.fused, rewritten, len(network.parameters), replacements)
        marks |= {new: replacements[group].marks[old] for (group, old), new in names.items()}
        keys = {form.keys for form in joined if isinstance(form, Joint)}
        if keys:
            module, found = join_pairs(module, marks, keys)
            marks = dict(found)
    return _list_tasks(network, target, original, module, recipes, marks, unchanged)


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
    module, marks = join_statistics(module, marks)
    module, marks = join_activations(module, marks, target.lanes)
    module, marks = join_computed(module, marks)
    plan = make_plan(module, len(network.parameters), 4 * target.lanes, network.in_place)
    if plan is not None:
        _check_results(network, plan)
    if plan is None and network.segments:
        raise UnsupportedOperatorError("a network of which a part runs in ONNX Runtime has a plan, but this has none")
    calls = _calls(module["main"]) if plan is None else Counter(call.kernel for call in plan.calls if call.kernel)
    weights = find_weights(module["main"], len(network.parameters))
    groups: dict[str, list[str]] = {}
    functions: dict[str, PrimFunc] = {}
    for var, function in module.functions_items():
        name = var.name_hint
        if not isinstance(function, tirx.PrimFunc) or name not in calls or relax.analysis.has_reshape_pattern(function):
            continue  # the build turns a reshape into a view
        bare = strip(function)
        key = key_of(bare)
        groups.setdefault(key, []).append(name)
        functions.setdefault(key, bare)
    uses = [
        make_use(key, names, functions[key], marks[names[0]], sum(calls[n] for n in names), weights[names[0]])
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
