"""A reinforcement-learned walk over the knobs, against the cost model (arXiv 1905.12799 and 2001.08743)."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any

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

__all__ = ["PPOSearch"]

#: An episode ends when so many of the knobs stay.
_ENDED = 0.75
_DISCOUNT = 0.9
#: Steps between updates of the policy, at most: about an episode, after which the papers update it.
_ROLLOUT = 16
#: How often an invalid step is halved.
_TRIES = 3


class PPOSearch:
    """Walkers move every knob up, down or not at all, as a policy says that learns to reach high scores.

    As in RELEASE and Chameleon, each ask starts ``walkers`` walkers on random configs, lets them take ``steps`` steps,
    and updates the policy by PPO every 16 steps (one policy for the task, kept from ask to ask). A walker's episode
    ends when at least three quarters of the knobs stay or are at a bound; it then starts on another random config. The
    best scored configs that were met are proposed. Before anything was told, and where walks find too few, proposals
    are random.

    Different from the published code:

    - The policy is trained (in two of three releases the call is missing).
    - Rewards are scores relative to those of the configs an ask starts from, as a rank loss knows no scale.
    - Walkers stay on valid configs: where a step would leave them, a random half of its moves is tried instead, thrice,
      and then none. (Of a convolution's space 14 % are valid, and walkers stood still in 62 % of their steps.)
    - An ask has 64 steps instead of at most 500. With 32, 64, 128 the proposals for a convolution had 0.87, 0.92,
      0.95 of the mean score of the best 64 configs there are (0 being the median config), in 0.6, 1.1, 2.1 s.

    Args:
        space: where to search.
        rng: the only source of randomness.
        scorer: the cost model's view of configs; nan counts as the worst. Not called before the first tell.
        walkers: how many walk at once.
        steps: of each walker, per ask.

    Attributes:
        seen: what must not be proposed.

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
        self._agent = _agent(self._walk, steps, int(rng.integers(1 << 31)))

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``, best score first, random ones last."""
        found = empty(self._space)
        if self._told and count > 0 and self._agent is not None:
            # This starts the walkers anew; the policy and its optimiser stay.
            with one_thread(), own_randomness(int(self._rng.integers(1 << 31))):
                self._agent.learn(self._walk.walkers * self._steps, log_interval=None)
            found = self._walk.best(count, self.seen)
        self.seen.propose(found)
        filling = sample(self._space, self._rng, count - len(found), self.seen.has)
        self.seen.propose(filling)
        return np.concatenate([found, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Note that ``configs`` need not be proposed again, and that the scorer has something to go by.

        Raises:
            SpaceError: rows that are not of the space.
        """
        self.seen.tell(check(self._space, configs))
        self._told = self._told or len(configs) > 0


def _agent(walk: _Walk, steps: int, seed: int) -> PPO | None:
    """The agent with the papers' hyperparameters; None where no knob has a choice."""
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
    # The papers have three minibatches; of a buffer that three do not divide, such as ours of 128 x 16, four. A rest
    # would be a minibatch of its own with its own, noisier advantages, which is why Stable-Baselines3 warns of it.
    batches = next((n for n in (3, 4, 2) if size % n == 0 and size > n), 1)
    with one_thread(), own_randomness(seed):
        agent = PPO(
            "MlpPolicy",
            _environment(walk),
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
    # With a logger of its own it makes a directory in /tmp for each call of learn.
    agent.set_logger(Logger(None, []))
    return agent


class _Walk:
    """The walkers, and what they met.

    Attributes:
        walkers: how many there are.
        knobs: how many knobs have a choice, and so are moved and seen.
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
        """All walkers on random configs; ``(walkers, knobs)`` what they see. Old scores are forgotten."""
        self._known = {}
        # One draw for the whole ask, with some to restart from: in a space that is nearly all invalid each takes long.
        self._starts = sample(self._space, self._rng, 8 * self.walkers)
        self._points = self._random(self.walkers)
        scores = self._score(self._points)
        finite = scores[np.isfinite(scores)]
        self._mean, self._spread = (float(finite.mean()), float(finite.std()) or 1.0) if len(finite) else (0.0, 1.0)
        return self._seen(self._points)

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """What is seen, earned, and ended after ``(walkers, knobs)`` actions: 0 down, 1 stay, 2 up."""
        here = self._points[:, self._free]
        there = np.clip(here + actions - 1, 0, self._last)
        ended: NDArray[np.bool_] = (there == here).mean(axis=1) >= _ENDED
        self._points = self._moved(there)
        # Returns, which are sums of about 1 / (1 - discount) rewards, are then of the order of 1.
        rewards = (1 - _DISCOUNT) * np.clip((self._score(self._points) - self._mean) / self._spread, -10.0, 10.0)
        self._points[ended] = self._random(int(ended.sum()))
        return self._seen(self._points), rewards.astype(np.float32), ended

    def _moved(self, there: NDArray[np.int64]) -> Configs:
        """The walkers' configs with their knobs at ``there``, or where that is invalid, with as many as may be."""
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
        """The best scored configs met that may be proposed."""
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


def _environment(walk: _Walk) -> Any:
    """The walkers as Stable-Baselines3 wants to see them: one vectorised environment."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    class Environment(VecEnv):  # type: ignore[misc]
        def __init__(self) -> None:
            seen, actions = spaces.Box(0.0, 1.0, (walk.knobs,)), spaces.MultiDiscrete([3] * walk.knobs)
            super().__init__(walk.walkers, seen, actions)
            self._actions = np.ones((walk.walkers, walk.knobs), dtype=np.int64)

        def reset(self) -> Any:
            return walk.start()

        def step_async(self, actions: Any) -> None:
            self._actions = actions

        def step_wait(self) -> Any:
            return *walk.step(self._actions), [{} for _ in range(walk.walkers)]

        def close(self) -> None:
            pass

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * walk.walkers

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            pass

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * walk.walkers

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * walk.walkers

    return Environment()
