"""Pooling, means over an image, and local sums: functions that slide a window.

Their expressions are TVM's own. So they have no mark, and the template looks at the function.
"""

from tilewright.ops.window.space import WindowSpace, WindowTemplate

__all__ = ["WindowSpace", "WindowTemplate"]
