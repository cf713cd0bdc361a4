"""The methods, by the names that the command line and the benches use."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.cost.models import StoredModel
from tilewright.errors import TilewrightError
from tilewright.methods.autotvm import autotvm
from tilewright.methods.chameleon import chameleon
from tilewright.methods.default import default
from tilewright.methods.gbfs import gbfs
from tilewright.methods.graph_cost_model import graph_cost_model
from tilewright.methods.method import Method
from tilewright.methods.na2c import na2c
from tilewright.methods.schedule_sharing import schedule_sharing
from tilewright.wording import did_you_mean

__all__ = ["METHODS", "make_method"]

#: The factories of the methods, by name. Each takes a cost model that was fitted to other tasks, or None.
METHODS: dict[str, Callable[[StoredModel | None], Method]] = {
    "default": default,
    "autotvm": lambda prior: autotvm(prior=prior),
    "chameleon": chameleon,
    "schedule_sharing": schedule_sharing,
    "gbfs": lambda prior: gbfs(),
    "na2c": lambda prior: na2c(),
    "graph_cost_model": graph_cost_model,
}


def make_method(name: str, prior: StoredModel | None = None) -> Method:
    """Make the method of a name.

    Args:
        name: in ``METHODS``.
        prior: a cost model that was fitted to other tasks. Methods without a cost model ignore it.

    Raises:
        TilewrightError: there is no method of that name.
        MissingExtraError: a library that the method needs is not installed.
    """
    if name not in METHODS:
        near = did_you_mean(name, METHODS)
        raise TilewrightError(f"a method is one of {', '.join(METHODS)}, but this is {name!r}{near}")
    return METHODS[name](prior)
