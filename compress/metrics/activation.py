"""Activation metric: E‖(W − Ŵ)x‖² on the calibration data (SVD-LLM, docs/methods/svd.md)."""

from __future__ import annotations

from autotune.compress.metrics.base import Metric, Whitening, support_root
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site


class Activation(Metric):
    """G = mean x xᵀ on the input side; tokens of a batch weigh the same."""

    name = "activation"
    moments = frozenset({"gram"})

    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """Cholesky root of the input Gram."""
        root = support_root(statistics.moment("gram", site))
        return Whitening(left=None, right=root, scale=1.0)
