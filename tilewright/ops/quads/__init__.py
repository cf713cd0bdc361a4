"""Images of few channels in quads of bytes, as the first convolution of a quantised network reads them."""

from tilewright.ops.quads.expression import KIND, pack_quads
from tilewright.ops.quads.space import QuadsSpace, QuadsTemplate

__all__ = ["KIND", "QuadsSpace", "QuadsTemplate", "pack_quads"]
