"""Tilewright tunes neural networks for the machine in front of it.

>>> import tilewright
>>> result = tilewright.tune("model.onnx", "out", budget="5m")  # doctest: +SKIP
>>> tilewright.load_executable("out")(image)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.cost.model import CostModel
    from tilewright.errors import TilewrightError
    from tilewright.executable.executable import Executable, load_executable
    from tilewright.frontend.load import load
    from tilewright.frontend.network import Network
    from tilewright.measure.outcome import Measurement, Outcome
    from tilewright.measure.runner import Runner
    from tilewright.records.store import Store
    from tilewright.sample.sampler import Sampler
    from tilewright.search.searcher import Searcher
    from tilewright.space.space import DesignSpace
    from tilewright.target import Target
    from tilewright.task import Task
    from tilewright.tuning.budget import Budget
    from tilewright.tuning.session import TuneResult, tune

__all__ = [
    "Budget",
    "CostModel",
    "DesignSpace",
    "Executable",
    "Measurement",
    "Network",
    "Outcome",
    "Runner",
    "Sampler",
    "Searcher",
    "Store",
    "Target",
    "Task",
    "TilewrightError",
    "TuneResult",
    "load",
    "load_executable",
    "tune",
]

#: Where each public name lives. Imported at first use, so that ``import tilewright`` costs nothing.
_HOMES = {
    "Budget": "tilewright.tuning.budget",
    "CostModel": "tilewright.cost.model",
    "DesignSpace": "tilewright.space.space",
    "Executable": "tilewright.executable.executable",
    "Measurement": "tilewright.measure.outcome",
    "Network": "tilewright.frontend.network",
    "Outcome": "tilewright.measure.outcome",
    "Runner": "tilewright.measure.runner",
    "Sampler": "tilewright.sample.sampler",
    "Searcher": "tilewright.search.searcher",
    "Store": "tilewright.records.store",
    "Target": "tilewright.target",
    "Task": "tilewright.task",
    "TilewrightError": "tilewright.errors",
    "TuneResult": "tilewright.tuning.session",
    "load": "tilewright.frontend.load",
    "load_executable": "tilewright.executable.executable",
    "tune": "tilewright.tuning.session",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
