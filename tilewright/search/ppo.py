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
from tilewright.space.configs import canonical, cardinalities, check, empty, from_keys, keys, sample
from tilewright.space.space import Configs, DesignSpace

if TYPE_CHECKING:
    from stable_baselines3 import PPO

__all__ = ["PPOSearch"]


class PPOSearch:
    """Walkers move every knob up, down or not at all, as a policy says that learns to reach high scores.

    As in RELEASE and Chameleon, each ask starts ``walkers`` walkers on random configs, lets them take ``steps`` steps,
    and updates the policy by PPO on what they met (one policy for the task, kept from ask to ask). A walker's episode
    ends when at least three quarters of the knobs stay or are at a bound; it then starts on another random config. The
    best scored configs that were met are proposed. Before anything was told, and where walks find too few, proposals
    are random.

    Different from the published code: the policy is trained (in two of three releases the call is missing), rewards are
    scaled to the scores of the ask, walkers stay on valid configs, and an ask has fewer steps than the paper's 500.

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
        steps: int = 32,
    ) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._told = False
        self._walk = _Walk(space, rng, scorer, walkers)
        self._steps = steps
        free = int((cardinalities(space) > 1).sum())
        self._agent = _agent(self._walk, steps, int(rng.integers(1 << 31))) if free else None

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``, best score first, random ones last."""
        found = empty(self._space)
        if self._told and count > 0 and self._agent is not None:
            self._walk.begin()
            # reset_num_timesteps starts the walkers anew; the policy and its optimiser stay.
            self._agent.learn(self._walk.num_envs * self._steps, reset_num_timesteps=True)
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


def _agent(walk: _Walk, steps: int, seed: int) -> PPO:
    """The agent with the papers' hyperparameters."""
    import torch
    from stable_baselines3 import PPO

    return PPO(
        "MlpPolicy",
        walk.environment,
        n_steps=steps,
        batch_size=max(2, steps * walk.num_envs // 4),
        n_epochs=3,
        learning_rate=1e-3,
        gamma=0.9,
        gae_lambda=0.99,
        clip_range=0.3,
        ent_coef=0.1,
        vf_coef=1.0,
        policy_kwargs={"net_arch": {"pi": [20, 20], "vf": [20, 20]}, "activation_fn": torch.nn.Tanh},
        seed=seed,
        device="cpu",
    )


class _Walk:
    """The walkers, and what they met."""

    def __init__(self, space: DesignSpace, rng: np.random.Generator, scorer: Scorer, walkers: int) -> None:
        self.num_envs = walkers
        self._space = space
        self._rng = rng
        self._scorer = scorer
        self._choices = cardinalities(space)
        self._known: dict[bytes, float] = {}
        self._points = empty(space)
        self.environment = _environment(self, len(space.knobs), walkers)

    def begin(self) -> None:
        """Forget the scores, which the cost model may have changed."""
        self._known = {}

    def start(self) -> NDArray[np.float32]:
        """All walkers on random configs; ``(walkers, knobs)`` what they see."""
        self._points = self._random(self.num_envs)
        self._score(self._points)
        return self._state(self._points)

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """What is seen, earned, and ended after ``(walkers, knobs)`` actions: 0 down, 1 stay, 2 up."""
        before = self._points
        moved = np.clip(before + np.asarray(actions) - 1, 0, self._choices - 1).astype(np.int32)
        ended = (moved == before).mean(axis=1) >= 0.75
        moved = canonical(self._space, moved)
        moved = np.where(self._space.valid(moved)[:, None], moved, before)
        scores = self._score(moved)
        known = np.fromiter(self._known.values(), dtype=np.float64)
        low, high = np.quantile(known[np.isfinite(known)], [0.05, 1.0]) if np.isfinite(known).any() else (0.0, 1.0)
        scaled = np.clip((scores - low) / (high - low if high > low else 1.0), -1.0, 1.0)
        moved[ended] = self._random(int(ended.sum()))
        self._points = moved
        return self._state(moved), np.nan_to_num(scaled, nan=-1.0).astype(np.float32), ended

    def best(self, count: int, seen: Ledger) -> Configs:
        """The best scored configs met that may be proposed."""
        names = [name for name, score in self._known.items() if score > -math.inf]
        rows = from_keys(self._space, names)
        new = ~seen.has(rows)
        scored = [(self._known[name], -place, name) for place, name in enumerate(names) if new[place]]
        return from_keys(self._space, [name for _, _, name in heapq.nlargest(count, scored)])

    def _random(self, count: int) -> Configs:
        rows = sample(self._space, self._rng, count)
        # A small space has fewer configs than there are walkers.
        return rows if len(rows) == count else rows[self._rng.integers(0, len(rows), size=count)]

    def _score(self, configs: Configs) -> NDArray[np.float64]:
        names: list[bytes] = keys(configs).tolist()
        fresh = list({name: row for row, name in enumerate(names) if name not in self._known}.values())
        if fresh:
            scores = np.asarray(self._scorer(configs[fresh]), dtype=np.float64)
            scores = np.where(np.isnan(scores), -math.inf, scores)
            self._known.update(zip([names[row] for row in fresh], scores.tolist(), strict=True))
        return np.fromiter((self._known[name] for name in names), dtype=np.float64, count=len(names))

    def _state(self, configs: Configs) -> NDArray[np.float32]:
        return (configs / np.maximum(self._choices - 1, 1)).astype(np.float32)


def _environment(walk: _Walk, knobs: int, walkers: int) -> Any:
    """The walkers as Stable-Baselines3 wants to see them: one vectorised environment."""
    try:
        from gymnasium import spaces
        from stable_baselines3.common.vec_env import VecEnv
    except ImportError as exc:
        raise MissingExtraError("PPO", "rl") from exc

    class Environment(VecEnv):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(walkers, spaces.Box(0.0, 1.0, (max(knobs, 1),)), spaces.MultiDiscrete([3] * max(knobs, 1)))
            self._actions = np.ones((walkers, knobs), dtype=np.int64)

        def reset(self) -> Any:
            return walk.start()

        def step_async(self, actions: Any) -> None:
            self._actions = actions

        def step_wait(self) -> Any:
            seen, earned, ended = walk.step(self._actions)
            return (
                seen,
                earned,
                ended,
                [{"terminal_observation": row} if end else {} for row, end in zip(seen, ended, strict=True)],
            )

        def close(self) -> None:
            pass

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * walkers

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            pass

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * walkers

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * walkers

    return Environment()
