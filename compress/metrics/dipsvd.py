"""DipSVD's local importance: channels that matter most are weighted up (docs/methods/dipsvd.md)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from autotune.compress.metrics.base import Metric, Whitening, support_root
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site
from autotune.core.plugin_options import Bounds


def channel_weights(gram: Tensor, top: float, *, amplify: float) -> Tensor:
    """D's diagonal (K,): `amplify` for the ⌈top·K⌉ channels of largest ‖G[:, j]‖₂, else 1.

    ‖G[:, j]‖ = √(x_jᵀ (X Xᵀ) x_j) for the channel's row x_j of the activations (DipSVD, eq. 6).
    """
    k = gram.shape[0]
    weights = torch.ones(k, dtype=gram.dtype, device=gram.device)
    chosen = torch.linalg.norm(gram, dim=0).topk(max(1, math.ceil(top * k))).indices
    weights[chosen] = amplify
    return weights


class DipSvd(Metric):
    """‖(W − Ŵ) S‖²_F with S Sᵀ = D G D; with amplify = 1 it is the activation metric."""

    name = "dipsvd"
    moments = frozenset({"gram"})

    def __init__(
        self,
        top: Annotated[float, Bounds(ge=0, le=1)] = 0.03,
        amplify: Annotated[float, Bounds(ge=1e-3, le=1e6)] = 30.0,
    ) -> None:
        self.top = top
        self.amplify = amplify

    def weighted(self, gram: Tensor) -> Tensor:
        """D G D, the Gram matrix with its channels weighted."""
        d = channel_weights(gram, self.top, amplify=self.amplify)
        return d[:, None] * gram * d

    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """Cholesky root of the weighted Gram."""
        gram = self.weighted(statistics.moment("gram", site))
        return Whitening(left=None, right=support_root(gram), scale=1.0)


class DipSvdCode(DipSvd):
    """The published code's form: S Sᵀ = (G D² G)^½."""

    name = "dipsvd-code"

    def weighted(self, gram: Tensor) -> Tensor:
        """The symmetric square root of G D² G."""
        d = channel_weights(gram, self.top, amplify=self.amplify)
        values, vectors = torch.linalg.eigh((gram * d**2) @ gram)
        root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        return root
