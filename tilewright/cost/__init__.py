"""Cost models, which predict how programs of one task rank by speed.

:data:`Programs` is the type of the programs that a cost model sees: a :class:`tilewright.space.LoopNest`, or a
:class:`KnobTable` where a design space has no closed form of its programs.
"""

from tilewright.cost.features import features
from tilewright.cost.model import CostModel, KnobTable, Programs
from tilewright.cost.ranking import pairwise_accuracy, recall_at, top_regret

__all__ = ["CostModel", "KnobTable", "Programs", "features", "pairwise_accuracy", "recall_at", "top_regret"]
