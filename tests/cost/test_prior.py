"""Models of other tasks: the first opinion, dropped where they are wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from tests.graph.test_tokens import attention
from tests.models import TARGET, conv_model, read
from tests.toys import TableSpace
from tilewright.cost.model import KnobTable
from tilewright.cost.prior import FixedModel, load_pretrained
from tilewright.cost.ranking import pairwise_accuracy
from tilewright.cost.xgb import Loss, XGBoostModel
from tilewright.errors import SpaceError
from tilewright.graph.tasks import extract
from tilewright.methods.default import default, known_beforehand
from tilewright.ops.registry import make_space
from tilewright.space.configs import knob_values, sample

SPACE = TableSpace()


class Oracle:
    """Knows how fast the table space's programs are, or believes the opposite."""

    ready = True

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign
        self.configs = sample(SPACE, np.random.default_rng(0), 1 << 20)
        values = knob_values(SPACE, self.configs)
        self.seconds = {row.tobytes(): s for row, s in zip(values, SPACE.seconds(self.configs), strict=True)}

    def fit(self, programs: object, seconds: object) -> None:
        raise AssertionError("a prior learns no more")

    def predict(self, programs: object) -> np.ndarray:
        assert isinstance(programs, KnobTable)
        return np.asarray([-self.sign * np.log(self.seconds[row.tobytes()]) for row in programs.values])


def rows(seed: int, count: int) -> tuple[KnobTable, np.ndarray]:
    configs = sample(SPACE, np.random.default_rng(seed), count)
    return KnobTable(knob_values(SPACE, configs)), SPACE.seconds(configs)


def test_trees_correct_a_prior_that_is_right_and_drop_one_that_is_wrong() -> None:
    told, test = rows(1, 24), rows(2, 500)
    accuracy = {}
    for loss in ("rank", "regression"):
        for name, prior in (("right", Oracle()), ("wrong", Oracle(-1.0)), ("none", None)):
            model = XGBoostModel(loss, prior=prior)
            model.fit([told[0]], [told[1]])
            accuracy[name, loss] = pairwise_accuracy(model.predict(test[0]), test[1])
        assert accuracy["right", loss] > 0.95
        assert accuracy["right", loss] > accuracy["none", loss] + 0.05
        assert accuracy["wrong", loss] > accuracy["none", loss] - 0.1


@pytest.mark.parametrize("loss", ["rank", "regression"])
def test_a_prior_speaks_before_the_first_measurement(loss: Loss) -> None:
    programs, seconds = rows(0, 100)
    model = XGBoostModel(loss, prior=Oracle())
    assert model.ready
    assert pairwise_accuracy(model.predict(programs), seconds) > 0.999
    model.fit([programs], [np.full(100, np.nan)])  # nothing but failures teach nothing
    assert pairwise_accuracy(model.predict(programs), seconds) > 0.999
    assert not XGBoostModel(loss, prior=FixedModel(None)).ready


def test_a_fixed_model_learns_nothing_and_knows_no_knobs() -> None:
    class Always:
        ready = True

        def fit(self, programs: object, seconds: object) -> None:
            raise AssertionError

        def predict(self, programs: object) -> np.ndarray:
            return np.ones(len(programs))  # type: ignore[arg-type]

    fixed = FixedModel(Always())
    programs, seconds = rows(0, 10)
    fixed.fit([programs], [seconds])
    assert fixed.predict(programs).tolist() == [0.0] * 10
    assert fixed.predict(SPACE.loop_nest(sample(SPACE, np.random.default_rng(0), 3))).tolist() == [1.0] * 3
    assert FixedModel(Always()).ready
    assert not FixedModel(None).ready


def test_what_comes_with_tilewright_can_be_read() -> None:
    stored, problem = known_beforehand()
    assert problem == ""
    assert stored is not None
    assert stored.model is not None
    assert load_pretrained() is load_pretrained()
    assert stored.model.ready
    assert {"target", "date", "tasks", "programs"} <= set(stored.about)


def test_what_comes_with_tilewright_knows_the_templates_of_today(tmp_path: Path) -> None:
    """Convolutions and products of matrices have templates of different versions."""
    stored, _ = known_beforehand()
    model = default(stored).model
    assert model is not None
    known = set()
    dense = attention(tmp_path / "dense.onnx", 1, 24, 2, 16, masked=False, one=False)
    for path in (conv_model(tmp_path / "conv.onnx"), dense):
        for use in extract(read(path), TARGET).uses:
            with contextlib.suppress(SpaceError):  # TVM builds the task without a schedule
                space = make_space(use.task, TARGET)
                if space.has_loop_nest:
                    scores = model(space, 0).predict(space.loop_nest(sample(space, np.random.default_rng(0), 50)))
                    assert len(set(scores.tolist())) > 10, space.template  # a model without an opinion gives zeros
                    known.add(space.template)
    assert len(known) >= 2


def test_a_model_that_cannot_be_used_is_done_without(tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK nothing")
    for path in (broken, tmp_path / "missing.npz"):
        stored, problem = known_beforehand(path)
        assert stored is None
        assert path.name in problem
        assert "tuning goes on without" in problem
