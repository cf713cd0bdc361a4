"""Tilewright tunes neural networks for the machine in front of it.

>>> import tilewright
>>> result = tilewright.tune("model.onnx", "out", budget="5m")  # doctest: +SKIP
>>> tilewright.load_executable("out")(image)  # doctest: +SKIP

This module has what most programs need. These packages have what is needed to extend Tilewright:
:mod:`tilewright.space`, :mod:`tilewright.search`, :mod:`tilewright.sample`, :mod:`tilewright.cost`,
:mod:`tilewright.share`, :mod:`tilewright.methods`, :mod:`tilewright.records`, :mod:`tilewright.ops`,
:mod:`tilewright.onnx_backend` and :mod:`tilewright.errors`. A name is public if it is in the ``__all__`` of one of
them.
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
    from tilewright.graph.tasks import extract, task_of
    from tilewright.measure.outcome import Measurement, Outcome
    from tilewright.measure.pool import LocalPool
    from tilewright.measure.runner import Runner
    from tilewright.methods.method import Method
    from tilewright.methods.registry import make_method
    from tilewright.ops.registry import make_space
    from tilewright.records import open_store
    from tilewright.records.memory import MemoryStore
    from tilewright.records.store import Query, Store
    from tilewright.sample.sampler import Sampler
    from tilewright.search.searcher import Searcher
    from tilewright.space.space import DesignSpace
    from tilewright.target import Target
    from tilewright.task import Task
    from tilewright.training.backend import optimize
    from tilewright.tuning.budget import Budget
    from tilewright.tuning.result import TuneResult
    from tilewright.tuning.session import tune
    from tilewright.tuning.tuner import TaskTuner

__all__ = [
    "Budget",
    "CostModel",
    "DesignSpace",
    "Executable",
    "LocalPool",
    "Measurement",
    "MemoryStore",
    "Method",
    "Network",
    "Outcome",
    "Query",
    "Runner",
    "Sampler",
    "Searcher",
    "Store",
    "Target",
    "Task",
    "TaskTuner",
    "TilewrightError",
    "TuneResult",
    "extract",
    "load",
    "load_executable",
    "make_method",
    "make_space",
    "open_store",
    "optimize",
    "task_of",
    "tune",
]

#: Where each public name lives. Imported at first use, so that ``import tilewright`` costs nothing.
_HOMES = {
    "Budget": "tilewright.tuning.budget",
    "CostModel": "tilewright.cost.model",
    "DesignSpace": "tilewright.space.space",
    "Executable": "tilewright.executable.executable",
    "LocalPool": "tilewright.measure.pool",
    "Measurement": "tilewright.measure.outcome",
    "MemoryStore": "tilewright.records.memory",
    "Method": "tilewright.methods.method",
    "Network": "tilewright.frontend.network",
    "Outcome": "tilewright.measure.outcome",
    "Query": "tilewright.records.store",
    "Runner": "tilewright.measure.runner",
    "Sampler": "tilewright.sample.sampler",
    "Searcher": "tilewright.search.searcher",
    "Store": "tilewright.records.store",
    "Target": "tilewright.target",
    "Task": "tilewright.task",
    "TaskTuner": "tilewright.tuning.tuner",
    "TilewrightError": "tilewright.errors",
    "TuneResult": "tilewright.tuning.result",
    "extract": "tilewright.graph.tasks",
    "load": "tilewright.frontend.load",
    "load_executable": "tilewright.executable.executable",
    "make_method": "tilewright.methods.registry",
    "make_space": "tilewright.ops.registry",
    "open_store": "tilewright.records",
    "optimize": "tilewright.training.backend",
    "task_of": "tilewright.graph.tasks",
    "tune": "tilewright.tuning.session",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
