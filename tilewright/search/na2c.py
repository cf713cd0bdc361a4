"""N-A2C, the neighbourhood advantage actor-critic, without a cost model (arXiv 1909.10616, section 4.2)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MissingExtraError
from tilewright.search.guided_draw import draw
from tilewright.search.ledger import Ledger
from tilewright.search.searcher import Scorer
from tilewright.search.torch_state import one_thread
from tilewright.space.configs import canonical, check, distinct, empty, keys
from tilewright.space.knob import Knob, SplitKnob
from tilewright.space.moves import steps
from tilewright.space.space import Configs, DesignSpace

__all__ = ["NA2CParameters", "NeighbourhoodActorCritic"]

#: The most times that one ask starts walks. In an exhausted neighbourhood walks find nothing new.
_WAVES = 64


@dataclass(frozen=True)
class NA2CParameters:
    """The hyperparameters of N-A2C.

    Attributes:
        length: the steps of a walk (the paper's T).
        epsilon: the probability of a random step.
        discount: the weight of the critic's value of a step's end, relative to the step's reward.
        hidden: the units of the layer that actor and critic share.
        rate: Adam's learning rate.
    """

    length: int = 3
    epsilon: float = 0.1
    discount: float = 0.9
    hidden: int = 128
    rate: float = 1e-3


class NeighbourhoodActorCritic:
    """Short walks from the fastest config so far, by a policy that learns which moves pay.

    Walks of a few steps collect a batch, all from the fastest config. A step moves one knob to a choice next to it
    (:func:`tilewright.space.moves.steps`). The policy chooses among the valid steps; with probability ``epsilon`` the
    step is random. After the batch was measured, actor and critic learn from all steps whose end has a latency. The
    reward of a step is the speed of its end, relative to the fastest config.

    Different from the paper:

    - Moves are by prime factors instead of factors of 2, and of every knob, not only of the splits of a matrix product.
    - The gradient makes good moves more likely. In a known public port it has the opposite sign.
    - Learning is written out here. Stable-Baselines3's A2C needs the reward of each step at once, and here rewards come
      with the next tell.

    Args:
        space: where to search.
        rng: the only source of randomness.
        scorer: scores configs, optional. With a scorer, random proposals are the best scored of ``start`` random
            configs. They are made before there is a fastest config, and where walks find too few.
        parameters: the hyperparameters.
        start: the random configs from which the scorer chooses.

    Attributes:
        seen: the configs that must not be proposed.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        scorer: Scorer | None = None,
        *,
        parameters: NA2CParameters | None = None,
        start: int = 512,
    ) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._scorer = scorer
        self._start = start
        self._parameters = NA2CParameters() if parameters is None else parameters
        self._tables = [steps(knob) for knob in space.knobs]
        # The actions of each knob, as a slice of all actions.
        ends = np.cumsum([0, *(table.shape[1] for table in self._tables)]).tolist()
        self._actions = [slice(*pair) for pair in itertools.pairwise(ends)]
        self._count = ends[-1]
        self._states = [_describe_choices(knob) for knob in space.knobs]
        inputs = sum(s.shape[1] for s in self._states)
        self._network = _Network(max(inputs, 1), max(self._count, 1), self._parameters, rng)
        self._seconds: dict[bytes, float] = {}
        self._best: tuple[float, NDArray[np.int32]] | None = None
        self._steps: list[tuple[Configs, NDArray[np.int64], Configs]] = []

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``: those met on walks from the fastest, then random ones."""
        found = [empty(self._space)]
        missing = count
        if self._best is not None and self._count > 0:
            for _ in range(_WAVES if missing > 0 else 0):
                met = self._walk(self._best[1], math.ceil(missing / self._parameters.length))
                found.append(distinct(met[~self.seen.has(met)])[:missing])
                self.seen.propose(found[-1])
                missing -= len(found[-1])
                if missing <= 0:
                    break
        elif missing > 0:
            first = self._space.default()[None].astype(np.int32)
            found.append(first[~self.seen.has(first)])
            self.seen.propose(found[-1])
            missing -= len(found[-1])
        filling = draw(self._space, self._rng, missing, self.seen, self._scorer, self._start)
        self.seen.propose(filling)
        return np.concatenate([*found, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Learn from the steps that led to ``configs``, and start the next walks at the fastest config of all.

        Raises:
            SpaceError: a row is not of the space.
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

    def _walk(self, start: NDArray[np.int32], count: int) -> Configs:
        """The configs that ``count`` walks from ``start`` meet. Each step is kept for learning."""
        here = np.tile(start, (count, 1))
        met = [empty(self._space)]
        for _ in range(self._parameters.length):
            ends, allowed = self._ends(here)
            walking = allowed.any(axis=1)
            here, ends, allowed = here[walking], ends[walking], allowed[walking]
            logits = self._network.logits(self._state(here))
            logits[self._rng.random(len(here)) < self._parameters.epsilon] = 0.0
            # The argmax of logits with Gumbel noise is a draw from their softmax.
            noisy = np.where(allowed, logits + self._rng.gumbel(size=logits.shape), -np.inf)
            actions = noisy.argmax(axis=1) if len(noisy) else np.empty(0, dtype=np.int64)
            there = ends[np.arange(len(here)), actions]
            self._steps.append((here, actions, there))
            here = there
            met.append(here)
        return np.concatenate(met)

    def _ends(self, configs: Configs) -> tuple[Configs, NDArray[np.bool_]]:
        """The ``(n, actions, knobs)`` ends of all actions, and ``(n, actions)`` whether each is a valid move."""
        width = configs.shape[1]
        ends = np.repeat(configs[:, None], self._count, axis=1)
        for knob, (table, actions) in enumerate(zip(self._tables, self._actions, strict=True)):
            ends[:, actions, knob] = table[configs[:, knob]]
        legal: NDArray[np.bool_] = np.asarray((ends >= 0).all(axis=2))
        ends = np.where(legal[:, :, None], ends, configs[:, None]).astype(np.int32)
        ends = canonical(self._space, ends.reshape(-1, width)).reshape(ends.shape)
        moved = (ends != configs[:, None]).any(axis=2)
        valid = self._space.valid(ends.reshape(-1, width)).reshape(legal.shape)
        return ends, legal & moved & valid

    def _state(self, configs: Configs) -> NDArray[np.float32]:
        parts = [table[configs[:, column]] for column, table in enumerate(self._states)]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(configs), 0), dtype=np.float32)

    def _learn(self) -> None:
        if not self._steps or self._best is None:
            self._steps = []
            return
        starts, actions, ends = (np.concatenate(parts) for parts in zip(*self._steps, strict=True))
        self._steps = []
        names = keys(ends).tolist()
        # A step to a config without a measurement teaches nothing.
        known = np.asarray([name in self._seconds for name in names], dtype=np.bool_)
        if not known.any():
            return
        times = np.asarray([self._seconds[name] for name in itertools.compress(names, known)])
        good = np.isfinite(times) & (times > 0)
        rewards = np.where(good, self._best[0] / np.where(good, times, 1.0), 0.0)
        starts, actions, ends = starts[known], actions[known], ends[known]
        allowed = self._ends(starts)[1]
        self._network.learn(self._state(starts), allowed, actions, self._state(ends), rewards)


def _describe_choices(knob: Knob) -> NDArray[np.float32]:
    """``(choices, features)`` from -1/2 to 1/2: the factors of a split over its extent, or the place of the choice."""
    if isinstance(knob, SplitKnob):
        return (knob.table / max(knob.extent, 1) - 0.5).astype(np.float32)
    return (np.arange(len(knob))[:, None] / max(len(knob) - 1, 1) - 0.5).astype(np.float32)


class _Network:
    """An actor and a critic on one hidden layer.

    Args:
        inputs: the features of a state.
        actions: the number of actions.
        parameters: the hyperparameters.
        rng: of the first weights.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """

    def __init__(self, inputs: int, actions: int, parameters: NA2CParameters, rng: np.random.Generator) -> None:
        try:
            import torch
        except ImportError as exc:
            raise MissingExtraError("PyTorch", "torch") from exc
        self._torch, self._discount, hidden = torch, parameters.discount, parameters.hidden
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        with torch.random.fork_rng(devices=[]):  # making layers draws from PyTorch's global generator
            self._shared = torch.nn.Linear(inputs, hidden)
            self._actor = torch.nn.Linear(hidden, actions)
            self._critic = torch.nn.Linear(hidden, 1)
        self._parameters = [p for layer in (self._shared, self._actor, self._critic) for p in layer.parameters()]
        for parameter in self._parameters:  # drawn from this generator, not from PyTorch's global one
            bound = 1.0 / math.sqrt(max(1, parameter.shape[-1]))
            torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self._optimiser = torch.optim.Adam(self._parameters, lr=parameters.rate)

    def logits(self, states: NDArray[np.float32]) -> NDArray[np.float64]:
        """The ``(n, actions)`` logits of the actor."""
        torch = self._torch
        with one_thread(), torch.inference_mode():
            result = self._actor(torch.relu(self._shared(torch.from_numpy(states))))
        return np.asarray(result.numpy(), dtype=np.float64)

    def learn(
        self,
        states: NDArray[np.float32],
        allowed: NDArray[np.bool_],
        actions: NDArray[np.int64],
        ends: NDArray[np.float32],
        rewards: NDArray[np.float64],
    ) -> None:
        """Take one step of gradient descent on ``n`` transitions.

        Args:
            states: ``(n, features)`` before each transition.
            allowed: ``(n, actions)`` the valid actions.
            actions: ``(n,)`` the actions taken.
            ends: ``(n, features)`` after each transition.
            rewards: ``(n,)`` from 0 to 1.
        """
        torch = self._torch
        with one_thread():
            hidden = torch.relu(self._shared(torch.from_numpy(states)))
            value = self._critic(hidden)[:, 0]
            with torch.no_grad():
                after = self._critic(torch.relu(self._shared(torch.from_numpy(ends))))[:, 0]
                target = torch.from_numpy(rewards.astype(np.float32)) + self._discount * after
            advantage = (target - value).detach()
            logits = self._actor(hidden).masked_fill(~torch.from_numpy(allowed), -torch.inf)
            chosen = torch.log_softmax(logits, dim=1).gather(1, torch.from_numpy(actions)[:, None])[:, 0]
            # Descent on the negative makes an action that was better than expected more likely.
            loss = -(chosen * advantage).mean() + ((target - value) ** 2).mean()
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
