"""ASVD metric: columns weighted by the mean activation size, diag(mean|x|)^α (ASVD, eq. 5)."""

from __future__ import annotations

from typing import Annotated

import torch

from autotune.compress.metrics.base import Metric, Whitening
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site
from autotune.core.plugin_options import Bounds

_FLOOR = 1e-6


class Asvd(Metric):
    """‖(W − Ŵ) diag(mean|x|)^α‖²_F, decomposed exactly (the paper scales and truncates alike)."""

    name = "asvd"
    moments = frozenset({"absmean"})

    def __init__(self, alpha: Annotated[float, Bounds(ge=0, le=4)] = 0.5) -> None:
        self.alpha = alpha

    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """The diagonal of channel scales; a channel never seen gets a millionth of the mean."""
        scale = statistics.moment("absmean", site) ** self.alpha
        floor = _FLOOR * float(scale.mean()) or 1.0
        return Whitening(left=None, right=torch.diag(scale.clamp_min(floor)), scale=1.0)
