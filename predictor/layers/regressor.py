"""Seconds and ratios of any layer from measured ones, with split-conformal intervals.

Kriging says from the dense layers that were measured what each product of a layer takes; gradient
boosting learns what that misses: of a dense layer its seconds, of a pair its ratio to the dense
layer (latency recovery). The intervals come from residuals on shapes that the models did not see:
folds are whole (K, N) groups, because random rows of one shape leak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.predictor.layers.features import MANY_PRODUCTS, LayerArrays, distinct
from autotune.predictor.layers.models import KnownProducts, RatioModel, SecondsModel
from autotune.predictor.learning.conformal import conformal_quantile

Array = NDArray[np.float64]
MIN_ROWS = 24
MIN_GROUPS = 3
_FOLDS = 3
_MIN_RESIDUALS = 50


class LatencyRegressor:
    """Learned from measured layers; bit-equal when refitted on equal data."""

    def __init__(self, roofline: Roofline, coverage: float = 0.9) -> None:
        self.roofline = roofline
        self.coverage = coverage
        self._models: _Models | None = None

    @staticmethod
    def enough(shapes: Sequence[LayerShape]) -> bool:
        """Whether there is data to fit and to hold out: rows, and distinct (K, N)."""
        groups = {(s.in_features, s.out_features) for s in shapes}
        return len(shapes) >= MIN_ROWS and len(groups) >= MIN_GROUPS

    def fit(self, shapes: Sequence[LayerShape], latency_s: Sequence[float]) -> LatencyRegressor:
        """Fit on measured layers and set the conformal half widths (in log).

        Raises:
            ValueError: fewer than `MIN_ROWS` rows or `MIN_GROUPS` shapes.
        """
        if not self.enough(shapes):
            raise ValueError(f"needs {MIN_ROWS} points of {MIN_GROUPS} shapes, got {len(shapes)}")
        rows = _Rows(shapes, latency_s)
        names = [f"{s.in_features}x{s.out_features}" for s in shapes]
        with threadpool_limits(1):
            seconds_off, ratios_off, pairs_off = np.full((3, len(shapes)), np.nan)
            for train, test in GroupKFold(min(_FOLDS, len(set(names)))).split(names, groups=names):
                blind = _Models(self.roofline, rows).fit(train)
                asked = test[blind.of_seconds(rows, test)]
                guess = blind.seconds.predict(rows.layers.of_rows(asked))
                seconds_off[asked] = np.abs(guess - rows.log_seconds[asked])
                if blind.ratios is not None:
                    asked = test[np.isfinite(rows.log_ratios[test])]
                    pairs = rows.layers.of_rows(asked)
                    guess = blind.ratios.predict(pairs)
                    ratios_off[asked] = np.abs(guess - rows.log_ratios[asked])
                    guess += blind.dense_log_seconds(pairs)
                    pairs_off[asked] = np.abs(guess - rows.log_seconds[asked])
            self._widths, self._ratio_widths, self._pair_widths = (
                _HalfWidths.of_residuals(off, rows.layers, coverage=self.coverage)
                for off in (seconds_off, ratios_off, pairs_off)
            )
            self._models = _Models(self.roofline, rows).fit(np.arange(len(shapes)))
        return self

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit` learned, as estimators of scikit-learn, arrays and numbers."""
        assert self._models is not None, "fit first"
        widths = (self._widths, self._ratio_widths, self._pair_widths)
        learned = [(each.tokens, each.half_widths) for each in widths]
        return {"widths": learned, "models": self._models.fitted}

    def restore(
        self, shapes: Sequence[LayerShape], latency_s: Sequence[float], *, fitted: Mapping[str, Any]
    ) -> LatencyRegressor:
        """Be as `fit` left it, from its `fitted` and the layers that it learned from."""
        self._widths, self._ratio_widths, self._pair_widths = (
            _HalfWidths(tokens=tokens, half_widths=half_widths)
            for tokens, half_widths in fitted["widths"]
        )
        rows = _Rows(shapes, latency_s)
        self._models = _Models(self.roofline, rows).restore(fitted["models"])
        return self

    @property
    def knows_ratios(self) -> bool:
        """Whether enough pairs were measured to learn from."""
        assert self._models is not None, "fit first"
        return self._models.ratios is not None

    def predict(self, shapes: Sequence[LayerShape]) -> Array:
        """Predict the latency in seconds, (len(shapes),)."""
        return self.predict_with_half_widths(shapes)[0]

    def predict_with_half_widths(self, shapes: Sequence[LayerShape]) -> tuple[Array, Array]:
        """Seconds and half widths (log), (n,) each."""
        assert self._models is not None, "fit first"
        layers = LayerArrays.of(shapes)
        widths = self._widths.of(layers)
        if self._models.ratios is None:
            return np.exp(self._models.seconds.predict(layers)), widths
        log_seconds, pairs = self._models.dense_log_seconds(layers), layers.pairs
        if pairs.any():
            log_seconds[pairs] += self._models.ratios.predict(layers.of_rows(pairs))
            widths[pairs] = self._pair_widths.of(layers.of_rows(pairs))
        return np.exp(log_seconds), widths

    def predict_ratios(
        self, pairs: Sequence[LayerShape], dense_known: Sequence[bool]
    ) -> tuple[Array, Array, Array]:
        """Ratios pair / dense and two half widths (log), (n,) each; only where `knows_ratios`.

        The first half width is the ratio's, the second that of the pair's seconds, which is the
        same where the dense layer's are known: what is wrong with both layers alike is not in the
        ratio.
        """
        assert self._models is not None and self._models.ratios is not None, "no pairs to learn"
        layers = LayerArrays.of(pairs)
        of_ratio, of_pair = self._ratio_widths.of(layers), self._pair_widths.of(layers)
        ratios = np.exp(self._models.ratios.predict(layers))
        return ratios, of_ratio, np.where(dense_known, of_ratio, of_pair)


