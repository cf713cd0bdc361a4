"""Data sets on the toy table space, without TVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tests.toys import TableSpace
from tilewright.cost.dataset import DataSet, TaskData
from tilewright.space.configs import sample

__all__ = ["data_set", "task_data"]

SPACE = TableSpace()


def task_data(number: int = 0, count: int = 60, failures: float = 0.1, networks: Sequence[str] = ()) -> TaskData:
    """``count`` random programs of one task; so many of them, as a share, failed."""
    generator = np.random.default_rng(number)
    configs = sample(SPACE, generator, count)
    seconds = np.where(generator.random(len(configs)) < failures, np.nan, SPACE.seconds(configs) * (1 + number))
    return TaskData(
        task=f"key{number}",
        name=f"matmul {number}",
        flop=1e6,
        networks=tuple(networks),
        target="toy-1x",
        template=SPACE.template,
        configs=configs,
        nest=SPACE.loop_nest(configs),
        seconds=seconds,
    )


def data_set(count: int = 60, failures: float = 0.1) -> DataSet:
    """Three tasks, of the networks resnet, resnet and bert, and bert."""
    of = (["resnet"], ["bert", "resnet"], ["bert"])
    tasks = (task_data(number, count, failures, networks) for number, networks in enumerate(of))
    return DataSet(tuple(tasks), {"target": {"mcpu": "toy"}, "date": "2025-01-01", "command": "by hand"})


def narrower(task: TaskData) -> TaskData:
    """The same task with one buffer less."""
    nest = task.nest
    parts = {name: getattr(nest, name)[:, :2] for name in ("touched", "strides", "reuse")}
    return replace(task, nest=replace(nest, buffers=nest.buffers[:2], **parts))
