"""Quantised networks: real numbers that are scaled integers stay integers as long as possible.

A tensor of real numbers may be a sum of scaled integer tensors, which is computed only where an operator needs it:

    DequantizeLinear(x)  -->  scale * x - scale * zero
    Conv(that, weights)  -->  scale * weight scales * (sums of bytes + offsets)
    Add, Mul, Relu       -->  other scales, another shift, more terms, other limits
    QuantizeLinear(that) -->  one element-wise function, which is fused into the convolution

So an integer convolution or matrix product runs where all operands are known as bytes. Any other operator gets the
numbers as float32. The result is that of the model in exact arithmetic, rounded where the model rounds.

Bytes of data are unsigned, as the instructions of x86-64 want them. Signed ones are kept as unsigned ones plus -128.
"""

from tilewright.graph.quantised.attention import ByteAttentions
from tilewright.graph.quantised.calls import serve_call
from tilewright.graph.quantised.computing import settle
from tilewright.graph.quantised.operators import serve
from tilewright.graph.quantised.scaled import Scaled, Term

__all__ = ["ByteAttentions", "Scaled", "Term", "serve", "serve_call", "settle"]
