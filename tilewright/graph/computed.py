"""Joins element-wise functions with the sums over pixels that read their results.

    d = norm_gradient(dy, x, ...); dw = weight_gradient(data, d)
    -->
    d, dw = norm_gradient_weight_gradient(dy, x, ..., data)

The image ``d`` is still written, for the gradient of the data. But the sums over pixels read it while it is in a cache.
In a first layer, whose data have no gradient, it is not written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.graph.pairs import Pair, find_pairs, join_calls
from tilewright.ops.computed_sums import make_mark
from tilewright.ops.elementwise.form import read_form
from tilewright.ops.mark import UNMARKED, Mark
from tilewright.ops.pixel_sums import KIND as SUMS
from tilewright.ops.pixel_sums import WEIGHT_GRADIENT
from tilewright.space.module import form_errors

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import IRModule

__all__ = ["join_computed"]

#: The place of the gradient of a convolution's result among the operands of the gradient of its weights.
_GRADIENT = 1
#: Bytes of the smallest image for which this is done. (One function takes this share of the time of both, on an Emerald
#: Rapids: the gradient of a norm with that of 1x1 weights, 64 to 256 channels and 56x56 pixels: 0.92; 512 to 2048
#: channels and 7x7 pixels: 0.99; 3x3 weights with a stride, 14x14 pixels: 1.13.)
_LARGE = 1 << 23


def join_computed(module: IRModule, marks: Mapping[str, Mark]) -> tuple[IRModule, Mapping[str, Mark]]:
    """The fused network with one function for gradients of weights and the large images that they sum, and all marks.

    These are gradients of 1x1 weights, and those of which nothing else reads the image.

    Args:
        module: the fused network.
        marks: of its functions, by name.
    """
    from tvm import relax

    known: dict[str, bool] = {}

    def fits(pair: Pair) -> bool:
        first, second = pair.names
        sums = marks[second].kind == SUMS and second.startswith(WEIGHT_GRADIENT) and "u" in marks[second].detail
        image = pair.first.ty_args[0]
        if not sums or marks[first] != UNMARKED or not isinstance(image, relax.TensorType):
            return False
        shape, kernel = (tuple(int(d) for d in kind.shape.values) for kind in (image, pair.second.ty_args[0]))
        if 4 * math.prod(shape) < _LARGE or not (pair.only or kernel[2:] == (1, 1)):
            return False
        if first not in known:
            known[first] = _is_elementwise(module, pair.first)
        return known[first]

    def describe(pair: Pair) -> tuple[str, Mark]:
        return pair.make_name(WEIGHT_GRADIENT), make_mark(marks[pair.names[1]])

    return join_calls(module, marks, find_pairs(module, _GRADIENT, fits, only=True), describe)


def _is_elementwise(module: IRModule, call: relax.Call) -> bool:
    """Whether a function computes the elements of one image in blocks, each by itself."""
    import tvm

    function = module[call.args[0]]
    try:
        with form_errors("the function is not element-wise"):
            form = read_form(tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")}))
    except FormError:
        return False
    return len(form.results) == 1 and len(form.shape) == 5 and form.bytes == 4
