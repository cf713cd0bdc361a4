"""Training with tuned kernels: the backend of ``torch.compile``, and what it reports.

>>> model = torch.compile(model, backend="tilewright")  # doctest: +SKIP

A step runs in PyTorch's own kernels until better ones are ready. Whatever fails on the way leaves its part of the step
to PyTorch, with one warning that says why.
"""

from __future__ import annotations

from tilewright.training.backend import optimize
from tilewright.training.options import Options
from tilewright.training.report import GraphReport, KernelShare, PartReport, TrainingReport, report

__all__ = ["GraphReport", "KernelShare", "Options", "PartReport", "TrainingReport", "optimize", "report"]
