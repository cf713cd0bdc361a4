"""PPO: a policy that is trained on the cost model's scores walks over the knobs (arXiv 1905.12799 and 2001.08743)."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MissingExtraError
from tilewright.search.ledger import Ledger
from tilewright.search.searcher import Scorer
from tilewright.search.torch_state import one_thread, own_randomness
from tilewright.space.configs import canonical, cardinalities, check, empty, from_keys, keys, sample
from tilewright.space.space import Configs, DesignSpace

if TYPE_CHECKING:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

__all__ = ["PPOSearch"]

#: An episode ends when at least this share of the knobs stays.
_ENDED = 0.75
#: The papers' discount of later rewards.
_DISCOUNT = 0.9
#: The most steps between updates of the policy: about an episode, after which the papers update it.
_ROLLOUT = 16
#: How often an invalid step is tried again with half of its moves.
_TRIES = 3


class PPOSearch:
    """Walkers move every knob up, down or not at all, by a policy that learns to reach high scores.

    As in RELEASE and Chameleon, each ask starts ``walkers`` walkers on random configs and lets them take ``steps``
    steps. PPO updates the policy every 16 steps. The task keeps one policy from ask to ask. An episode of a walker ends
    when at least three quarters of the knobs stay or are at a bound. The walker then starts on another random config.
    The best scored configs that were met are proposed. Proposals are random before the first tell, and where walks find
    too few.

    Different from the published code:

    - The policy is trained. In two of three releases the call is missing.
    - Rewards are scores relative to those of the configs at the start of the ask, because a rank loss has no scale.
    - Walkers stay on valid configs. Instead of an invalid step, a random half of its moves is tried, up to three times,
      and then no move. (In the space of a convolution 14 % of configs are valid; without this rule walkers stood still
      in 62 % of their steps.)
    - An ask has 64 steps instead of at most 500. With 32, 64 and 128 steps, proposals for a convolution had 0.87, 0.92
      and 0.95 of the mean score of the best 64 configs, in 0.6, 1.1 and 2.1 s. (The median config counts as 0.)

    Args:
        space: where to search.
        rng: the only source of randomness.
        scorer: scores configs; nan counts as the worst. Not called before the first tell.
        walkers: the number of walkers.
        steps: the steps of each walker in an ask.

    Attributes:
        seen: the configs that must not be proposed.

    Raises:
        MissingExtraError: Stable-Baselines3 is not installed.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        scorer: Scorer,
        *,
        walkers: int = 128,
        steps: int = 64,
    ) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._told = False
        self._walk = _Walk(space, rng, scorer, walkers)
        self._steps = steps
        self._agent = _make_agent(self._walk, steps, int(rng.integers(1 << 31)))

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``, best score first, random ones last."""
        found = empty(self._space)
        if self._told and count > 0 and self._agent is not None:
            # The walkers start anew; the policy and its optimiser stay.
            with one_thread(), own_randomness(int(self._rng.integers(1 << 31))):
                self._agent.learn(self._walk.walkers * self._steps, log_interval=None)
            found = self._walk.best(count, self.seen)
        self.seen.propose(found)
        filling = sample(self._space, self._rng, count - len(found), self.seen.has)
        self.seen.propose(filling)
        return np.concatenate([found, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Note that ``configs`` were measured. From now on the scorer guides the walks.

        Raises:
            SpaceError: a row is not of the space.
        """
        self.seen.tell(check(self._space, configs))
        self._told = self._told or len(configs) > 0


def _make_agent(walk: _Walk, steps: int, seed: int) -> PPO | None:
    """An agent with the papers' hyperparameters; None if no knob has a choice."""
    try:
        import torch
        from stable_baselines3 import PPO
        from stable_baselines3.common.logger import Logger
    except ImportError as exc:
        raise MissingExtraError("Stable-Baselines3", "rl") from exc

    if walk.knobs == 0:
        return None
    rollout = next(length for length in range(min(_ROLLOUT, steps), 0, -1) if steps % length == 0)
    size = rollout * walk.walkers
    # The papers have three minibatches. A buffer that three do not divide, such as 128 x 16, has four. A remainder
    # would be a minibatch of its own with noisier advantages, of which Stable-Baselines3 warns.
    batches = next((n for n in (3, 4, 2) if size % n == 0 and size > n), 1)
    with one_thread(), own_randomness(seed):
        agent = PPO(
            "MlpPolicy",
            _make_environment(walk),
            n_steps=rollout,
            batch_size=size // batches,
            n_epochs=3,
            learning_rate=1e-3,
            gamma=_DISCOUNT,
            gae_lambda=0.99,
            clip_range=0.3,
            ent_coef=0.1,
            vf_coef=1.0,
            normalize_advantage=size > 1,
            policy_kwargs={"net_arch": {"pi": [20, 20], "vf": [20, 20]}, "activation_fn": torch.nn.Tanh},
            device="cpu",
        )
    # With its own logger the agent makes a directory in /tmp for each call of learn.
    agent.set_logger(Logger(None, []))
    return agent


