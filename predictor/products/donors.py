"""A device of which little or nothing was measured, from other devices' tables.

Without a measurement: what the donors' kernels reach of their rooflines, learned on features that
a specification sheet gives (NeuSight's idea: a kernel's efficiency transfers, its seconds do not).
With some these correct it (predictor/products/adaptation.py).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from autotune.devices.roofline import Roofline
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.predictor.products.features import TILES, padding, product_limits_s, roofline_s

# Gaussian processes are of own points alone, and take long to import.
if TYPE_CHECKING:
    from sklearn.gaussian_process.kernels import Kernel

    from autotune.predictor.products.adaptation import Adaptation, Bases

Array = NDArray[np.float64]
_ROWS_PER_FAMILY = 8_000
# Of a donor left out, to learn how far its errors reach.
_KERNEL_ROWS = 300
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

    def __init__(self, spec: DeviceSpec, dtype: str = "bf16", *, random_state: int = 0) -> None:
        self.spec, self.dtype, self.random_state = spec, dtype, random_state
        self.adaptation: Adaptation | None = None

    def fit(self, donors: Sequence[Donor]) -> UnseenDevice:
        """Learn from the points of other devices, and calibrate on each left out in turn."""
        with threadpool_limits(1):
            self._models = self._train(self.spec, donors)
            left_out = [self._left_out(family, donors) for family in _families(donors)]
        self.half_width = max(width for width, _ in left_out)
        self._samples = [sample for _, sample in left_out]
        return self

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit` learned, as estimators of scikit-learn, arrays and numbers."""
        trees, boosting = self._models
        return {
            "trees": trees,
            "boosting": boosting.model,
            "edges": boosting.edges,
            "half_width": self.half_width,
            "samples": self._samples,
        }

    @staticmethod
    def of_fitted(spec: DeviceSpec, dtype: str, *, fitted: Mapping[str, Any]) -> UnseenDevice:
        """The device as `fit` left it, from its `fitted`."""
        found = UnseenDevice(spec, dtype)
        boosting = _Boosting(found.random_state)
        boosting.model, boosting.edges = fitted["boosting"], fitted["edges"]
        found._models = fitted["trees"], boosting
        found.half_width, found._samples = fitted["half_width"], fitted["samples"]
        return found

    @functools.cached_property
    def _kernels(self) -> tuple[Kernel, Kernel]:
        """Of what the roofline leaves, and of what donors leave."""
        from autotune.predictor.learning.gaussian_process import shared_kernel

        return tuple(  # type: ignore[return-value]
            shared_kernel([(features, left[i]) for features, left in self._samples]) for i in (0, 1)
        )

    def design(self, products: Array, count: int, *, seed: int = 0) -> NDArray[np.intp]:
        """Which `count` of `products` to measure for `adapt`: those that say most of the others."""
        from autotune.predictor.learning.design import informative_design

        return informative_design(
            self._kernels[1], self._few_features(products), count=count, seed=seed
        )

    def adapt(self, products: Array, seconds: Array) -> UnseenDevice:
        """Learn from measurements of the device itself (1 to 500 of them)."""
        from autotune.predictor.products.adaptation import Adaptation

        with threadpool_limits(1):
            self.adaptation = Adaptation(
                self._bases(products),
                np.log(seconds),
                kernels=self._kernels,
                half_width=self.half_width,
                random_state=self.random_state,
            )
        return self

    def predict(self, products: Array) -> Array:
        """Predict the latency in seconds, (n,), of products (n, 3)."""
        return self._both(products)[0]

    def predict_interval(self, products: Array) -> tuple[Array, Array]:
        """Low and high seconds at a nominal 90 %."""
        seconds, factor = self.predict_with_factors(products)
        return seconds / factor, seconds * factor

    def predict_with_factors(self, products: Array) -> tuple[Array, Array]:
        """Seconds, and the factor either way that they may be off by at a nominal 90 %."""
        seconds, half_width = self._both(products)
        return seconds, np.exp(half_width)

    def _both(self, products: Array) -> tuple[Array, Array]:
        with threadpool_limits(1):
            if self.adaptation is None:
                return np.exp(self._donated(products)), np.full(len(products), self.half_width)
            log_seconds, half_width = self.adaptation.predict(self._bases(products))
        return np.exp(log_seconds), half_width

    def _bases(self, products: Array) -> Bases:
        """What the sheet and donors say of products; those of one (K, N) are a group."""
        from autotune.predictor.products.adaptation import Bases

        _, group = np.unique(products[:, 1:], axis=0, return_inverse=True)
        return Bases(
            features=self._few_features(products),
            limit=np.log(roofline_s(products, Roofline.of(self.spec, 1), dtype=self.dtype)),
            donated=self._donated(products),
            group=group.ravel(),
        )

    def _donated(self, products: Array) -> Array:
        features = self._features(products, self.spec)
        efficiency = np.mean([model.predict(features) for model in self._models], axis=0)
        log_seconds: Array = efficiency + np.log(
            roofline_s(products, Roofline.of(self.spec, 1), dtype=self.dtype)
        )
        return log_seconds

    def _train(
        self, spec: DeviceSpec, donors: Sequence[Donor]
    ) -> tuple[ExtraTreesRegressor, _Boosting]:
        draw = np.random.default_rng(self.random_state)
        features, targets, weights = [], [], []
        for donor in donors:
            siblings = sum(other.family == donor.family for other in donors)
            rows = draw.permutation(len(donor.seconds))[: _ROWS_PER_FAMILY // siblings]
            products = donor.products[rows]
            features.append(self._features(products, donor.spec))
            limit = roofline_s(products, Roofline.of(donor.spec, 1), dtype=self.dtype)
            targets.append(np.log(donor.seconds[rows] / limit))
            distance = ((_character(donor.spec) - _character(spec)) ** 2).sum()
            weights.append(np.full(len(rows), np.exp(-distance / _SIMILARITY_SCALE)))
        x, y, w = (np.concatenate(parts) for parts in (features, targets, weights))
        trees = ExtraTreesRegressor(
            40, min_samples_leaf=20, max_features=0.4, random_state=self.random_state
        )
        weights_of_rows = w / w.mean()
        boosting = _Boosting(self.random_state).fit(x, y, sample_weight=weights_of_rows)
        return trees.fit(x, y, sample_weight=weights_of_rows), boosting

    def _left_out(
        self, family: str, donors: Sequence[Donor]
    ) -> tuple[float, tuple[Array, tuple[Array, Array]]]:
        """One donor family that this very method does not see: how far off it is at 90 %, and rows.

        Rows are features and what both bases leave of log seconds.
        """
        others = [donor for donor in donors if donor.family != family]
        target = next(donor for donor in donors if donor.family == family)
        blind = UnseenDevice(target.spec, self.dtype, random_state=self.random_state)
        blind._models = self._train(target.spec, others)
        errors = np.abs(blind._donated(target.products) - np.log(target.seconds))
        draw = np.random.default_rng(self.random_state)
        rows = draw.permutation(len(target.seconds))[:_KERNEL_ROWS]
        products, log_seconds = target.products[rows], np.log(target.seconds[rows])
        known = blind._bases(products)
        left = (log_seconds - known.limit, log_seconds - known.donated)
        sample = (known.features, left)
        return conformal_quantile(errors, 0.9), sample

    def _features(self, products: Array, spec: DeviceSpec) -> Array:
        m, k, n = products.T
        size, roofline = DTYPE_BYTES[self.dtype], Roofline.of(spec, 1)
        compute_s, memory_s = product_limits_s(products, roofline, dtype=self.dtype)
        moved = memory_s * spec.bandwidth_bytes_s
        columns = [
            np.log(compute_s / memory_s),
            np.log(np.maximum(compute_s, memory_s)),
            np.log(compute_s),
            np.log(memory_s),
            np.log(k),
            np.log(m),
            np.log(n),
            np.log(n / k),
            np.log(size * k * n / spec.cache_bytes),
            np.log(moved / spec.cache_bytes),
        ]
        for rows, width in TILES:
            waves = np.ceil(m / rows) * np.ceil(n / width) / spec.compute_units
            columns += [np.log(waves), padding(products, roofline, tile=(rows, width))]
        return np.column_stack(columns)

    def _few_features(self, products: Array) -> Array:
        m, k, n = products.T
        waves = np.ceil(m / 128) * np.ceil(n / 128) / self.spec.compute_units
        limit = np.log(roofline_s(products, Roofline.of(self.spec, 1), dtype=self.dtype))
        return np.column_stack(
            [np.log(m), np.log(k), np.log(n), limit, np.log(np.ceil(waves) / waves), np.log(waves)]
        )


class _Boosting:
    """Boosted trees on features rounded to 255 quantiles of the rows, whatever the rows weigh.

    scikit-learn sorts the rows once for every quantile of every feature where rows have weights,
    which takes ten times as long as the trees themselves.
    """

    edges: list[Array]

    def __init__(self, random_state: int) -> None:
        self.model = HistGradientBoostingRegressor(
            max_iter=200,
            learning_rate=0.05,
            max_leaf_nodes=15,
            min_samples_leaf=100,
            max_features=0.3,
            early_stopping=False,
            random_state=random_state,
        )

    def fit(self, x: Array, y: Array, *, sample_weight: Array) -> _Boosting:
        """Learn from x (n, features), y (n,) and weights (n,)."""
        steps = np.linspace(0, 1, self.model.max_bins + 1)[1:-1]
        self.edges = [np.unique(np.quantile(column, steps)) for column in x.T]
        self.model.fit(self._rounded(x), y, sample_weight=sample_weight)
        return self

    def predict(self, x: Array) -> Array:
        """The prediction, (n,), of x (n, features)."""
        found: Array = self.model.predict(self._rounded(x))
        return found

    def _rounded(self, x: Array) -> Array:
        pairs = zip(self.edges, x.T, strict=True)
        return np.column_stack([np.searchsorted(edges, column) for edges, column in pairs])


def _families(donors: Sequence[Donor]) -> list[str]:
    return sorted({donor.family for donor in donors})


def _character(spec: DeviceSpec) -> Array:
    """Log of FLOPs per byte, and of the cache: what kernels are tuned around."""
    best = max(spec.peak_flops.values())
    return np.array([np.log(best / spec.bandwidth_bytes_s), np.log(spec.cache_bytes)])
