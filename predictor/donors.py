"""A device of which little or nothing was measured, from other devices' tables.

Without a measurement: what the donors' kernels reach of their rooflines, learned on features that
a specification sheet gives (NeuSight's idea: a kernel's efficiency transfers, its seconds do not).
With some: a Gaussian process learns what the donors get wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from autotune.devices.roofline import Roofline
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.predictor.conformal import conformal_quantile
from autotune.predictor.process import Process
from autotune.predictor.product_features import TILES, padding, product_limits_s, roofline_s

Array = NDArray[np.float64]
_ROWS_PER_FAMILY = 24_000
# exp(−d²/scale): a donor whose balance of arithmetic, bandwidth and cache is another weighs less.
_SIMILARITY_SCALE = 2.0


@dataclass(frozen=True, kw_only=True)
class Donor:
    """A device's table: products (n, 3) and seconds (n,). Families share a chip generation."""

    spec: DeviceSpec
    family: str
    products: Array
    seconds: Array


class UnseenDevice:
    """Seconds of products on `spec` from donors, and from measurements of its own if there are any.

    Half widths come from each donor family left out in turn, the largest of their 90 % quantiles:
    a pooled quantile covered only 56 to 69 % on devices unlike the others.
    """

    def __init__(self, spec: DeviceSpec, dtype: str = "bf16", random_state: int = 0) -> None:
        self.spec, self.dtype, self.random_state = spec, dtype, random_state
        self._correction: Process | None = None

    def fit(self, donors: Sequence[Donor]) -> UnseenDevice:
        """Learn from other devices."""
        with threadpool_limits(1):
            self._models = self._train(self.spec, donors)
            self.half_width = max(
                self._left_out_width(family, donors) for family in _families(donors)
            )
        return self

    def adapt(self, products: Array, seconds: Array) -> UnseenDevice:
        """Learn from measurements of the device itself (25 to 500 of them)."""
        with threadpool_limits(1):
            left = np.log(seconds) - self._donated(products)
            self._correction = Process(self._few_features(products), left, self.random_state)
        return self

    def predict(self, products: Array) -> Array:
        """Seconds, (n,)."""
        return self._both(products)[0]

    def predict_interval(self, products: Array) -> tuple[Array, Array]:
        """Low and high seconds at a nominal 90 %."""
        seconds, half_width = self._both(products)
        return seconds / np.exp(half_width), seconds * np.exp(half_width)

    def _both(self, products: Array) -> tuple[Array, Array]:
        with threadpool_limits(1):
            log_seconds = self._donated(products)
            half_width = np.full(len(products), self.half_width)
            if self._correction is not None:
                shift, half_width = self._correction.predict(self._few_features(products))
                log_seconds = log_seconds + shift
        return np.exp(log_seconds), half_width

    def _donated(self, products: Array) -> Array:
        features = self._features(products, self.spec)
        efficiency = np.mean([model.predict(features) for model in self._models], axis=0)
        log_seconds: Array = efficiency + np.log(
            roofline_s(products, Roofline.of(self.spec, 1), self.dtype)
        )
        return log_seconds

    def _train(self, spec: DeviceSpec, donors: Sequence[Donor]) -> list[ExtraTreesRegressor]:
        draw = np.random.default_rng(self.random_state)
        features, targets, weights = [], [], []
        for donor in donors:
            siblings = sum(other.family == donor.family for other in donors)
            rows = draw.permutation(len(donor.seconds))[: _ROWS_PER_FAMILY // siblings]
            products = donor.products[rows]
            features.append(self._features(products, donor.spec))
            limit = roofline_s(products, Roofline.of(donor.spec, 1), self.dtype)
            targets.append(np.log(donor.seconds[rows] / limit))
            distance = ((_character(donor.spec) - _character(spec)) ** 2).sum()
            weights.append(np.full(len(rows), np.exp(-distance / _SIMILARITY_SCALE)))
        x, y, w = (np.concatenate(parts) for parts in (features, targets, weights))
        trees = ExtraTreesRegressor(
            40, min_samples_leaf=20, max_features=0.4, random_state=self.random_state
        )
        boosting = HistGradientBoostingRegressor(
            max_iter=200, learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=100,
            max_features=0.3, early_stopping=False, random_state=self.random_state,
        )  # fmt: skip
        return [model.fit(x, y, sample_weight=w / w.mean()) for model in (trees, boosting)]

    def _left_out_width(self, family: str, donors: Sequence[Donor]) -> float:
        """How far off this very method is on one donor family that it does not see."""
        others = [donor for donor in donors if donor.family != family]
        target = next(donor for donor in donors if donor.family == family)
        blind = UnseenDevice(target.spec, self.dtype, self.random_state)
        blind._models = self._train(target.spec, others)
        errors = np.abs(blind._donated(target.products) - np.log(target.seconds))
        return conformal_quantile(errors, 0.9)

    def _features(self, products: Array, spec: DeviceSpec) -> Array:
        m, k, n = products.T
        size, roofline = DTYPE_BYTES[self.dtype], Roofline.of(spec, 1)
        compute_s, memory_s = product_limits_s(products, roofline, self.dtype)
        moved = memory_s * spec.bandwidth_bytes_s
        columns = [
            np.log(compute_s / memory_s), np.log(np.maximum(compute_s, memory_s)),
            np.log(compute_s), np.log(memory_s), np.log(k), np.log(m), np.log(n), np.log(n / k),
            np.log(size * k * n / spec.cache_bytes), np.log(moved / spec.cache_bytes),
        ]  # fmt: skip
        for rows, width in TILES:
            waves = np.ceil(m / rows) * np.ceil(n / width) / spec.compute_units
            columns += [np.log(waves), padding(products, roofline, (rows, width))]
        return np.column_stack(columns)

    def _few_features(self, products: Array) -> Array:
        m, k, n = products.T
        waves = np.ceil(m / 128) * np.ceil(n / 128) / self.spec.compute_units
        limit = np.log(roofline_s(products, Roofline.of(self.spec, 1), self.dtype))
        return np.column_stack(
            [np.log(m), np.log(k), np.log(n), limit, np.log(np.ceil(waves) / waves), np.log(waves)]
        )


def _families(donors: Sequence[Donor]) -> list[str]:
    return sorted({donor.family for donor in donors})


def _character(spec: DeviceSpec) -> Array:
    """Log of FLOPs per byte, and of the cache: what kernels are tuned around."""
    best = max(spec.peak_flops.values())
    return np.array([np.log(best / spec.bandwidth_bytes_s), np.log(spec.cache_bytes)])


def spread_design(products: Array, count: int, seed: int = 0) -> NDArray[np.intp]:
    """`count` of `products` to measure first: spread over log sizes (k-means++ seeding)."""
    draw = np.random.default_rng(seed)
    points = np.log(products)
    points = (points - points.mean(0)) / (points.std(0) + 1e-9)
    chosen = [int(draw.integers(len(points)))]
    distance = ((points - points[chosen[0]]) ** 2).sum(1)
    for _ in range(count - 1):
        chosen.append(int(draw.choice(len(points), p=distance / distance.sum())))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.array(chosen)
