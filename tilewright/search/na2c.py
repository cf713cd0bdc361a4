"""Neighbourhood advantage actor-critic, without a cost model (N-A2C; arXiv 1909.10616, section 4.2; PAPERS.md 4)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MissingExtraError
from tilewright.search.ledger import Ledger
from tilewright.space.configs import canonical, check, empty, keys, sample
from tilewright.space.knob import SplitKnob
from tilewright.space.moves import steps
from tilewright.space.space import Configs, DesignSpace

__all__ = ["NeighbourhoodActorCritic"]

#: Walks of one ask, at most, per config that is wanted: near an exhausted neighbourhood they find nothing new.
_WALKS = 20


class NeighbourhoodActorCritic:
    """Short walks from the fastest config so far, by a policy that learns which moves pay.

    A batch is collected by walks of ``length`` steps, all from the fastest config. A step moves one knob to a choice
    next to it (:func:`tilewright.space.moves.steps`), chosen by the policy among those that are valid, or at random
    with probability ``epsilon``. Once the batch is measured, actor and critic learn from all steps whose end is known:
    the reward is the speed relative to the fastest.

    Different from the paper: primes instead of factors of 2, every knob instead of the splits of a matrix product. The
    gradient has the sign that makes good moves more likely, which a known public port has not. It is written out here
    and not Stable-Baselines3's A2C, as that wants each step's reward at once, and here rewards come with the next tell.

    Args:
        space: where to search.
        rng: the only source of randomness.
        length: steps of a walk (the paper's T).
        epsilon: probability of a random step.
        discount: of the value of where a step leads to.
        hidden: units of the layer that actor and critic share.
        rate: of learning (Adam).

    Attributes:
        seen: what must not be proposed.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        *,
        length: int = 3,
        epsilon: float = 0.1,
        discount: float = 0.9,
        hidden: int = 128,
        rate: float = 1e-3,
    ) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._length = length
        self._epsilon = epsilon
        self._discount = discount
        self._tables = [steps(knob) for knob in space.knobs]
        #: The knob of each action, and its number among that knob's own.
        self._actions = [(k, a) for k, table in enumerate(self._tables) for a in range(table.shape[1])]
        self._states = [_states(knob) for knob in space.knobs]
        self._network = _Network(
            max(sum(s.shape[1] for s in self._states), 1), max(len(self._actions), 1), hidden, rate, rng
        )
        self._seconds: dict[bytes, float] = {}
        self._best: tuple[float, NDArray[np.int32]] | None = None
        self._steps: list[tuple[NDArray[np.int32], int, NDArray[np.int32]]] = []

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``: met on walks from the fastest, then random ones."""
        found = [empty(self._space)]
        missing = count
        if self._best is not None and self._actions:
            for _ in range(_WALKS * max(count, 0)):
                if missing <= 0:
                    break
                for row in self._walk(self._best[1]):
                    if missing > 0 and not self.seen.has(row[None])[0]:
                        self.seen.propose(row[None])
                        found.append(row[None])
                        missing -= 1
        elif missing > 0:
            first = self._space.default()[None].astype(np.int32)
            found.append(first[~self.seen.has(first)])
            self.seen.propose(found[-1])
            missing -= len(found[-1])
        filling = sample(self._space, self._rng, missing, self.seen.has)
        self.seen.propose(filling)
        return np.concatenate([*found, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Learn from the steps that led to ``configs``, and walk from the fastest of all.

        Raises:
            SpaceError: rows that are not of the space.
        """
        rows = check(self._space, configs)
        self.seen.tell(rows)
        for name, row, time in zip(
            keys(rows).tolist(), rows, np.asarray(seconds, dtype=np.float64).tolist(), strict=True
        ):
            self._seconds[name] = time
            if math.isfinite(time) and time > 0 and (self._best is None or time < self._best[0]):
                self._best = time, row.copy()
        self._learn()

    def _walk(self, start: NDArray[np.int32]) -> list[NDArray[np.int32]]:
        met = []
        here = start
        for _ in range(self._length):
            ends, allowed = self._ends(here)
            if not allowed.any():
                break
            if self._rng.random() < self._epsilon:
                action = int(self._rng.choice(np.flatnonzero(allowed)))
            else:
                odds = np.where(allowed, np.exp(self._network.logits(self._state(here[None]))[0]), 0.0)
                action = int(self._rng.choice(len(odds), p=odds / odds.sum()))
            self._steps.append((here, action, ends[action]))
            here = ends[action]
            met.append(here)
        return met

    def _ends(self, config: NDArray[np.int32]) -> tuple[Configs, NDArray[np.bool_]]:
        """``(actions, knobs)`` where each action leads, and ``(actions,)`` which lead somewhere."""
        ends = np.tile(config, (len(self._actions), 1))
        for row, (knob, action) in enumerate(self._actions):
            ends[row, knob] = self._tables[knob][config[knob], action]
        legal = (ends >= 0).all(axis=1)
        ends = canonical(self._space, np.where(legal[:, None], ends, config).astype(np.int32))
        legal &= (ends != config).any(axis=1)
        legal &= self._space.valid(ends)
        return ends, legal

    def _state(self, configs: Configs) -> NDArray[np.float32]:
        parts = [table[configs[:, column]] for column, table in enumerate(self._states)]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(configs), 0), dtype=np.float32)

    def _learn(self) -> None:
        known, waiting = [], []
        for step in self._steps:
            (known if keys(step[2][None]).tolist()[0] in self._seconds else waiting).append(step)
        self._steps = []  # a step to a config that was not measured teaches nothing
        if not known or self._best is None:
            return
        starts = np.stack([s for s, _, _ in known])
        ends = np.stack([e for _, _, e in known])
        times = np.asarray([self._seconds[name] for name in keys(ends).tolist()])
        rewards = np.where(np.isfinite(times) & (times > 0), self._best[0] / np.where(times > 0, times, 1.0), 0.0)
        rewards = np.nan_to_num(rewards)
        allowed = np.stack([self._ends(start)[1] for start in starts])
        actions = np.asarray([a for _, a, _ in known])
        self._network.learn(self._state(starts), allowed, actions, self._state(ends), rewards, self._discount)


