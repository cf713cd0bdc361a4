"""Makes training faster: a backend of ``torch.compile`` that tunes a step's kernels, and a report of what it did.

>>> model = torch.compile(model, backend="tilewright")  # doctest: +SKIP

A step runs in PyTorch's own kernels until faster ones are ready. If anything fails on the way, PyTorch keeps that part
of the step, and one warning says why.

Words of this package:

- a *step* is one forward and one backward pass; a *part* is a piece of a pass that is compiled as a whole;
- *our* kernels are Tilewright's, *theirs* are PyTorch's;
- to *prove* a part is to compare its results with PyTorch's on a real step, before our kernels are used;
- a *slot* is a pause between steps, in which the process that compiles runs;
- a *contest* times *variants* of a part's kernels (other programs that compute the same) while real steps run.
"""

from __future__ import annotations

from tilewright.training.backend import optimize
from tilewright.training.options import Options
from tilewright.training.report import (
    GraphReport,
    KernelShare,
    PartReport,
    ProofReport,
    SlotReport,
    StepsReport,
    TrainingReport,
    report,
)

__all__ = [
    "GraphReport",
    "KernelShare",
    "Options",
    "PartReport",
    "ProofReport",
    "SlotReport",
    "StepsReport",
    "TrainingReport",
    "optimize",
    "report",
]
