"""A graph network on the program's syntax tree as AutoTVM's cost model.

Yan, TVM conference 2019, and Tomczak et al. 2019, arXiv 1904.11876.

The nodes of the tree are loops, loads, stores, arithmetic and shared variables. Graph convolutions, a mean over nodes
and a perceptron give a program's score. Search and sampling are AutoTVM's.

What was changed: the papers give no layer sizes and no tuning run. The sizes are Tilewright's, and the network is
trained to rank programs, not to predict seconds. Design spaces without loop nests (softmax, pooling, generated ones)
have no syntax trees. Their tasks keep XGBoost on the knobs.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from tilewright.cost.model import CostModel
from tilewright.cost.models import StoredModel
from tilewright.errors import MissingExtraError
from tilewright.methods.autotvm import autotvm
from tilewright.methods.method import Method, ModelFactory, select_prior
from tilewright.methods.trees import make_boosted_trees
from tilewright.space.space import DesignSpace

__all__ = ["graph_cost_model"]


def graph_cost_model(prior: StoredModel | None = None) -> Method:
    """:func:`~tilewright.methods.autotvm.autotvm` with a graph network instead of XGBoost.

    Args:
        prior: a graph network fitted to other tasks, from whose weights each task learns on. With None, or a model of
            another kind, each task begins with an untrained network.

    Raises:
        MissingExtraError: PyTorch Geometric is not installed.
    """
    if find_spec("torch_geometric") is None:
        raise MissingExtraError("torch_geometric", "torch")
    return replace(autotvm(), name="graph_cost_model", model=_graph_networks(prior))


def _graph_networks(prior: StoredModel | None) -> ModelFactory:
    trees = make_boosted_trees()

    def make(space: DesignSpace, seed: int) -> CostModel:
        from tilewright.cost.gcn import GCNModel  # needs PyTorch

        if not space.has_loop_nest:
            return trees(space, seed)
        known = select_prior(prior, space)
        if isinstance(known, GCNModel):
            return GCNModel.from_state(known.state(), seed=seed, warm=True)
        return GCNModel(seed=seed, warm=True)

    return make
