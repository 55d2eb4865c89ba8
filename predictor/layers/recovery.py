"""Latency recovery (pair / dense) of any layer, learned directly from a few measured pairs.

A ratio is measured from interleaved calls, so it is far less noisy than the seconds it is of; and
what a Gaussian process must learn of it is only what the roofline's own ratio misses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.core.layers import LayerShape
from autotune.devices.roofline import Roofline
from autotune.predictor.layers.features import LayerArrays
from autotune.predictor.learning.gaussian_process import Process

Array = NDArray[np.float64]
MIN_PAIRS, MIN_SHAPES, MAX_PAIRS = 24, 4, 400
_COLUMNS = 5


class RecoveryProcess:
    """Ratios of pairs of one device; `predict` answers with 90 % half widths in log."""

    def __init__(
        self, roofline: Roofline, shapes: Sequence[LayerShape], *, ratios: Sequence[float]
    ) -> None:
        """Learn from measured pairs and their ratios; of more than `MAX_PAIRS`, from so many."""
        self.roofline = roofline
        rows = np.random.default_rng(0).permutation(len(shapes))[:MAX_PAIRS]
        chosen = [shapes[i] for i in rows]
        x, base = self._features(chosen)
        # Whole layers are left out to learn the intervals: ranks of one layer know each other.
        sizes = [(s.in_features, s.out_features) for s in chosen]
        layers = np.array([sorted(set(sizes)).index(size) for size in sizes])
        values = np.log([ratios[i] for i in rows]) - base
        self._process = Process(x, values, groups=layers.ravel())

    @staticmethod
    def enough(shapes: Sequence[LayerShape]) -> bool:
        """Whether there are pairs, and layers that they are of."""
        layers = {(s.in_features, s.out_features) for s in shapes}
        return len(shapes) >= MIN_PAIRS and len(layers) >= MIN_SHAPES

    def predict(self, shapes: Sequence[LayerShape]) -> tuple[Array, Array]:
        """Ratios and half widths (log, 90 %), (n,) each."""
        x, base = self._features(shapes)
        shift, half_width = self._process.predict(x)
        return np.exp(base + shift), half_width

    def deviation_given(self, shapes: Sequence[LayerShape], more: Sequence[LayerShape]) -> Array:
        """How unsure it would be of `shapes` (log) had `more` been measured too."""
        extra = self._features(more)[0] if more else np.empty((0, _COLUMNS))
        return self._process.deviation_given(self._features(shapes)[0], extra)

    def _features(self, shapes: Sequence[LayerShape]) -> tuple[Array, Array]:
        """Log sizes and the roofline's log ratio, (n, 5); that ratio, (n,)."""
        layers = LayerArrays.of(shapes)
        pair_s, dense_s = layers.roofline_s(self.roofline, shapes[0].dtype)
        base = np.log(pair_s / dense_s)
        return np.column_stack([np.log(layers.dense), np.log(layers.down[:, 2]), base]), base
