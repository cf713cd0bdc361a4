"""Element-wise functions: formulas of elementary functions in float32, and chains of any of them in one pass.

``elementary`` has the formulas, made of the parts in ``float32``; ``expression`` applies one to a tensor. ``form``
reads a fused chain, ``program`` writes its one pass, and ``space`` joins these to a design space.
"""

from tilewright.ops.elementwise.expression import apply_formula
from tilewright.ops.elementwise.space import ElementwiseSpace, ElementwiseTemplate

__all__ = ["ElementwiseSpace", "ElementwiseTemplate", "apply_formula"]
