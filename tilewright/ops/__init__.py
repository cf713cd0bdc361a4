"""Families of operators, one folder each: tensor expressions of TVM, and the templates that schedule them.

An expression carries a :class:`Mark`, which says what kind of task it becomes. A :class:`Template` serves tasks of a
kind: it makes their design spaces. :data:`TEMPLATES` lists all of them. ``docs/how-to/write-your-own-template.md`` adds
a family with nothing but what this package exports.

The second argument of :func:`make_function` says what TVM may fuse: :data:`OPAQUE` fuses nothing with the function,
:data:`FUSABLE` fuses the element-wise operators that follow it, and :data:`ELEMENTWISE` fuses the function with others.
:data:`Configs` is the type of an ``(n, knobs)`` int32 array of configs.
"""

from tilewright.errors import FormError
from tilewright.ops.function import ELEMENTWISE, FUSABLE, OPAQUE, make_function
from tilewright.ops.mark import Mark
from tilewright.ops.registry import TEMPLATES, make_space
from tilewright.space.configs import choices_of
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob, divisors
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.module import form_errors, space_errors, task_module
from tilewright.space.space import Configs, DesignSpace
from tilewright.space.template import FormReader, Template

__all__ = [
    "ELEMENTWISE",
    "FUSABLE",
    "OPAQUE",
    "TEMPLATES",
    "ChoiceKnob",
    "Configs",
    "DesignSpace",
    "FormError",
    "FormReader",
    "Knob",
    "KnobsAlone",
    "Mark",
    "OrderKnob",
    "SplitKnob",
    "Template",
    "choices_of",
    "divisors",
    "form_errors",
    "make_function",
    "make_space",
    "space_errors",
    "task_module",
]
