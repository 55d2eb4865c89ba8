"""KFAC metric: the rise of the task's loss, ½ tr(H ΔW G ΔWᵀ) (docs/methods/default.md)."""

from __future__ import annotations

from typing import Annotated

from autotune.compress.metrics.base import Metric, Whitening, damped_root
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site
from autotune.core.plugin_options import Bounds


class Kfac(Metric):
    """G on the input side, H (Gram of output gradients, true Fisher) on the output side.

    Errors are in units of the task's loss, so those of different layers compare and add.
    """

    name = "kfac"
    moments = frozenset({"gram", "grad"})
    in_loss_units = True

    def __init__(
        self,
        damping: Annotated[float, Bounds(ge=1e-12, le=100)] = 1e-8,
        gradient_damping: Annotated[float, Bounds(ge=1e-12, le=100)] = 1e-2,
    ) -> None:
        self.damping = damping
        self.gradient_damping = gradient_damping

    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """Cholesky roots of both Grams, scaled to the mean loss."""
        left = damped_root(statistics.moment("grad", site), self.gradient_damping)
        right = damped_root(statistics.moment("gram", site), self.damping)
        return Whitening(left=left, right=right, scale=0.5 * statistics.rows_per_item[site.name])
