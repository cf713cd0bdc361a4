"""What the tasks of a network borrow from each other.

Representatives of similar tasks are tuned first. A dependent tries their best configs beside its own proposals, again
whenever its representative has improved, and stops when they lose. Schedule Sharing (Yu, TVM conference 2019) tunes the
representatives to the end instead and gives their best configs to the dependents, which propose nothing
(:meth:`tilewright.share.policy.Sharing.published`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tilewright.share.cluster import Cluster
from tilewright.share.policy import Sharing
from tilewright.share.similarity import similarity_matrix
from tilewright.share.transfer import map_configs
from tilewright.tuning.report import BorrowedReport, ClusterReport, SharingReport
from tilewright.tuning.task_state import TaskState
from tilewright.tuning.tuner import RoundResult, TaskTuner
from tilewright.wording import counted

__all__ = ["Lending"]

#: Latencies that differ by a smaller share are a tie: noise.
_NOTEWORTHY = 0.01
#: How often a dependent gains when its representative has improved: borrowed configs won about half of the rounds.
_FOLLOWING = 0.5
#: Only configs of a representative within this factor of its best are lent.
_NEARLY = 1.5


@dataclass
class _Loan:
    """What one dependent borrows.

    Attributes:
        borrower: the dependent.
        lender: its representative.
        similarity: of the two, 0 to 1.
        lent: every config that was suggested to the borrower.
        leader: the lender's best config when it last lent.
        lost: whether borrowed configs were slower than the borrower's own.
    """

    borrower: TaskState
    lender: TaskState
    similarity: float
    lent: set[tuple[int, ...]] = field(default_factory=set)
    leader: tuple[int, ...] = ()
    lost: bool = False


class Lending:
    """Who borrows from whom while a network is tuned.

    Args:
        sharing: how.
        tasks: the network's tasks; those without a tuner take no part.

    Attributes:
        sharing: how.
        clusters: of the network's tasks, by ``Task.key``.
    """

    def __init__(self, sharing: Sharing, tasks: Sequence[TaskState]) -> None:
        self.sharing = sharing
        self._tasks = {task.key: task for task in tasks if task.tuner is not None}
        keys = list(self._tasks)
        matrix = similarity_matrix([_tuner(task).space for task in self._tasks.values()], sharing.measure)
        self.clusters: tuple[Cluster, ...] = sharing.cluster(keys, matrix, sharing.threshold)
        self._compared, self._won = 0, 0.0
        self._loans = {
            key: _Loan(
                self._tasks[key],
                self._tasks[cluster.representative],
                float(matrix[keys.index(key), keys.index(cluster.representative)]),
            )
            for cluster in self.clusters
            for key in cluster.members
            if key != cluster.representative
        }

    @property
    def dependents(self) -> list[TaskState]:
        """The tasks that have a representative."""
        return [loan.borrower for loan in self._loans.values()]

    def lend(self, task: TaskState) -> int:
        """Suggest to a task the best configs of its representative, if they are new to it and have not lost before.

        Returns:
            how many suggested configs wait for a measurement.
        """
        loan = self._loans.get(task.key)
        if loan is None or loan.lost:
            return 0
        finished = self.sharing.only_borrows  # and lends once
        best = _tuner(loan.lender).finalists(self.sharing.top, math.inf if finished else _NEARLY)
        leader = tuple(int(index) for index in best[0]) if len(best) else ()
        if leader == loan.leader or (finished and loan.leader):
            return 0
        loan.leader = leader
        configs = map_configs(_tuner(loan.lender).space.knobs, best, _tuner(task).space)
        loan.lent |= set(map(tuple, configs.tolist()))
        return _tuner(task).suggest(configs)

    def leverage(self, task: TaskState) -> float:
        """The factor by which the network gains more than the task does, since dependents take over its best configs.

        Each dependent that has not lost counts with half of its time, because about half of the loans win.
        """
        loans = [loan for loan in self._loans.values() if loan.lender is task and not loan.lost]
        own = task.use.weight * task.best
        followers = sum(loan.borrower.use.weight * loan.borrower.best for loan in loans)
        return 1.0 + _FOLLOWING * followers / own if math.isfinite(followers) and math.isfinite(own) else 1.0

    def judge(self, task: TaskState, result: RoundResult) -> None:
        """Compare what a task borrowed with its own proposals and its best before, after a round."""
        loan = self._loans.get(task.key)
        if loan is None:
            return
        lent = [m.config for m in result.measurements if m.config in loan.lent]
        if not lent:
            return
        own = [m.config for m in result.measurements if m.config not in loan.lent]
        borrowed, other = _fastest(task, lent), min(_fastest(task, own), result.before)
        self._compared += 1
        if borrowed < other * (1.0 - _NOTEWORTHY):
            self._won += 1.0
        elif borrowed <= other * (1.0 + _NOTEWORTHY):
            self._won += 0.5
        else:
            loan.lost = True

    def plan(self) -> list[str]:
        """Who is going to borrow from whom, a line for each representative that lends."""
        alone = sum(len(cluster.members) == 1 for cluster in self.clusters)
        lines = [f"{counted(len(self.clusters), 'cluster')} of similar tasks, {alone} with a single task"]
        for lender in dict.fromkeys(loan.lender.key for loan in self._loans.values()):
            loans = [loan for loan in self._loans.values() if loan.lender.key == lender]
            best = max(loans, key=lambda loan: loan.similarity)
            others = f" and {len(loans) - 1} more" if len(loans) > 1 else ""
            lines.append(
                f"{best.lender.use.task.name} lends to {best.borrower.use.task.name}{others} "
                f"(similarity {best.similarity:.2f})"
            )
        return lines

    def report(self) -> SharingReport:
        """What was borrowed, and how often it won."""
        names = {key: task.use.task.name for key, task in self._tasks.items()}
        return SharingReport(
            clusters=tuple(
                ClusterReport(names[c.representative], tuple(names[key] for key in c.members)) for c in self.clusters
            ),
            borrowed=tuple(
                BorrowedReport(
                    task=names[key],
                    lender=loan.lender.use.task.name,
                    similarity=loan.similarity,
                    configs=len(loan.lent),
                    lost=loan.lost,
                    best=_best(loan.borrower) in loan.lent,
                )
                for key, loan in self._loans.items()
            ),
            compared=self._compared,
            won=self._won,
        )


def _tuner(task: TaskState) -> TaskTuner:
    assert task.tuner is not None
    return task.tuner


def _best(task: TaskState) -> tuple[int, ...]:
    """The best config of a task; empty: none."""
    best = _tuner(task).best_config
    return () if best is None else tuple(int(index) for index in best)


def _fastest(task: TaskState, configs: Sequence[tuple[int, ...]]) -> float:
    """The lowest latency of some configs, in seconds; inf: none of them works."""
    if not configs:
        return math.inf
    known = _tuner(task).known(np.asarray(configs, dtype=np.int32))
    return float(np.min(known, where=np.isfinite(known), initial=math.inf))
