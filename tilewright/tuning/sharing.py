"""What the tasks of a network borrow from each other, and from those of earlier networks in the store.

Schedule Sharing (Yu, TVM conference 2019) tuned one representative of each cluster of similar tasks to
the end and gave its best configs to the others, as they were, with a warning where that went badly. Here nothing is
final. A dependent borrows when its first turn comes and again when its representative has improved; what it borrowed
is measured beside what its own search proposed, and how often it was the better of the two (:class:`Credit`) decides
how much the network goes on to borrow. With a cost model that knows such tasks already that is next to nothing, on a
machine that no model knows it may be all. Where what a task borrowed is poor, it is tuned like any other task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from tilewright.errors import SpaceError
from tilewright.methods.method import SharedModels
from tilewright.records.store import Query, Store
from tilewright.share.cluster import Cluster
from tilewright.share.policy import Sharing
from tilewright.share.similarity import similarity_matrix
from tilewright.share.transfer import map_configs
from tilewright.space.configs import distinct, empty
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.donors import Donor, EarlierTask, OwnTask
from tilewright.tuning.gain import Share
from tilewright.wording import counted

__all__ = ["Credit", "Lending"]

#: A dependent of less than this share of its representative's FLOP/s was not helped enough.
_POOR = 0.7
#: Comparisons of borrowed with own proposals that what is expected beforehand is worth.
_BEFOREHAND = 4.0
#: With less credit nothing is borrowed, for it has to win against several of the task's own; with less than the other,
#: one config at a time, beside those.
_LEAST_CREDIT, _GOOD_CREDIT = 0.3, 0.65
#: Improvements by less are noise.
_NOTEWORTHY = 0.01
#: What a dependent borrowed counts as good while nothing that it found by itself is faster by more than this factor.
_NO_WORSE = 1.1
#: A representative has at most so many first rounds more, of what its dependents save.
_MOST_SAVED = 2
#: Lots that a dependent borrows in a row, at most: each must improve it.
_MOST_LOTS = 5
#: The working measurements that an earlier task must have to lend any.
_EARLIER_LEAST = 8


@dataclass
class Credit:
    """How often what tasks borrowed was faster than what they found by themselves in the same round.

    Attributes:
        won: comparisons that the borrowed configs won; one that nobody won counts by half.
        made: comparisons.
    """

    won: float = 0.0
    made: float = 0.0

    def note(self, borrowed: float, own: float) -> None:
        """Compare the best latencies of one round."""
        self.made += 1.0
        if borrowed < own * (1.0 - _NOTEWORTHY):
            self.won += 1.0
        elif borrowed <= own * (1.0 + _NOTEWORTHY):
            self.won += 0.5

    def of(self, beforehand: float) -> float:
        """The share of comparisons that a loan is expected to win, ``beforehand``: without any."""
        return (_BEFOREHAND * beforehand + self.won) / (_BEFOREHAND + self.made)


@dataclass
class _Loan:
    """What one task borrows.

    Attributes:
        share: the task.
        donor: of whom.
        similarity: of the two.
        rows: ``(n, knobs)`` what was suggested, over all.
        offered: ``(n, knobs)`` what was suggested last.
        seen: the donor's latency when it was last asked; inf: never.
        leader: the donor's best config then.
        tried: how many of its best were asked for then.
        lots: in a row that improved the task.
        waiting: how many are suggested and were not measured yet.
        poor: whether the task is better tuned by itself; None: not known yet.
    """

    share: Share
    donor: Donor
    similarity: float
    rows: Configs
    offered: Configs
    seen: float = math.inf
    leader: tuple[int, ...] = ()
    tried: int = 0
    lots: int = 0
    waiting: int = 0
    poor: bool | None = None

    @property
    def news(self) -> float:
        """By what share of its latency the donor improved since it was asked, 1 at first; 0: too little to matter."""
        if not math.isfinite(self.donor.seconds):
            return 0.0
        gained = 1.0 - self.donor.seconds / self.seen
        # The same config is not news, though the machine may turn out to be faster than it seemed.
        return gained if gained >= _NOTEWORTHY and self.donor_leader != self.leader else 0.0

    @property
    def donor_leader(self) -> tuple[int, ...]:
        """The donor's best config now; empty: none."""
        return tuple(int(index) for row in self.donor.best(1).tolist() for index in row)


