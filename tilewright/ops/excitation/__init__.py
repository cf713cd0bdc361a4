"""Squeeze and excitation: the means of an image's channels, and two products that make a gate for each of these.

``form`` reads one out of a fused function, ``program`` writes its loops, and ``space`` is the design space.
"""

from tilewright.ops.excitation.form import KIND
from tilewright.ops.excitation.space import ExcitationSpace, ExcitationTemplate

__all__ = ["KIND", "ExcitationSpace", "ExcitationTemplate"]