def _states(knob: Any) -> NDArray[np.float32]:
    """``(choices, features)``: factors over the extent, or the place among the choices, less a half."""
    if isinstance(knob, SplitKnob):
        return (knob.table / max(knob.extent, 1) - 0.5).astype(np.float32)
    return (np.arange(len(knob))[:, None] / max(len(knob) - 1, 1) - 0.5).astype(np.float32)


class _Network:
    """An actor and a critic on one hidden layer."""

    def __init__(self, inputs: int, actions: int, hidden: int, rate: float, rng: np.random.Generator) -> None:
        try:
            import torch
        except ImportError as exc:
            raise MissingExtraError("N-A2C", "torch") from exc
        self._torch = torch
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        self._shared = torch.nn.Linear(inputs, hidden)
        self._actor = torch.nn.Linear(hidden, actions)
        self._critic = torch.nn.Linear(hidden, 1)
        self._parameters = [p for layer in (self._shared, self._actor, self._critic) for p in layer.parameters()]
        for parameter in self._parameters:  # from our generator, not from PyTorch's global one
            bound = 1.0 / math.sqrt(max(1, parameter.shape[-1]))
            torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self._optimiser = torch.optim.Adam(self._parameters, lr=rate)

    def logits(self, states: NDArray[np.float32]) -> NDArray[np.float64]:
        """``(n, actions)``."""
        torch = self._torch
        with torch.inference_mode():
            result = self._actor(torch.relu(self._shared(torch.from_numpy(states))))
        return np.asarray(result.numpy(), dtype=np.float64)

    def learn(
        self,
        states: NDArray[np.float32],
        allowed: NDArray[np.bool_],
        actions: NDArray[np.int64],
        ends: NDArray[np.float32],
        rewards: NDArray[np.float64],
        discount: float,
    ) -> None:
        """One step of gradient descent on all ``n`` transitions."""
        torch = self._torch
        hidden = torch.relu(self._shared(torch.from_numpy(states)))
        value = self._critic(hidden)[:, 0]
        with torch.no_grad():
            after = self._critic(torch.relu(self._shared(torch.from_numpy(ends))))[:, 0]
            target = torch.from_numpy(rewards.astype(np.float32)) + discount * after
        advantage = (target - value).detach()
        logits = self._actor(hidden).masked_fill(~torch.from_numpy(allowed), -torch.inf)
        chosen = torch.log_softmax(logits, dim=1).gather(1, torch.from_numpy(actions)[:, None])[:, 0]
        # Descent on minus this: an action that was better than expected becomes more likely.
        loss = -(chosen * advantage).mean() + ((target - value) ** 2).mean()
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
