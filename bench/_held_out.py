"""The shipped cost model, fitted without one network.

The shipped model was fitted to programs of the networks that the benches tune. A user's network is not among these, so
the benches measure a user's gain with a model that was fitted without the tuned network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.cost_models import HERE, data_of, save, stamp
from tilewright.cost.models import StoredModel
from tilewright.methods.default import known_beforehand

__all__ = ["held_out", "held_out_file"]

DATA = HERE / "dataset.parquet"
SHIPPED = "xgb_reg"


def held_out_file(network: str) -> Path:
    """The file of a model that was fitted to all networks of the data set but one, among the temporary files.

    It is fitted once, in some seconds. A network that the data set does not know leaves nothing out.
    """
    folder = Path(tempfile.gettempdir()) / "tilewright-held-out"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"without-{network}-{stamp(DATA)}.npz"
    if not file.exists():
        save(SHIPPED, data_of(DATA).without(network), file)
    return file


def held_out(network: str) -> StoredModel:
    """That model.

    Raises:
        RuntimeError: it cannot be read.
    """
    model, problem = known_beforehand(held_out_file(network))
    if model is None:
        raise RuntimeError(problem)
    return model
