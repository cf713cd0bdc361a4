"""Which template serves a task: the registry of all templates, and the design space of a task."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.errors import SpaceError
from tilewright.ops.attention import AttentionTemplate, ByteAttentionTemplate
from tilewright.ops.attention_gradient import AttentionGradientTemplate
from tilewright.ops.computed_sums import ComputedSumsTemplate
from tilewright.ops.contraction import ContractionTemplate
from tilewright.ops.depthwise import DepthwiseTemplate
from tilewright.ops.depthwise_gradient import DepthwiseGradientTemplate
from tilewright.ops.elementwise import ElementwiseTemplate
from tilewright.ops.excitation import ExcitationTemplate
from tilewright.ops.expansion import ExpansionTemplate
from tilewright.ops.generic import AutoTemplate
from tilewright.ops.mlp import MlpTemplate
from tilewright.ops.norms import NormGradientTemplate, TrainingNormTemplate
from tilewright.ops.pixel_sums import PixelSumsTemplate
from tilewright.ops.quads import QuadsTemplate
from tilewright.ops.recurrent import RecurrentTemplate
from tilewright.ops.rows import RowsTemplate
from tilewright.ops.summed import SummedTemplate
from tilewright.ops.token_product import TokenProductTemplate
from tilewright.ops.window import WindowTemplate
from tilewright.ops.winograd import FusedWinogradTemplate, WinogradTransformTemplate
from tilewright.space.guard import guard_space
from tilewright.space.recorded import check_recorded
from tilewright.space.space import DesignSpace
from tilewright.space.template import Template
from tilewright.target import Target
from tilewright.task import Task

__all__ = ["TEMPLATES", "make_space", "recorded_space"]

#: All templates. The first that serves a task makes its space; the last one serves every task.
TEMPLATES: tuple[Template, ...] = (
    DepthwiseTemplate(),
    ContractionTemplate(),
    PixelSumsTemplate(),
    ComputedSumsTemplate(),
    DepthwiseGradientTemplate(),
    SummedTemplate(
        [
            DepthwiseTemplate(),
            ContractionTemplate(),
            DepthwiseGradientTemplate(),
            WinogradTransformTemplate(),
            WindowTemplate(),
        ]
    ),
    RowsTemplate(),
    QuadsTemplate(),
    RecurrentTemplate(),
    AttentionTemplate(),
    ByteAttentionTemplate(),
    AttentionGradientTemplate(),
    TokenProductTemplate(),
    TrainingNormTemplate(),
    NormGradientTemplate(),
    ExcitationTemplate(),
    ExpansionTemplate(),
    MlpTemplate(),
    FusedWinogradTemplate(),
    WinogradTransformTemplate(),
    ElementwiseTemplate(),
    WindowTemplate(),
    AutoTemplate(),
)


def make_space(task: Task, target: Target, templates: Sequence[Template] = TEMPLATES) -> DesignSpace:
    """The design space of ``task`` on ``target``: the same knobs in every process.

    Args:
        task: what to schedule.
        target: the machine to schedule it for.
        templates: in the order in which they are asked, such as ``(MyTemplate(), *TEMPLATES)``.

    Raises:
        SpaceError: no template is made for tasks of this kind, none serves the task, its function cannot be read, or a
            template fails.
    """
    kinds = [repr(kind) for kind in dict.fromkeys(template.kind for template in templates)]
    if repr(task.kind) not in kinds:
        known = " or ".join([", ".join(kinds[:-1]) or "none", *kinds[-1:]]) if len(kinds) != 1 else kinds[0]
        raise SpaceError(f"a task's kind is {known}, but that of {task.name!r} is {task.kind!r}")
    for template in templates:
        with guard_space(f"the template {template.name!r} of {task.name!r}"):
            if template.serves(task, target):
                return template.space(task, target)
    names = ", ".join(template.name for template in templates)
    raise SpaceError(
        f"a template serves each task, but {names} do not serve {task.name!r}; put TEMPLATES after your own templates"
    )


def recorded_space(task: Task, target: Target, templates: Sequence[Template] = TEMPLATES) -> DesignSpace:
    """The design space of a task whose function comes out of records; see :func:`make_space`.

    Raises:
        SpaceError: as ``make_space`` does, and where the function is not one that could be a task's.
    """
    check_recorded(task)
    return make_space(task, target, templates)