class _Walk:
    """The walkers, and the configs that they met.

    Attributes:
        walkers: the number of walkers.
        knobs: the number of knobs that have a choice. Only these are moved and observed.
    """

    def __init__(self, space: DesignSpace, rng: np.random.Generator, scorer: Scorer, walkers: int) -> None:
        self.walkers = walkers
        self._space = space
        self._rng = rng
        self._scorer = scorer
        choices = cardinalities(space)
        self._free = np.flatnonzero(choices > 1)
        self._last = choices[self._free] - 1
        self.knobs = len(self._free)
        self._known: dict[bytes, float] = {}
        self._points = self._starts = empty(space)
        self._mean, self._spread = 0.0, 1.0

    def start(self) -> NDArray[np.float32]:
        """Put all walkers on random configs, and forget old scores. Returns their ``(walkers, knobs)`` observations."""
        self._known = {}
        # One draw serves the whole ask, restarts included, because a draw takes long in a space with few valid configs.
        self._starts = sample(self._space, self._rng, 8 * self.walkers)
        self._points = self._random(self.walkers)
        scores = self._score(self._points)
        finite = scores[np.isfinite(scores)]
        self._mean, self._spread = (float(finite.mean()), float(finite.std()) or 1.0) if len(finite) else (0.0, 1.0)
        return self._seen(self._points)

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Move all walkers by ``(walkers, knobs)`` actions: 0 down, 1 stay, 2 up.

        Returns:
            the observations ``(walkers, knobs)``, the rewards ``(walkers,)``, and whether each episode has ended.
        """
        here = self._points[:, self._free]
        there = np.clip(here + actions - 1, 0, self._last)
        ended: NDArray[np.bool_] = (there == here).mean(axis=1) >= _ENDED
        self._points = self._move(there)
        # A return is the sum of about 1 / (1 - discount) rewards. This factor makes returns about 1.
        rewards = (1 - _DISCOUNT) * np.clip((self._score(self._points) - self._mean) / self._spread, -10.0, 10.0)
        self._points[ended] = self._random(int(ended.sum()))
        return self._seen(self._points), rewards.astype(np.float32), ended

    def _move(self, there: NDArray[np.int64]) -> Configs:
        """The walkers' configs after their knobs have moved to ``there``, or after part of an invalid move."""
        points = self._points.copy()
        rest = np.arange(len(points))
        for _ in range(1 + _TRIES):
            moved = self._points[rest]
            moved[:, self._free] = there[rest]
            moved = canonical(self._space, moved)
            legal = self._space.valid(moved)
            points[rest[legal]] = moved[legal]
            rest = rest[~legal]
            if len(rest) == 0:
                break
            kept = self._rng.integers(0, 2, size=(len(rest), self.knobs)) == 1
            there[rest] = np.where(kept, there[rest], self._points[rest][:, self._free])
        return points

    def best(self, count: int, seen: Ledger) -> Configs:
        """The ``count`` best scored configs among those met that may be proposed."""
        names = [name for name, score in self._known.items() if score > -math.inf]
        rows = from_keys(self._space, names)
        new = ~seen.has(rows)
        scored = [(self._known[name], -place, name) for place, name in enumerate(names) if new[place]]
        return from_keys(self._space, [name for _, _, name in heapq.nlargest(count, scored)])

    def _random(self, count: int) -> Configs:
        return self._starts[self._rng.integers(0, len(self._starts), size=count)]

    def _score(self, configs: Configs) -> NDArray[np.float64]:
        names: list[bytes] = keys(configs).tolist()
        fresh = list({name: row for row, name in enumerate(names) if name not in self._known}.values())
        if fresh:
            scores = np.asarray(self._scorer(configs[fresh]), dtype=np.float64)
            scores = np.where(np.isnan(scores), -math.inf, scores)
            self._known.update(zip([names[row] for row in fresh], scores.tolist(), strict=True))
        return np.fromiter((self._known[name] for name in names), dtype=np.float64, count=len(names))

    def _seen(self, configs: Configs) -> NDArray[np.float32]:
        return (configs[:, self._free] / self._last).astype(np.float32)


def _make_environment(walk: _Walk) -> VecEnv:
    """The walkers as one vectorised environment of Stable-Baselines3."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    class Environment(VecEnv):  # type: ignore[misc]
        def __init__(self) -> None:
            seen, actions = spaces.Box(0.0, 1.0, (walk.knobs,)), spaces.MultiDiscrete([3] * walk.knobs)
            super().__init__(walk.walkers, seen, actions)
            self._actions = np.ones((walk.walkers, walk.knobs), dtype=np.int64)

        def reset(self) -> VecEnvObs:
            return walk.start()

        def step_async(self, actions: NDArray[np.int64]) -> None:
            self._actions = actions

        def step_wait(self) -> VecEnvStepReturn:
            return *walk.step(self._actions), [{} for _ in range(walk.walkers)]

        def close(self) -> None:
            pass

        def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[None]:
            return [None] * walk.walkers

        def set_attr(self, attr_name: str, value: object, indices: VecEnvIndices = None) -> None:
            pass

        def env_method(
            self, method_name: str, *args: object, indices: VecEnvIndices = None, **kwargs: object
        ) -> list[None]:
            return [None] * walk.walkers

        def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
            return [False] * walk.walkers

    return Environment()
