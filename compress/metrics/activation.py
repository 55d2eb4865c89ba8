"""Activation metric: E‖(W − Ŵ)x‖² on the calibration data (SVD-LLM, methods.md §0.1)."""

from __future__ import annotations

from autotune.compress.metrics.base import Metric, Whitening, damped_root
from autotune.compress.statistics import Statistics
from autotune.types import Site


class Activation(Metric):
    """G = mean x xᵀ on the input side; tokens of a batch weigh the same."""

    name = "activation"
    moments = frozenset({"gram"})

    def __init__(self, damping: float = 1e-8) -> None:
        self.damping = damping

    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """Cholesky root of the input Gram."""
        root = damped_root(statistics.moment("gram", site), self.damping)
        return Whitening(left=None, right=root, scale=1.0)
