"""Searchers, which propose configs. One module holds one searcher; ``tilewright.methods`` names them.

:data:`Scorer` is the type of a function that scores an ``(n, knobs)`` array of configs: ``(n,)`` float64. A higher
score is predicted to be faster.
"""

from tilewright.search.ledger import Ledger
from tilewright.search.searcher import Scorer, Searcher

__all__ = ["Ledger", "Scorer", "Searcher"]
