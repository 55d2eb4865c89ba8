"""Activation metric with a Ledoit–Wolf shrunk Gram (FLAR's wish, docs/methods/flar.md).

The note's shrinkage is identically zero and the published code multiplies rounding noise; this is
the estimator of Ledoit and Wolf (2004) for uncentred data, from streamed moments alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autotune.compress.metrics.base import Metric, Whitening, support_root
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site


def shrinkage(gram: Tensor, norm4: float, *, rows: float) -> float:
    """The optimal weight of μI, in [0, 1].

    `gram` (K, K) is the mean x xᵀ over `rows` rows, `norm4` the mean ‖x‖⁴. Equal to
    sklearn.covariance.ledoit_wolf(assume_centered=True): with S = gram and p = K,
    δ² = ‖S − μI‖²_F/p, β² = min((norm4 − ‖S‖²_F)/(p·rows), δ²), and the weight is β²/δ².
    """
    p = gram.shape[0]
    square = float(gram.square().sum())
    mu = float(gram.trace()) / p
    delta = square / p - mu**2
    beta = min((norm4 - square) / (p * rows), delta)
    return beta / delta if delta > 0 and beta > 0 else 0.0


class LedoitWolf(Metric):
    """(1 − λ)·G + λ·μI in the place of G."""

    name = "ledoit-wolf"
    moments = frozenset({"gram", "norm4"})

    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """Cholesky root of the shrunk Gram."""
        gram = statistics.moment("gram", site)
        norm4 = float(statistics.moment("norm4", site))
        weight = shrinkage(gram, norm4, rows=statistics.rows[site.name])
        mu = float(gram.diagonal().mean())
        eye = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
        shrunk = (1 - weight) * gram + weight * mu * eye
        return Whitening(left=None, right=support_root(shrunk), scale=1.0)
