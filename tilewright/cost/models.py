"""The cost models by name, and the files that keep fitted ones.

A file is an ``.npz`` archive of the model's arrays and a header in JSON, which names the model and what it was fitted
to. Reading a file runs none of its content. Arrays of objects are refused, sizes are bounded, and trees and weights are
checked before XGBoost or PyTorch reads them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tilewright.cost.ensemble import Ensemble
from tilewright.cost.features import FEATURE_VERSION
from tilewright.cost.model import CostModel
from tilewright.cost.xgb import Boosting, Loss, XGBoostModel
from tilewright.errors import CostModelError, MissingExtraError, TilewrightError
from tilewright.jsonable import JsonObject
from tilewright.reading import parse_json, read_arrays, read_file
from tilewright.tensor import Array
from tilewright.wording import did_you_mean
from tilewright.writing import replace_file

if TYPE_CHECKING:
    from tilewright.cost.gcn import Pooling

__all__ = ["MODELS", "NamedModel", "StoredModel", "TrainableModel", "load_model", "make_model", "save_model"]

_HEADER = "header"
#: The most bytes of a file, and of all its arrays. The shipped model's arrays have 700 kB.
_MOST_BYTES = 1 << 28


class TrainableModel(CostModel, Protocol):
    """A cost model that can be stored."""

    def state(self) -> dict[str, Array]:
        """What the model has learnt, as arrays of numbers."""
        ...

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take over the arrays of :meth:`state`. Raises ``KeyError`` or ``ValueError`` for other arrays."""
        ...


@dataclass(frozen=True)
class NamedModel:
    """A cost model that a command line can name.

    Attributes:
        make: makes the model from a seed.
        module: the module that it imports beyond Tilewright's dependencies; empty if there is none.
        extra: the extra that installs this module.
    """

    make: Callable[[int], TrainableModel]
    module: str = ""
    extra: str = ""


#: More and larger trees than during a search: there are a hundred tasks to learn from, and minutes to spend.
_OFFLINE = Boosting(rounds=300, patience=300, max_depth=6, eta=0.05, colsample_bynode=0.2, subsample=0.7)


def _xgb(loss: Loss) -> Callable[[int], TrainableModel]:
    return lambda seed: XGBoostModel(loss, boosting=_OFFLINE, seed=seed)


def _mlp(seed: int) -> TrainableModel:
    from tilewright.cost.mlp import MLPModel

    return MLPModel(seed=seed)


def _gcn(pooling: Pooling) -> Callable[[int], TrainableModel]:
    def make(seed: int) -> TrainableModel:
        from tilewright.cost.gcn import GCNModel

        return GCNModel(pooling=pooling, seed=seed)

    return make


#: The cost models, by the names that the command line takes.
MODELS: dict[str, NamedModel] = {
    "xgb_rank": NamedModel(_xgb("rank")),
    "xgb_reg": NamedModel(_xgb("regression")),
    "xgb_ensemble": NamedModel(lambda seed: Ensemble(_xgb("regression"), seed=seed)),
    "mlp": NamedModel(_mlp, "torch", "torch"),
    "gcn": NamedModel(_gcn("mean"), "torch_geometric", "torch"),
    "gcn_attention": NamedModel(_gcn("attention"), "torch_geometric", "torch"),
}


def make_model(name: str, seed: int = 0) -> TrainableModel:
    """Make an unfitted cost model.

    Raises:
        TilewrightError: the name is not in ``MODELS``.
        MissingExtraError: a library that the model needs is not installed.
    """
    if name not in MODELS:
        near = did_you_mean(name, MODELS)
        raise TilewrightError(f"a cost model is one of {', '.join(MODELS)}, but this is {name!r}{near}")
    named = MODELS[name]
    if named.module and find_spec(named.module) is None:
        raise MissingExtraError(named.module, named.extra)
    return named.make(seed)


@dataclass(frozen=True)
class StoredModel:
    """A fitted cost model and its origin.

    Attributes:
        name: of the model, in ``MODELS``.
        template: name and version of the template whose programs the model was fitted to.
        model: the model.
        about: what the model was fitted to: target, date, command, number of tasks and programs.
    """

    name: str
    template: str
    model: CostModel
    about: JsonObject = field(default_factory=dict)


def save_model(name: str, model: TrainableModel, template: str, about: Mapping[str, object], path: Path) -> None:
    """Write a fitted model to a file.

    Args:
        name: of the model, in ``MODELS``.
        model: the model.
        template: name and version of the template whose programs the model was fitted to.
        about: what the model was fitted to, ready for JSON.
        path: the file.

    Raises:
        CostModelError: the file cannot be written, or the model has learnt nothing.
    """
    if not model.ready:
        raise CostModelError(
            f"a cost model is written after it has learnt something, but this {name} has learnt nothing; "
            "fit it to tasks with several different latencies each"
        )
    header = {"name": name, "features": FEATURE_VERSION, "template": template, "about": dict(about)}
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    arrays: dict[str, Array] = {_HEADER: text, **model.state()}
    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **arrays)
    try:
        with replace_file(path) as part:
            part.write_bytes(archive.getvalue())
    except OSError as exc:
        raise CostModelError(f"{path} cannot be written: {exc.strerror}; name another file") from exc


def load_model(path: Path) -> StoredModel:
    """Read the model of a file.

    Raises:
        CostModelError: the file does not exist, is no file of :func:`save_model`, is damaged, or has other features.
        MissingExtraError: a library that the model needs is not installed.
    """
    try:
        name, version, template, about, arrays = _unpack(read_file(path, _MOST_BYTES))
    except OSError as exc:
        raise CostModelError(f"the cost model {path} cannot be read: {exc.strerror}; check the path") from exc
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        reason = next(iter(str(exc).splitlines()), "") or type(exc).__name__
        raise CostModelError(
            f"a cost model is a file that 'tilewright cost train' wrote, but {path} is not, or is damaged: {reason}; "
            "train it again"
        ) from exc
    if version != FEATURE_VERSION:
        raise CostModelError(
            f"this Tilewright's programs have features of version {FEATURE_VERSION}, but {path} was fitted to version "
            f"{version}; train it again"
        )
    if name not in MODELS:
        raise CostModelError(
            f"a cost model is one of {', '.join(MODELS)}, but {path} holds {name!r}; "
            "upgrade Tilewright, or train another"
        )
    model = make_model(name)
    try:
        model.restore(arrays)
    except MissingExtraError:
        raise
    except (LookupError, ValueError, TypeError, RuntimeError, TilewrightError) as exc:
        reason = f"no {exc}" if isinstance(exc, KeyError) else next(iter(str(exc).splitlines()), type(exc).__name__)
        raise CostModelError(f"{path} should hold a {name}, but it is damaged: {reason}; train it again") from exc
    return StoredModel(name, template, model, about)


def _unpack(content: bytes) -> tuple[str, int, str, JsonObject, dict[str, Array]]:
    """The name, version of the features, template, origin and arrays of a model's file."""
    arrays = read_arrays(content, _MOST_BYTES)
    header = parse_json(arrays.pop(_HEADER).tobytes())
    name, version, template = header["name"], header["features"], header["template"]
    if not isinstance(name, str) or type(version) is not int or not isinstance(template, str):
        raise ValueError("its header is of another form")
    if not isinstance(header["about"], dict):
        raise ValueError("its header is of another form")
    return name, version, template, header["about"], arrays
