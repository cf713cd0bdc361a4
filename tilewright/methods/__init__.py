"""The published systems and Tilewright's own, each made of a searcher, a sampler, a cost model and a policy of sharing.

A short module describes each system: its paper, its parameters, and what was changed and why.
"""
