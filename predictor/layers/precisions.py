"""Dense layers in other precisions, from third-party tables of the same products in bf16.

The ratio of a product to that in bf16, in one stack, is the mean of the nearest known products in
log M, K and N, weighted by their distance. Its interval holds what that misses on (K, N) that were
left out, and what another board and other software change of a ratio (transfer.py;
`benchmarks/precision_ratios.py`).
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import NotPricedError
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.transfer import SIZE_CLASSES, Transfer
from autotune.predictor.learning.conformal import conformal_quantile
from autotune.predictor.learning.fit_cache import Fit, kept_fit
from autotune.profiler.sources.aiconfigurator import PACKAGE, SHAPE, package_folder
from autotune.profiler.sources.aiconfigurator_precisions import PrecisionTable, read_precisions

Array = NDArray[np.float64]
# A step in M changes the kernel more than one in K or N.
_SCALE = np.array([2.0, 1.0, 1.0])
_NEIGHBOURS = 8
_HELD = 2000
# Points that are nearer are one point.
_SAME = 1e-9
# Products that are further from all known ones lie beyond the table.
_FARTHEST = 1.0


@dataclass(frozen=True, kw_only=True)
class StackRatios:
    """One stack's ratios of a precision to bf16, to be asked for any product within its table.

    `points` (n, 3) and `log_ratios` (n,) are of its products; `half_widths`, by class of M, are of
    the 90 % interval between them.
    """

    precision: str
    stack: str
    points: Array
    log_ratios: Array
    half_widths: tuple[float, ...]

    @staticmethod
    def of(table: PrecisionTable) -> StackRatios:
        """Learned from a table; a fifth of its (K, N) is left out for the half widths."""
        rows = table.rows[SHAPE].to_numpy(dtype=np.float64)
        points, logs = _points(rows), np.log(table.rows["ratio"].to_numpy(dtype=np.float64))
        errors, tokens = held_out_errors(rows, logs)
        classes = np.searchsorted(SIZE_CLASSES, tokens)
        numbers = range(len(SIZE_CLASSES) + 1)
        return StackRatios(
            precision=table.precision,
            stack=table.stack,
            points=points,
            log_ratios=logs,
            half_widths=tuple(conformal_quantile(errors[classes == each], 0.9) for each in numbers),
        )

    @cached_property
    def _nearest(self) -> _NearestMean:
        return _NearestMean(self.points, self.log_ratios)

    def log_ratio(self, tokens: int, *, in_features: int, out_features: int) -> tuple[float, float]:
        """Log of the ratio, and the half width of its 90 % interval.

        Raises:
            NotPricedError: the product lies beyond the table.
        """
        point = _points(np.array([[tokens, in_features, out_features]], dtype=np.float64))
        (log,), (distance,) = self._nearest(point)
        if distance > _FARTHEST:
            raise NotPricedError(
                f"{tokens} tokens, {in_features}x{out_features} lie beyond the table of "
                f"{self.precision} by {self.stack}"
            )
        if distance <= _SAME:
            return float(log), 0.0
        return float(log), self.half_widths[bisect.bisect_left(SIZE_CLASSES, tokens)]


class PricedPrecision(LatencyPredictor):
    """Another predictor's layers, and dense ones in a precision by one stack's ratios."""

    def __init__(
        self, predictor: LatencyPredictor, ratios: StackRatios, *, transfer: Transfer
    ) -> None:
        """`transfer` has how far ratios are apart from board to board and stack to stack."""
        self.interval = predictor.interval
        self._inner, self._ratios, self._transfer = predictor, ratios, transfer

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Let the other hear what it will be asked."""
        self._inner.prepare([shape.dense for shape in shapes])

    def estimate(self, shape: LayerShape) -> Estimate:
        """Seconds of `shape`.

        Raises:
            MeasurementError: nothing is known of it.
        """
        if not (shape.is_dense and shape.form.precision == self._ratios.precision):
            return self._inner.estimate(shape)
        dense = self._inner.estimate(shape.dense)
        log, between = self._ratios.log_ratio(
            shape.tokens, in_features=shape.in_features, out_features=shape.out_features
        )
        elsewhere = self._transfer.ratio[bisect.bisect_left(SIZE_CLASSES, shape.tokens)]
        ratio, width = math.exp(log), math.hypot(between, elsewhere)
        return replace(
            dense,
            latency_s=dense.latency_s * ratio,
            low_s=dense.low_s * math.exp(log - width),
            high_s=dense.high_s * math.exp(log + width),
            ratio=ratio,
            ratio_half_width=width,
        )


def stacks_of(device: str) -> Mapping[str, Sequence[StackRatios]]:
    """Each precision that serving stacks timed on `device` beside bf16, by stack.

    Learned once, and kept in the cache folder.
    """
    if package_folder() is None:
        return {}
    fit = kept_fit(
        {"precisions": device, PACKAGE: version(PACKAGE)},
        lambda: _kept([StackRatios.of(table) for table in read_precisions(device)]),
    )
    found: dict[str, list[StackRatios]] = defaultdict(list)
    for one in fit["stacks"]:
        found[one["precision"]].append(
            StackRatios(**{**one, "half_widths": tuple(one["half_widths"])})
        )
    return found


def held_out_errors(rows: Array, log_ratios: Array) -> tuple[Array, Array]:
    """|log| errors of products, (M, K, N) each, whose (K, N) was left out, and their M.

    A fifth of the (K, N) is left out, and at most 2,000 of its products are asked for.
    """
    groups = np.unique(rows[:, 1:], axis=0, return_inverse=True)[1].reshape(-1)
    rng = np.random.default_rng(0)
    held = rng.permutation(groups.max() + 1)[groups] % 5 == 0
    asked = rng.permutation(np.flatnonzero(held))[:_HELD]
    points = _points(rows)
    found, _ = _NearestMean(points[~held], log_ratios[~held])(points[asked])
    return np.abs(found - log_ratios[asked]), rows[asked, 0]


def _kept(stacks: Sequence[StackRatios]) -> Fit:
    names = ("precision", "stack", "points", "log_ratios", "half_widths")
    return {"stacks": [{name: getattr(one, name) for name in names} for one in stacks]}


def _points(rows: Array) -> Array:
    found: Array = np.log2(rows) * _SCALE
    return found


class _NearestMean:
    """The mean of the nearest known values, weighted by 1 / distance."""

    def __init__(self, points: Array, values: Array) -> None:
        # Only here: it takes a moment to import.
        from scipy.spatial import cKDTree

        self._tree, self._values = cKDTree(points), values

    def __call__(self, points: Array) -> tuple[Array, Array]:
        """Of each point, the value and the distance of the nearest known one."""
        distances, found = self._tree.query(points, min(_NEIGHBOURS, len(self._values)))
        distances = np.asarray(distances).reshape(len(points), -1)
        weights = 1 / np.maximum(distances, _SAME)
        values = self._values[np.asarray(found).reshape(distances.shape)]
        return (weights * values).sum(axis=1) / weights.sum(axis=1), distances[:, 0]