class Lending:
    """Who borrows from whom while a network is tuned.

    Args:
        sharing: how.
        shares: the network's tasks; those without a tuner take no part.
        store: of the tasks of earlier networks.
        target: what is tuned for.
        make_space: of an earlier task.
        clock: seconds.
        models: what the tasks share, which earlier tasks teach; None: each has its own.

    Attributes:
        clusters: of the network's tasks, by ``Task.key``.

    Raises:
        RecordsError: the store cannot be read.
    """

    def __init__(
        self,
        sharing: Sharing,
        shares: Sequence[Share],
        store: Store,
        target: Target,
        make_space: Callable[[Task], DesignSpace],
        clock: Callable[[], float],
        models: SharedModels | None = None,
    ) -> None:
        self._sharing, self._models = sharing, models
        self._shares = {share.use.task.key: share for share in shares if share.tuner is not None}
        spaces = [share.tuner.space for share in self._shares.values() if share.tuner is not None]
        keys = list(self._shares)
        matrix = similarity_matrix(spaces, sharing.measure)
        self.clusters: tuple[Cluster, ...] = sharing.cluster(keys, matrix, sharing.threshold)
        self._loans: dict[str, _Loan] = {}
        self._credit = Credit()
        for cluster in self.clusters:
            donor = self._shares[cluster.representative]
            for key in cluster.members:
                if key != cluster.representative:
                    similarity = float(matrix[keys.index(key), keys.index(cluster.representative)])
                    self._loans[key] = self._loan(self._shares[key], OwnTask(donor), similarity)
        self._ask_earlier(store, target, make_space, clock)

    def borrows(self, share: Share) -> bool:
        """Whether a task has someone of this network to borrow from, so that its turn comes later."""
        loan = self._loans.get(share.use.task.key)
        return loan is not None and isinstance(loan.donor, OwnTask)

    def first_rounds(self, share: Share, size: int) -> list[int]:
        """The sizes of a task's first rounds, which are one of ``size`` where nobody shares.

        Where borrowing is worth it, one that borrows has the default and a lot; what that saves has its representative.
        """
        lot = min(size, 1 + self._sharing.top)
        loan = self._loans.get(share.use.task.key)
        if loan is not None and loan.news > 0.0:
            return [lot if self._good(loan) else size]
        loans = [x for x in self._loans.values() if isinstance(x.donor, OwnTask) and x.donor.share is share]
        saved = min(sum(self._good(x) for x in loans) * (size - lot), _MOST_SAVED * size)
        return [size, saved] if saved > 0 else [size]

    def again(self, share: Share) -> bool:
        """Whether a task that has just borrowed should at once borrow more, because that improved it."""
        loan = self._loans.get(share.use.task.key)
        if loan is None or not 0 < loan.lots < _MOST_LOTS or not share.live or not self._good(loan):
            return False
        return self._offer(loan, self._sharing.top)

    def prepare(self, share: Share, size: int) -> int:
        """Suggest to a task what it can borrow, and say how many candidates its next round is to have."""
        loan = self._loans.get(share.use.task.key)
        if loan is None:
            return size
        good = self._good(loan) and not loan.poor
        # Where it is not sure that borrowing pays, it never takes the only place.
        places = size - (not share.measured)
        wanted = self._expected(loan) >= _LEAST_CREDIT and (good or places > 1)
        if loan.waiting == 0 and loan.news > 0.0 and wanted:
            loan.tried = loan.lots = 0
            # One that is tuned by itself tries in each of its rounds whether that has changed.
            if not self._offer(loan, self._sharing.top if good else 1):
                self._judge(loan)
        return min(size, loan.waiting + (not share.measured)) if loan.waiting and good else size

    def learn(self, share: Share) -> None:
        """Judge what a task borrowed by its last round."""
        loan = self._loans.get(share.use.task.key)
        if loan is None or loan.waiting == 0:
            return
        last, borrowed = share.rounds[-1], set(map(tuple, loan.offered.tolist()))
        lent = [m.config for m in last.measurements if m.config in borrowed]
        own = [m.config for m in last.measurements if m.config not in borrowed]
        loan.waiting = max(0, loan.waiting - len(lent))
        if not lent:
            return  # they have their turn in the next round
        # A lot that was measured alone is compared with what was known before.
        self._credit.note(self._fastest(share, lent), min(self._fastest(share, own), last.before))
        self._judge(loan)
        loan.lots = loan.lots + 1 if not loan.poor and last.after < last.before * (1.0 - _NOTEWORTHY) else 0

    def _fastest(self, share: Share, configs: Sequence[tuple[int, ...]]) -> float:
        """The lowest latency of some configs as readings count now, in seconds; inf: none works."""
        assert share.tuner is not None
        known = share.tuner.known(np.asarray(configs, dtype=np.int32))
        return float(np.min(known, where=np.isfinite(known), initial=math.inf))

    def _expected(self, loan: _Loan) -> float:
        """How often what this loan brings is the better one."""
        beforehand = loan.similarity if self._sharing.credit is None else self._sharing.credit
        return self._credit.of(beforehand)

    def _good(self, loan: _Loan) -> bool:
        """Whether borrowing has been worth more than searching."""
        return self._expected(loan) >= _GOOD_CREDIT

    def _offer(self, loan: _Loan, count: int) -> bool:
        """Suggest the next ``count`` of the donor's best; whether any of them is new."""
        tuner = loan.share.tuner
        assert tuner is not None
        loan.seen, loan.leader = loan.donor.seconds, loan.donor_leader
        ranked = loan.donor.best(loan.tried + count)[loan.tried :]
        loan.tried += len(ranked)
        configs = map_configs(loan.donor.knobs, ranked, tuner.space)
        loan.offered, loan.waiting = configs, tuner.suggest(configs)
        loan.rows = distinct(np.concatenate([loan.rows, configs]))
        return loan.waiting > 0

    def _judge(self, loan: _Loan) -> None:
        """Whether the task is better tuned by itself: what it borrowed is not among its best, or is slow."""
        assert loan.share.tuner is not None
        known = loan.share.tuner.known(loan.rows)
        borrowed = float(np.nanmin(known)) if np.isfinite(known).any() else math.inf
        best = loan.share.best
        loan.poor = not borrowed <= _NO_WORSE * best or not math.isfinite(best) or self._speed(loan) < _POOR

    def update(self, round_size: int) -> None:
        """What the scheduler weighs: who is worth more than itself, who needs no rounds of its own, and who may borrow.

        Args:
            round_size: candidates of the rounds that it compares; what a lot brings is had with fewer.
        """
        for share in self._shares.values():
            share.leverage, share.experience, share.promise = 1.0, 0.0, 0.0
        for loan in self._loans.values():
            if loan.poor is not None and not loan.poor:
                share, donor = loan.share, loan.donor
                # As much as it wins more often than not: at even odds a loan says nothing of what is left to find.
                odds = max(0.0, 2.0 * self._expected(loan) - 1.0)
                trust = odds * max(loan.similarity, min(1.0, self._speed(loan)))
                share.experience = trust * donor.measured
                share.promise = trust * loan.news * round_size / self._sharing.top
                if isinstance(donor, OwnTask):
                    own = donor.share.use.weight * donor.seconds
                    donor.share.leverage += trust * share.use.weight * share.best / own

    def urgent(self, trials: float, round_size: int) -> Share | None:
        """Who is to borrow now, because soon nobody can any more; None: there is time.

        Args:
            trials: about how many are left.
            round_size: the trials of one more round of anybody.
        """
        waiting = [share for share in self._shares.values() if share.promise > 0.0 and share.live]
        if not waiting or trials > len(waiting) * self._sharing.top + round_size:
            return None
        return max(waiting, key=lambda share: share.use.weight * share.best * share.promise)

    def plan(self) -> list[str]:
        """Who is to borrow from whom, a line for each that lends."""
        lines = []
        for donor in dict.fromkeys(loan.donor.name for loan in self._loans.values()):
            loans = [loan for loan in self._loans.values() if loan.donor.name == donor]
            earlier = isinstance(loans[0].donor, EarlierTask)
            best = max(loans, key=lambda loan: loan.similarity)
            others = f" and {len(loans) - 1} more" if len(loans) > 1 else ""
            lines.append(
                f"{donor}{', of an earlier network,' if earlier else ''} lends to {best.share.use.task.name}{others} "
                f"(similarity {best.similarity:.2f})"
            )
        alone = sum(len(cluster.members) == 1 for cluster in self.clusters)
        return [f"{counted(len(self.clusters), 'cluster')} of similar tasks, {alone} with a single task", *lines]

    def describe(self) -> dict[str, Any]:
        """For the report."""
        names = {key: share.use.task.name for key, share in self._shares.items()}
        return {
            "clusters": [
                {"representative": names[c.representative], "members": [names[key] for key in c.members]}
                for c in self.clusters
            ],
            "borrowed": [
                {
                    "task": names[key],
                    "from": loan.donor.name,
                    "earlier": isinstance(loan.donor, EarlierTask),
                    "similarity": loan.similarity,
                    "configs": len(loan.rows),
                    "poor": loan.poor,
                    "best": self._leads(loan),
                }
                for key, loan in self._loans.items()
            ],
            "compared": self._credit.made,
            "won": self._credit.won,
            "models": {} if self._models is None else self._models.describe(),
        }

    def _loan(self, share: Share, donor: Donor, similarity: float) -> _Loan:
        assert share.tuner is not None
        nothing = empty(share.tuner.space)
        return _Loan(share, donor, similarity, nothing, nothing)

    def _leads(self, loan: _Loan) -> bool:
        """Whether the best config of the task is a borrowed one."""
        best = None if loan.share.tuner is None else loan.share.tuner.best_config
        return best is not None and bool((loan.rows == best).all(axis=1).any())

    def _speed(self, loan: _Loan) -> float:
        """The task's FLOP/s as a share of its donor's; 1 where one of them has no arithmetic to speak of."""
        flop = loan.share.use.task.flop
        if flop <= 0 or loan.donor.flop <= 0:
            return 1.0
        return (flop / loan.share.best) / (loan.donor.flop / loan.donor.seconds)

    def _ask_earlier(
        self, store: Store, target: Target, make_space: Callable[[Task], DesignSpace], clock: Callable[[], float]
    ) -> None:
        """Let tasks of earlier networks stand in for representatives that are no more similar."""
        began, made = clock(), 0
        for task in self._candidates(store) if self._sharing.earlier > 0 else ():
            if made >= self._sharing.earlier or clock() - began >= self._sharing.seconds:
                return
            own = task.key in self._shares
            # Asked first, because a space takes up to a second to make.
            source = _recorded_for(task, store, target.otherwise_timed if own else (target, *target.otherwise_timed))
            if source is None:
                continue
            made += 1
            try:
                donor = EarlierTask(make_space(task), store, source)
            except SpaceError:
                continue
            if self._models is not None and donor.space.has_loop_nest and not own:
                model = self._models.of(donor.space)
                model.teach(task.key, donor.space.loop_nest(donor.configs), donor.latencies)
            if donor.measured < _EARLIER_LEAST or not math.isfinite(donor.seconds):
                continue
            for key, share in self._shares.items():
                assert share.tuner is not None
                similarity = self._sharing.measure(donor.space, share.tuner.space)
                known = self._loans[key].similarity if key in self._loans else self._sharing.threshold
                # Of equals the earlier one: it was tuned already.
                replaces = key not in self._loans or isinstance(self._loans[key].donor, OwnTask)
                if similarity > known or (similarity == known and replaces):
                    self._loans[key] = self._loan(share, donor, similarity)

    def _candidates(self, store: Store) -> list[Task]:
        """Earlier tasks of the kinds that this network has: the nearest in size to each of its own, then the second."""
        kinds: dict[str, list[Task]] = {}
        for task in store.tasks():
            kinds.setdefault(task.kind, []).append(task)
        ranked = [_nearest(share.use.task, kinds.get(share.use.task.kind, [])) for share in self._shares.values()]
        tasks = (task for rank in zip_longest(*ranked) for task in rank if task is not None)
        return list({task.key: task for task in tasks}.values())


def _nearest(task: Task, others: Iterable[Task]) -> list[Task]:
    """The others by how near they are in size, the nearest first; the sort is stable."""
    size = math.log2(1.0 + task.flop)
    return sorted(others, key=lambda other: abs(size - math.log2(1.0 + max(other.flop, 0.0))))


def _recorded_for(task: Task, store: Store, targets: Iterable[Target]) -> Target | None:
    """The first of some targets for which there are records of a task; None: there are none."""
    return next((x for x in targets if next(iter(store.scan(Query(task.key, x.key))), None) is not None), None)
