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

from tilewright.graph.pairs import Pair, find_pairs, join_calls, join_two
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
    from tvm.ir import IRModule
    from tvm.tirx import PrimFunc

__all__ = ["Joint", "count_joints", "join_pairs"]

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


def _find_joints(module: IRModule, marks: Mapping[str, Mark]) -> list[tuple[Pair, Template]]:
    """The pairs that may be joined, in the order of their calls, and the template of each."""

    def fits(pair: Pair) -> bool:
        template = _find_template(pair, marks)
        return pair.only and template is not None and _is_likely(module[pair.first.args[0]], template)

    found = [(pair, _find_template(pair, marks)) for pair in find_pairs(module, 0, fits, only=True)]
    return [(pair, template) for pair, template in found if template is not None]


def _find_template(pair: Pair, marks: Mapping[str, Mark]) -> Template | None:
    """The template of one function for two contractions."""
    first, second = (marks.get(name) for name in pair.names)
    if first is None or second is None or first.kind != CONTRACTION or second.kind != CONTRACTION:
        return None
    return _TEMPLATES.get((first.detail, second.detail))


def _find_keys(module: IRModule, pair: Pair) -> tuple[str, str]:
    """The keys of the tasks of both functions."""
    first, second = (key_of(strip(module[call.args[0]])) for call in (pair.first, pair.second))
    return first, second


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
    for pair, template in _find_joints(module, marks):
        kind, keys = template.kind, _find_keys(module, pair)
        if keys not in known:
            function = strip(join_two(module, pair))
            places = tuple(i for i, a in enumerate(pair.operands) if any(a.same_as(w) for w in own))
            one = make_use(key_of(function), [kind], function, Mark(kind), 1, places).task
            several = [
                make_use(key, [name], strip(module[name]), marks[name], 1, weights[name]).task
                for key, name in zip(keys, pair.names, strict=True)
            ]
            known[keys] = Joint(keys, one, (several[0], several[1]))
        joint = known[keys]
        if joint in counts or template.serves(joint.one, target):
            counts[joint] += 1
    return tuple(counts.items())


def join_pairs(
    module: IRModule, marks: Mapping[str, Mark], chosen: Collection[tuple[str, str]]
) -> tuple[IRModule, Mapping[str, Mark]]:
    """The network with one function for each pair whose keys are in ``chosen``, and the marks of its functions.

    Args:
        module: the fused network.
        marks: of its functions.
        chosen: the keys of pairs.
    """
    kinds = {
        pair: template.kind for pair, template in _find_joints(module, marks) if _find_keys(module, pair) in chosen
    }
    return join_calls(module, marks, list(kinds), lambda pair: (kinds[pair], Mark(kinds[pair])))


def _is_likely(function: PrimFunc, template: Template) -> bool:
    """Whether the template may serve a pair with this first function: an expansion begins with a 1x1 kernel."""
    shape = [int(extent) for extent in function.params[1].ty.shape]
    return template.kind != EXPANSION or (len(shape) == 6 and shape[2:4] == [1, 1])