class _Rows:
    """Measured layers: log seconds, and log ratios of the pairs whose dense layer is among them."""

    def __init__(self, shapes: Sequence[LayerShape], latency_s: Sequence[float]) -> None:
        self.layers, self.dtype = LayerArrays.of(shapes), shapes[0].dtype
        self.log_seconds = np.log(np.asarray(latency_s, dtype=np.float64))
        dense = {s: t for s, t in zip(shapes, self.log_seconds, strict=True) if not s.rank}
        denses = [dense.get(s.dense, math.nan) if s.rank else math.nan for s in shapes]
        self.log_ratios = self.log_seconds - np.array(denses)
        self.single = ~self.layers.pairs & (self.layers.parts == 0)


class _Models:
    """Both models, of some of the rows."""

    def __init__(self, roofline: Roofline, rows: _Rows) -> None:
        self._roofline, self._rows = roofline, rows
        self.ratios: RatioModel | None = None

    def fit(self, chosen: NDArray[np.intp]) -> _Models:
        """Learn from the rows `chosen`."""
        rows = self._rows
        single = chosen[rows.single[chosen]]
        self._known = self._of(single).fit(rows.log_seconds[single])
        pairs = chosen[np.isfinite(rows.log_ratios[chosen])]
        enough = len(pairs) >= MIN_ROWS
        if enough:
            model = RatioModel(self._known)
            self.ratios = model.fit(rows.layers.of_rows(pairs), rows.log_ratios[pairs])
        # Pairs tell of dense layers too where those are few, and of pairs where no ratios do.
        dense = chosen[~rows.layers.pairs[chosen]]
        learned = dense if enough and len(single) >= MANY_PRODUCTS else chosen
        self.seconds = SecondsModel(self._known).fit(
            rows.layers.of_rows(learned), rows.log_seconds[learned]
        )
        return self

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit` learned of all rows."""
        ratios = None if self.ratios is None else self.ratios.boosting
        return {"known": self._known.fitted, "ratios": ratios, "seconds": self.seconds.boosting}

    def restore(self, fitted: Mapping[str, Any]) -> _Models:
        """Be as `fit` on all rows left it."""
        self._known = self._of(np.flatnonzero(self._rows.single)).restore(fitted["known"])
        self.seconds = SecondsModel(self._known, boosting=fitted["seconds"])
        if fitted["ratios"] is not None:
            self.ratios = RatioModel(self._known, boosting=fitted["ratios"])
        return self

    def _of(self, single: NDArray[np.intp]) -> KnownProducts:
        rows = self._rows
        return KnownProducts(self._roofline, rows.dtype, products=rows.layers.dense[single])

    def dense_log_seconds(self, layers: LayerArrays) -> Array:
        """log(seconds) of the dense layers of all; many pairs share one."""
        index, inverse = distinct(np.column_stack([layers.dense, layers.parts]))
        found: Array = self.seconds.predict(layers.of_rows(index).undivided)[inverse]
        return found

    def of_seconds(self, rows: _Rows, asked: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which rows are asked for their seconds: pairs only where nothing knows ratios."""
        everything = np.ones(len(asked), dtype=bool)
        return everything if self.ratios is None else ~rows.layers.pairs[asked]


@dataclass(frozen=True, kw_only=True)
class _HalfWidths:
    """Conformal half widths by M, (n,), and alignment, (n, 2)."""

    tokens: Array
    half_widths: Array

    @staticmethod
    def of_residuals(residuals: Array, layers: LayerArrays, *, coverage: float) -> _HalfWidths:
        """From |log| residuals, NaN where there is none; of a wider class where one has few."""
        known = np.isfinite(residuals)
        all_tokens = layers.dense[:, 0]
        tokens = np.unique(all_tokens[known])
        widths = np.empty((len(tokens), 2))
        pooled = conformal_quantile(residuals[known], coverage)
        for aligned in (0, 1):
            alike = known & (layers.aligned == aligned)
            width = conformal_quantile(residuals[alike], coverage)
            width = width if math.isfinite(width) else pooled
            for i, m in enumerate(tokens):
                here = residuals[alike & (all_tokens == m)]
                enough = len(here) >= _MIN_RESIDUALS
                widths[i, aligned] = conformal_quantile(here, coverage) if enough else width
        return _HalfWidths(tokens=tokens, half_widths=widths)

    def of(self, layers: LayerArrays) -> Array:
        """(n,): those of the nearest M; infinite where nothing was left to learn them from."""
        if not len(self.tokens):
            return np.full(len(layers.dense), np.inf)
        asked, inverse = np.unique(layers.dense[:, 0], return_inverse=True)
        far = np.abs(np.log(asked)[:, None] - np.log(self.tokens))
        widths: Array = self.half_widths[far.argmin(axis=1)[inverse], layers.aligned.astype(int)]
        return widths
