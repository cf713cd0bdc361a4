"""Softmax, layer norm, and gradients: functions that reduce each row, and then compute its elements."""

from tilewright.ops.rows.expression import layer_norm, softmax
from tilewright.ops.rows.gradients import LAYER_NORM_GRADIENT, LOG_SUM_EXP, layer_norm_gradient, log_sum_exp
from tilewright.ops.rows.space import RowsSpace, RowsTemplate

__all__ = [
    "LAYER_NORM_GRADIENT",
    "LOG_SUM_EXP",
    "RowsSpace",
    "RowsTemplate",
    "layer_norm",
    "layer_norm_gradient",
    "log_sum_exp",
    "softmax",
]
