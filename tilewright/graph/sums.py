"""Joins the statistics of batch norms with the convolutions whose results they sum.

y = conv2d(x, w); s = channel_statistics(y)
-->
y, s = conv2d_statistics(x, w)

The gradient of a norm has such sums, too, of the gradient of its result and of its data:

d = conv2d_threshold_gradient(dy, w, z); s = channel_statistics(d, x, mean)
-->
d, s = conv2d_threshold_gradient_statistics(dy, w, z, x, mean)

So the result of the convolution is not read again for its sums (Jung et al., MLSys 2019, "Restructuring batch
normalization to accelerate CNN training").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tilewright.graph.pairs import Pair, find_pairs, join_calls
from tilewright.ops.contraction.form import KIND as CONTRACTION
from tilewright.ops.depthwise_gradient import KIND as DEPTHWISE_GRADIENT
from tilewright.ops.mark import UNMARKED, Mark
from tilewright.ops.pixel_sums import KIND as SUMS
from tilewright.ops.pixel_sums import STATISTICS
from tilewright.ops.summed import make_mark
from tilewright.ops.window.places import RECOMPUTING
from tilewright.ops.winograd.expression import KIND as WINOGRAD

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["join_statistics"]

#: The kinds of functions whose programs store each number of their result once.
_SUMMED = (CONTRACTION, DEPTHWISE_GRADIENT, WINOGRAD)


def join_statistics(module: IRModule, marks: Mapping[str, Mark]) -> tuple[IRModule, Mapping[str, Mark]]:
    """The fused network with one function for each convolution and the statistics of its result, and all marks.

    Args:
        module: the fused network.
        marks: of its functions, by name.
    """

    def fits(pair: Pair) -> bool:
        return _sums(pair, marks) and _is_summed(pair, marks)

    def describe(pair: Pair) -> tuple[str, Mark]:
        return pair.make_name("statistics"), make_mark(marks[pair.names[0]])

    return join_calls(module, marks, find_pairs(module, 0, fits), describe)


def _sums(pair: Pair, marks: Mapping[str, Mark]) -> bool:
    """Whether the second call sums the channels of an image that is its first operand, with nothing fused before."""
    name = pair.names[1]
    if marks[name].kind != SUMS or name.rstrip("0123456789") != STATISTICS:
        return False
    shape = _shape(pair.first)
    return len(shape) == 5 and shape[1] * shape[4] == _shape(pair.second)[1]


def _is_summed(pair: Pair, marks: Mapping[str, Mark]) -> bool:
    """Whether the first call computes its image by storing each number once."""
    name = pair.names[0]
    # A pool's gradient adds to its result again and again. If an activation's gradient follows, that is stored once.
    return marks[name].kind in _SUMMED or (marks[name] == UNMARKED and f"fused_{RECOMPUTING}_" in name)


def _shape(call: relax.Call) -> tuple[int, ...]:
    """The shape of a call's result; empty: it has several."""
    from tvm import relax

    kind = call.ty_args[0]
    return tuple(int(extent) for extent in kind.shape.values) if isinstance(kind, relax.TensorType) else ()
