"""Schedule Sharing: AutoTVM tunes one task of each cluster, and the others take over its best configs.

Yu, TVM conference 2019; apache/tvm, discussions #4187 and #4188.

The similarity of two tasks is the overlap of their knobs' choices. Tasks with at least 0.01 are similar, and the
maximal cliques of similar tasks are the clusters. The task with the largest sum of similarities represents its cluster.
The others measure its ten best configs.

What was changed: the published code ended with a warning where none of these worked. Here such a task is tuned like any
other, as all are if time is left when the representatives are done. A dependent also measures its default, by which its
outputs are checked.
"""

from __future__ import annotations

from dataclasses import replace

from tilewright.cost.models import StoredModel
from tilewright.methods.autotvm import autotvm
from tilewright.methods.method import Method
from tilewright.share.policy import Sharing

__all__ = ["schedule_sharing"]


def schedule_sharing(prior: StoredModel | None = None) -> Method:
    """:func:`~tilewright.methods.autotvm.autotvm` with the published form of sharing.

    Args:
        prior: a model fitted to other tasks, which XGBoost's trees correct.
    """
    return replace(autotvm(prior=prior), name="schedule_sharing", sharing=Sharing.published())
