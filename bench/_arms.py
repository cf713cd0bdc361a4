"""The arms of the benches: the systems of ``tilewright.methods``, and pairs of a searcher and a sampler by name.

An arm's name is that of a method in ``METHODS`` (``autotvm``), or ``searcher+sampler`` (``annealing+adaptive``). A pair
that is a published system, or Tilewright's own, is only an arm under the system's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.cost.models import StoredModel
from tilewright.methods.method import Method
from tilewright.methods.parts import combine
from tilewright.methods.registry import METHODS, make_method

__all__ = ["SYSTEMS", "make_arm", "name_arm", "name_arms", "parts_of"]

#: The methods that are a searcher with a sampler, by name. Without a prior, Tilewright's default is such a pair, too.
SYSTEMS = {
    "default": ("bayesian", "top"),
    "autotvm": ("annealing", "epsilon-greedy"),
    "chameleon": ("ppo", "adaptive"),
    "gbfs": ("gbfs", "top"),
    "na2c": ("na2c", "top"),
}
_NAMES = {pair: name for name, pair in SYSTEMS.items()}


def name_arm(searcher: str, sampler: str) -> str:
    """The name of the arm that searches with ``searcher`` and samples with ``sampler``."""
    return _NAMES.get((searcher, sampler), f"{searcher}+{sampler}")


def name_arms(searchers: Sequence[str], samplers: Sequence[str]) -> list[str]:
    """The names of the arms of every searcher with every sampler."""
    return [name_arm(searcher, sampler) for searcher in searchers for sampler in samplers]


def parts_of(arm: str) -> tuple[str, str]:
    """The names of an arm's searcher and sampler."""
    searcher, _, sampler = arm.partition("+")
    return SYSTEMS.get(arm, (searcher, sampler or "top"))


def make_arm(arm: str, prior: StoredModel | None = None) -> Method:
    """The method of an arm.

    Args:
        arm: its name.
        prior: a cost model that was fitted to other tasks.

    Raises:
        TilewrightError: there is no such method, searcher or sampler.
        MissingExtraError: a library that the arm needs is not installed.
    """
    return make_method(arm, prior) if arm in METHODS else combine(*parts_of(arm), prior=prior)
