"""Softmax, layer norm, and gradients: functions that reduce each row, and then compute its elements."""

from tilewright.ops.rows.expression import (
    LONGEST_BYTE_ROW,
    ROW_MOMENTS,
    Guard,
    byte_layer_norm,
    layer_norm,
    row_moments,
    softmax,
)
from tilewright.ops.rows.gradients import LAYER_NORM_GRADIENT, LOG_SUM_EXP, layer_norm_gradient, log_sum_exp
from tilewright.ops.rows.space import RowsSpace, RowsTemplate

__all__ = [
    "LAYER_NORM_GRADIENT",
    "LOG_SUM_EXP",
    "LONGEST_BYTE_ROW",
    "ROW_MOMENTS",
    "Guard",
    "RowsSpace",
    "RowsTemplate",
    "byte_layer_norm",
    "layer_norm",
    "layer_norm_gradient",
    "log_sum_exp",
    "row_moments",
    "softmax",
]
