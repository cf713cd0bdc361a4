"""The cost models by name, and the file in which a fitted one is kept.

A file is an ``.npz`` archive: the model's arrays, and a header in JSON that says what it is and what it was fitted to.
Reading one runs none of its content: arrays of objects are refused, sizes are bounded, and trees and weights are
checked before XGBoost or PyTorch sees them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.ensemble import Ensemble
from tilewright.cost.features import FEATURE_VERSION
from tilewright.cost.model import CostModel
from tilewright.cost.xgb import Loss, XGBoostModel
from tilewright.errors import CostModelError, MissingExtraError, TilewrightError
from tilewright.reading import parse_json, read_arrays, read_file

if TYPE_CHECKING:
    from tilewright.cost.gcn import Pooling

__all__ = ["MODELS", "NamedModel", "StoredModel", "TrainableModel", "load_model", "make_model", "save_model"]

_HEADER = "header"
#: Of a file, and of its arrays together; the model that comes with Tilewright has 700 kB.
_MOST_BYTES = 1 << 28


class TrainableModel(CostModel, Protocol):
    """A cost model that can be kept."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What it has learnt, as arrays of numbers."""
        ...

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what ``state`` gave. Raises ``KeyError`` or ``ValueError`` where it is something else."""
        ...


@dataclass(frozen=True)
class NamedModel:
    """A cost model that a command line can name.

    Attributes:
        make: of a seed.
        module: what it imports beyond Tilewright's dependencies; empty: nothing.
        extra: the extra that installs that.
    """

    make: Callable[[int], TrainableModel]
    module: str = ""
    extra: str = ""


def _xgb(loss: Loss) -> Callable[[int], TrainableModel]:
    # More and larger trees than online: there are a hundred tasks to learn from, and minutes.
    return lambda seed: XGBoostModel(
        loss, seed=seed, rounds=300, patience=300, depth=6, eta=0.05, columns=0.2, sample=0.7
    )


def _mlp(seed: int) -> TrainableModel:
    from tilewright.cost.mlp import MLPModel

    return MLPModel(seed=seed)


def _gcn(pooling: Pooling) -> Callable[[int], TrainableModel]:
    def make(seed: int) -> TrainableModel:
        from tilewright.cost.gcn import GCNModel

        return GCNModel(pooling=pooling, seed=seed)

    return make


MODELS: dict[str, NamedModel] = {
    "xgb_rank": NamedModel(_xgb("rank")),
    "xgb_reg": NamedModel(_xgb("regression")),
    "xgb_ensemble": NamedModel(lambda seed: Ensemble(_xgb("regression"), seed=seed)),
    "mlp": NamedModel(_mlp, "torch", "torch"),
    "gcn": NamedModel(_gcn("mean"), "torch_geometric", "torch"),
    "gcn_attention": NamedModel(_gcn("attention"), "torch_geometric", "torch"),
}


def make_model(name: str, seed: int = 0) -> TrainableModel:
    """An unfitted cost model.

    Raises:
        TilewrightError: a name that is not in ``MODELS``.
        MissingExtraError: what it imports is not installed.
    """
    if name not in MODELS:
        raise TilewrightError(f"a cost model is one of {', '.join(MODELS)}, but this is {name!r}")
    named = MODELS[name]
    if named.module and find_spec(named.module) is None:
        raise MissingExtraError(named.module, named.extra)
    return named.make(seed)


@dataclass(frozen=True)
class StoredModel:
    """A fitted cost model and where it comes from.

    Attributes:
        name: of the model, in ``MODELS``.
        template: name and version of the template whose programs it was fitted to.
        model: the model.
        about: what it was fitted to: target, date, command, number of tasks and programs.
    """

    name: str
    template: str
    model: CostModel
    about: dict[str, Any] = field(default_factory=dict)


def save_model(name: str, model: TrainableModel, template: str, about: Mapping[str, Any], path: Path) -> None:
    """Write a fitted model.

    Raises:
        CostModelError: the file cannot be written, or nothing was learnt that could be.
    """
    if not model.ready:
        raise CostModelError(
            f"a cost model is kept once it has learnt something, but this {name} was fitted to nothing that has an "
            "order; fit it to tasks with several latencies each"
        )
    header = {"name": name, "features": FEATURE_VERSION, "template": template, "about": dict(about)}
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    arrays: dict[str, Any] = {_HEADER: text, **model.state()}
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    try:
        path.write_bytes(archive.getvalue())
    except OSError as exc:
        raise CostModelError(f"{path} cannot be written: {exc.strerror}; name another file") from exc


def load_model(path: Path) -> StoredModel:
    """The model of a file.

    Raises:
        CostModelError: no such file, no file of :func:`save_model`, a damaged one, or one of other features.
        MissingExtraError: what the model imports is not installed.
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


def _unpack(content: bytes) -> tuple[str, int, str, dict[str, Any], dict[str, NDArray[Any]]]:
    """Name, version of the features, template, origin and arrays of a model's file."""
    arrays = read_arrays(content, _MOST_BYTES)
    header = parse_json(arrays.pop(_HEADER).tobytes())
    name, version, template = header["name"], header["features"], header["template"]
    if not isinstance(name, str) or type(version) is not int or not isinstance(template, str):
        raise ValueError("its header is of another form")
    if not isinstance(header["about"], dict):
        raise ValueError("its header is of another form")
    return name, version, template, header["about"], arrays
