"""Pooling, means over an image, and local sums: functions that slide a window.

All expressions but those of max pooling and of sums of bytes are TVM's own. None has a mark, so the template looks at
the function.
"""

from tilewright.ops.window.expression import Windows, max_pool, sum_bytes
from tilewright.ops.window.space import WindowSpace, WindowTemplate

__all__ = ["WindowSpace", "WindowTemplate", "Windows", "max_pool", "sum_bytes"]
