"""Design spaces: what they are made of, and what searchers need to move in them. No operator is named here.

A *config* is a row of small integers, one index for each knob. :data:`Configs` is the type of an ``(n, knobs)`` int32
array of configs. :data:`Contains` is the type of a function that tells which configs are in some set.
"""

from tilewright.space.configs import (
    ConfigSet,
    Contains,
    check,
    choices_of,
    crossover,
    distinct,
    knob_values,
    mutate,
    neighbours,
    sample,
    size,
)
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob, divisors
from tilewright.space.loop_nest import Annotation, LoopNest
from tilewright.space.space import Canonical, Configs, DesignSpace

__all__ = [
    "Annotation",
    "Canonical",
    "ChoiceKnob",
    "ConfigSet",
    "Configs",
    "Contains",
    "DesignSpace",
    "Knob",
    "LoopNest",
    "OrderKnob",
    "SplitKnob",
    "check",
    "choices_of",
    "crossover",
    "distinct",
    "divisors",
    "knob_values",
    "mutate",
    "neighbours",
    "sample",
    "size",
]
