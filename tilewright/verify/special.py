"""Special functions of SciPy, which is imported at their first use.

The import takes a third of the time in which an evaluator starts. Most networks have no operator that needs it.
"""

from __future__ import annotations

import numpy as np

from tilewright.tensor import Floats

__all__ = ["erf", "expit", "ndtr"]


def expit(x: Floats) -> Floats:
    """``1 / (1 + exp(-x))``, precise in its tail; of the shape and type of ``x``."""
    from scipy import special

    return np.asarray(special.expit(x))


def erf(x: Floats) -> Floats:
    """The error function; of the shape and type of ``x``."""
    from scipy import special

    return np.asarray(special.erf(x))


def ndtr(x: Floats) -> Floats:
    """The distribution function of the normal distribution, precise in its tail; of the shape and type of ``x``."""
    from scipy import special

    return np.asarray(special.ndtr(x))
