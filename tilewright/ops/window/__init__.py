"""Pooling, means over an image, and local sums: functions that slide a window.

All expressions but that of max pooling are TVM's own. None has a mark, so the template looks at the function.
"""

from tilewright.ops.window.expression import Windows, max_pool
from tilewright.ops.window.space import WindowSpace, WindowTemplate

__all__ = ["WindowSpace", "WindowTemplate", "Windows", "max_pool"]
