"""Functions that give two sums for each channel of their result besides it, for batch norms and their gradients.

A convolution and the statistics of its result are one function. The template of the convolution schedules the part
without statistics. The program then adds each number to the sums when it stores it, so the result is not read again.

``form`` takes such a function apart, ``program`` adds the sums to a scheduled program, and ``space`` is the design
space.
"""

from tilewright.ops.summed.form import KIND, make_mark
from tilewright.ops.summed.space import SummedSpace, SummedTemplate

__all__ = ["KIND", "SummedSpace", "SummedTemplate", "make_mark"]
