"""A Gaussian process over configs, which predicts the values of all configs from a few, with its uncertainty.

The kernel is the ANOVA kernel (Durrande et al., "ANOVA kernels and RKHS of zero mean functions for model-based
sensitivity analysis", 2013; additive Gaussian processes, Duvenaud et al., 2011). It is the product over all knobs of
``1 + weight * correlation``. Multiplied out, it is the sum of the effects of each knob and of all their interactions.
So the effect of unrolling is learnt from all measurements, not only from those with a similar tile.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from tilewright.space.knob import Knob, points
from tilewright.space.space import Configs, DesignSpace

__all__ = ["GaussianProcess", "correlation"]

#: The distance at which two choices of a knob are nearly independent: in doublings of a factor or a value, or in places
#: of an order.
_LENGTH = 1.0
#: The prior of the kernel's parameters: mean and standard deviation of the logarithms of each knob's weight, of the
#: total variance, and of the variance of the noise. The fitted values are standardised.
_WEIGHT, _VARIANCE, _NOISE = (np.log(0.5), 1.5), (0.0, 1.0), (np.log(0.02), 1.0)
_BOUNDS = {"weight": (-5.0, 4.0), "variance": (-3.0, 3.0), "noise": (np.log(1e-3), np.log(0.5))}
#: The most steps of a fit of the parameters, which begins at the last fit's.
_STEPS = 30
#: The most choices of a knob whose correlations are tabulated.
_TABULATED = 1024


class GaussianProcess:
    """Fits ``(n,)`` values of configs, and predicts the values of other configs, which are jointly normal.

    Args:
        space: of the configs.
    """

    def __init__(self, space: DesignSpace) -> None:
        self._columns = [i for i, knob in enumerate(space.knobs) if len(knob) > 1]
        self._points = [points(space.knobs[i]) for i in self._columns]
        self._tables = [
            correlation(knob) if len(knob) <= _TABULATED else None for knob in (space.knobs[i] for i in self._columns)
        ]
        count = len(self._columns)
        prior = [*[_WEIGHT] * count, _VARIANCE, _NOISE]
        self._prior_mean = np.asarray([mean for mean, _ in prior])
        self._prior_spread = np.asarray([spread for _, spread in prior])
        self._bounds = [*[_BOUNDS["weight"]] * count, _BOUNDS["variance"], _BOUNDS["noise"]]
        self._parameters = self._prior_mean.copy()
        self._configs: Configs = np.empty((0, len(space.knobs)), dtype=np.int32)
        self._factor = np.empty((0, 0))
        self._solved = np.empty(0)

    @property
    def noise(self) -> float:
        """The variance of a measurement around the value, in the squared unit of the fitted values."""
        return float(np.exp(self._parameters[-1]))

    def tune(self, configs: Configs, values: NDArray[np.float64]) -> None:
        """Choose the most probable parameters of the kernel, given the ``(n,)`` values of configs, by gradient."""
        parts = self._parts(configs, configs)
        found = minimize(
            lambda parameters: self._loss(parameters, parts, values),
            self._parameters,
            jac=True,
            method="L-BFGS-B",
            bounds=self._bounds,
            options={"maxiter": _STEPS},
        )
        self._parameters = np.asarray(found.x, dtype=np.float64)

    def fit(self, configs: Configs, values: NDArray[np.float64]) -> None:
        """Learn the ``(n,)`` values of configs, and forget what was learnt before."""
        self._configs = configs
        covariance = self._kernel(self._parts(configs, configs))
        covariance[np.diag_indices(len(configs))] += self.noise
        self._factor = cholesky(covariance, lower=True)
        self._solved = cho_solve((self._factor, True), values)

    def predict(self, configs: Configs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The ``(n,)`` means and ``(n,)`` standard deviations of the values, without noise."""
        if len(self._configs) == 0:
            return np.zeros(len(configs)), np.full(len(configs), float(np.exp(0.5 * self._parameters[-2])))
        across, half = self._across(configs)
        left = float(np.exp(self._parameters[-2])) - (half**2).sum(axis=0)
        return across @ self._solved, np.sqrt(np.maximum(left, 1e-12))

    def joint(self, configs: Configs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The ``(n,)`` means and the ``(n, n)`` covariance of the values, without noise."""
        if len(self._configs) == 0:
            return np.zeros(len(configs)), self._kernel(self._parts(configs, configs))
        across, half = self._across(configs)
        return across @ self._solved, self._kernel(self._parts(configs, configs)) - half.T @ half

    def _across(self, configs: Configs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        across = self._kernel(self._parts(configs, self._configs))
        return across, solve_triangular(self._factor, across.T, lower=True)

    def _parts(self, left: Configs, right: Configs) -> list[NDArray[np.float64]]:
        """The ``(n, m)`` correlations between the choices of two sets of configs, for each knob."""
        parts = []
        for column, places, table in zip(self._columns, self._points, self._tables, strict=True):
            one, other = left[:, column], right[:, column]
            parts.append(_matern(places[one], places[other]) if table is None else table[one[:, None], other])
        return parts

    def _kernel(self, parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        weights = np.exp(self._parameters[:-2])
        # Divided by its value between a config and itself, so that the variance is a parameter of its own.
        product = np.full(parts[0].shape if parts else (1, 1), np.exp(self._parameters[-2]) / np.prod(1.0 + weights))
        for weight, part in zip(weights, parts, strict=True):
            product *= 1.0 + weight * part
        return product

    def _loss(
        self, parameters: NDArray[np.float64], parts: list[NDArray[np.float64]], values: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64]]:
        """The negative log probability of the parameters, and its gradient."""
        self._parameters = parameters
        kernel = self._kernel(parts)
        try:
            factor = cho_factor(kernel + self.noise * np.eye(len(values)), lower=True)
        except LinAlgError:
            return 1e12, np.zeros(len(parameters))
        solved = cho_solve(factor, values)
        inverse = cho_solve(factor, np.eye(len(values)))
        off = (parameters - self._prior_mean) / self._prior_spread
        loss = float(np.log(np.diag(factor[0])).sum() + 0.5 * values @ solved + 0.5 * off @ off)
        # The derivative by a parameter p is -1/2 sum(slope * dK/dp).
        slope = np.outer(solved, solved) - inverse
        sloped = slope * kernel
        gradient = np.empty(len(parameters))
        for i, (weight, part) in enumerate(zip(np.exp(parameters[:-2]), parts, strict=True)):
            share = np.sum(sloped * (part / (1.0 + weight * part))) - sloped.sum() / (1.0 + weight)
            gradient[i] = -0.5 * weight * share
        gradient[-2] = -0.5 * sloped.sum()
        gradient[-1] = -0.5 * self.noise * np.trace(slope)
        return loss, gradient + off / self._prior_spread


def correlation(knob: Knob) -> NDArray[np.float64]:
    """The ``(choices, choices)`` correlations of a knob's choices: Matern 3/2 of their distance, 1 on the diagonal.

    The distance is that between the inner factors of a split, the places of an order's loops, or the values of any
    other knob. Factors and values are compared as logarithms.
    """
    places = points(knob)
    return _matern(places, places)


def _matern(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    distance = np.sqrt(((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)) / _LENGTH
    scaled = np.sqrt(3.0) * distance
    return np.asarray((1.0 + scaled) * np.exp(-scaled))
