"""A Gaussian process for a few points, with intervals stretched to what leaving one out shows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from autotune.predictor.learning.conformal import conformal_quantile

Array = NDArray[np.float64]
_NORMAL_90 = 1.645
_MAX_ITERATIONS = 60
_EQUAL = 1e-9


class Process:
    """Matérn 3/2, one scale a feature, fitted by likelihood; 25 to 500 points."""

    def __init__(
        self,
        features: Array,
        values: Array,
        *,
        random_state: int = 0,
        groups: NDArray[np.intp] | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        """`features` (n, d), `values` (n,); `groups` (n,) are left out together, else points.

        With a `kernel` (`shared_kernel`) no scale is fitted: too few points choose bad ones.
        """
        self.center, self.spread = features.mean(0), _spread(features)
        self.mean, self.scale = float(values.mean()), float(values.std()) + 1e-9
        if kernel is None:
            kernel, optimizer = _start(np.full(features.shape[1], 3.0)), "fmin_l_bfgs_b"
        else:
            optimizer, self.center, self.spread = None, np.zeros(1), np.ones(1)
        self._process = GaussianProcessRegressor(
            kernel, optimizer=optimizer, random_state=random_state
        )
        self._known, targets = self._points(features), (values - self.mean) / self.scale
        with warnings.catch_warnings(), threadpool_limits(1):
            # A scale at its bound: what that feature says does not matter here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._process.fit(self._known, targets)
        # The likelihood's own spread is too sure of itself: stretched to what is seen when each
        # point is left out.
        inverse = np.linalg.inv(self._process.kernel_(self._known))
        standard = _left_out(
            inverse, targets, groups=np.arange(len(values)) if groups is None else groups
        )
        self.stretch = max(conformal_quantile(standard, 0.9), _NORMAL_90)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Values and their 90 % half widths, (n,) each."""
        with threadpool_limits(1):
            mean, deviation = self._process.predict(self._points(features), return_std=True)
        return mean * self.scale + self.mean, self.stretch * deviation * self.scale

    def deviation_given(self, features: Array, more: Array) -> Array:
        """Standard deviations at `features` if `more` were measured too: no value is needed."""
        kernel = self._process.kernel_
        known = np.concatenate([self._known, self._points(more)])
        at = self._points(features)
        # The noise is on the diagonal of what is known, not on what is asked.
        cross = kernel(at, known)
        solved = np.linalg.solve(kernel(known), cross.T)
        left: Array = np.maximum(kernel.diag(at) - (cross * solved.T).sum(1), 0.0)
        return np.sqrt(left) * self.scale

    def _points(self, features: Array) -> Array:
        points: Array = (features - self.center) / self.spread
        return points


def shared_kernel(samples: Sequence[tuple[Array, Array]]) -> Kernel:
    """The scales that are likeliest for several processes at once, each (features, values).

    A constant is part of it, as the mean of a few chosen points is not that of all.
    """
    spread = np.std(np.concatenate([features for features, _ in samples]), axis=0)
    start = _start(2.0 * spread + 1e-9) + ConstantKernel(1.0, "fixed")
    each = [
        GaussianProcessRegressor(start, optimizer=None).fit(
            features, (values - values.mean()) / values.std()
        )
        for features, values in samples
    ]

    def loss(theta: Array) -> tuple[float, Array]:
        found = [
            one.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False)
            for one in each
        ]
        return -sum(value for value, _ in found), -sum(slope for _, slope in found)

    with threadpool_limits(1):
        best = minimize(
            loss,
            start.theta,
            jac=True,
            bounds=start.bounds,
            method="L-BFGS-B",
            options={"maxiter": _MAX_ITERATIONS},
        )
    found: Kernel = start.clone_with_theta(best.x)
    return found


def _spread(features: Array) -> Array:
    """Standard deviations, (d,); 1 where all are equal, or any other value would be far away."""
    spread: Array = features.std(0) + _EQUAL
    spread[spread < 2 * _EQUAL] = 1.0
    return spread


def _start(scales: Array) -> Kernel:
    smooth = ConstantKernel(1.0) * Matern(scales, (0.1, 1e3), nu=1.5)
    kernel: Kernel = smooth + WhiteKernel(0.01, (1e-4, 1.0))
    return kernel


def _left_out(inverse: Array, targets: Array, *, groups: NDArray[np.intp]) -> Array:
    """|error| / deviation of every point predicted without its group, in closed form.

    With A the block of the kernel's inverse, the error is A⁻¹ (K⁻¹y) there and its covariance A⁻¹.
    """
    weighted = inverse @ targets
    standard = np.empty(len(targets))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        covariance = np.linalg.inv(inverse[np.ix_(rows, rows)])
        standard[rows] = np.abs(covariance @ weighted[rows]) / np.sqrt(np.diag(covariance))
    return standard
