"""The published systems and Tilewright's own, each put together from a searcher, a sampler, a cost model and sharing.

One short module describes each system: its paper, its parameters, and what was changed and why.
"""
