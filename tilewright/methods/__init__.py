"""The published systems and Tilewright's own, each made of a searcher, a sampler, a cost model and a policy of sharing.

One short module describes each system: its paper, its parameters, and what was changed and why.
:func:`tilewright.make_method` makes the method of a name. The factories that a :class:`Method` holds have the types
:data:`SearcherFactory`, :data:`SamplerFactory` and :data:`ModelFactory`.
"""

from tilewright.methods.method import Method, ModelFactory, SamplerFactory, SearcherFactory

__all__ = ["Method", "ModelFactory", "SamplerFactory", "SearcherFactory"]
