"""Softmax and layer norm: functions that reduce each row, and then compute its elements."""

from tilewright.ops.rows.expression import layer_norm, softmax
from tilewright.ops.rows.space import RowsSpace, RowsTemplate

__all__ = ["RowsSpace", "RowsTemplate", "layer_norm", "softmax"]
