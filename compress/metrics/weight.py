"""Plain SVD: ‖W − Ŵ‖²_F, whatever the inputs (Eckart–Young)."""

from __future__ import annotations

from autotune.compress.metrics.base import Metric, Whitening
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site


class Weight(Metric):
    """The plain error of the weight: no statistics are needed."""

    name = "weight"

    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """The identity on both sides of the weight."""
        del site, statistics
        return Whitening(left=None, right=None, scale=1.0)
