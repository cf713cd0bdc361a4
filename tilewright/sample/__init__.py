"""Samplers, which pick the proposals to measure. One module holds one sampler; ``tilewright.methods`` names them."""

from tilewright.sample.sampler import Sampler
from tilewright.sample.top import TopK

__all__ = ["Sampler", "TopK"]
