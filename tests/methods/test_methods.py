"""Every published system, whole: it tunes, it is what its paper says, and it says what it lacks."""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from tests.toys import ToySpace, plain
from tests.tuning.replay import TABLE, TARGET, Clock, Replay
from tilewright.errors import MissingExtraError, TilewrightError
from tilewright.methods.registry import METHODS, make_method
from tilewright.records.memory import MemoryStore
from tilewright.sample.adaptive import Adaptive
from tilewright.share.cluster import clique_clusters
from tilewright.tuning.tuner import TaskTuner

NEEDS = {"chameleon": "stable_baselines3", "na2c": "torch", "graph_cost_model": "torch_geometric"}
EVERY = pytest.mark.parametrize("name", METHODS)


def need(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])


def tune(name: str) -> list[tuple[str, tuple[int, ...], float]]:
    store, clock = MemoryStore(), Clock()
    runner = Replay(store, {"toy": TABLE.seconds}, clock)
    tuner = TaskTuner(TABLE, TARGET, runner, store, np.random.default_rng(3), make_method(name), clock=clock)
    while tuner.trials < 32:
        tuner.round(16, math.inf)
    return runner.log


tune_once = cache(tune)


@EVERY
def test_it_tunes_and_the_same_seed_gives_the_same_run(name: str) -> None:
    need(name)
    log = tune_once(name)
    assert len({config for _, config, _ in log}) == len(log) >= 32
    assert min(TABLE.seconds(np.asarray([c for _, c, _ in log]))) < TABLE.seconds(TABLE.default()[None])[0]
    assert log == tune(name)


@EVERY
def test_its_name_and_whether_tasks_lend(name: str) -> None:
    need(name)
    method = make_method(name)
    assert method.name == ("bayesian" if name == "default" else name)
    assert (method.sharing is not None) == (name in ("default", "schedule_sharing"))


def test_schedule_sharing_is_autotvm_with_cliques() -> None:
    method = make_method("schedule_sharing")
    assert method.sharing is not None
    assert method.sharing.cluster is clique_clusters
    assert method.sharing.threshold == 0.01
    assert tune_once("schedule_sharing") == tune_once("autotvm")


def test_the_searches_by_measured_times_have_no_cost_model() -> None:
    assert make_method("gbfs").model is None
    if find_spec("torch"):
        assert make_method("na2c").model is None


def test_chameleon_samples_adaptively() -> None:
    need("chameleon")
    sampler = make_method("chameleon").sampler(TABLE, np.random.default_rng(0), lambda c: np.zeros(len(c), np.bool_))
    assert isinstance(sampler, Adaptive)


def test_the_graph_network_scores_programs_and_leaves_knobs_to_trees() -> None:
    need("graph_cost_model")
    from tilewright.cost.gcn import GCNModel
    from tilewright.cost.xgb import XGBoostModel

    model = make_method("graph_cost_model").model
    assert model is not None
    assert isinstance(model(TABLE, 0), GCNModel)
    assert isinstance(model(ToySpace(plain(4, 5)), 0), XGBoostModel)


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(TilewrightError, match=r"a method is one of default, autotvm, .*, but this is 'ansor'"):
        make_method("ansor")


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.methods.parts.find_spec", lambda name: None)
    monkeypatch.setattr("tilewright.methods.graph_cost_model.find_spec", lambda name: None)
    for name, extra in (("chameleon", "rl"), ("na2c", "torch"), ("graph_cost_model", "torch")):
        with pytest.raises(MissingExtraError, match=rf"tilewright\[{extra}\]"):
            make_method(name)
