"""Sequence KFAC: the Fisher of whole sequences, with correlated tokens.

KFAC takes the tokens of a sequence for independent, F ≈ E[x xᵀ] ⊗ E[g gᵀ]. A weight's error is the
same at every token, so what counts is the sequence's gradient J = Σ_t g_t x_tᵀ, and
F = E[vec J vec Jᵀ] is approximated by its two marginals, E[J Jᵀ] ⊗ E[Jᵀ J] / E‖J‖² (the Kronecker
form that Shampoo uses as a preconditioner, Gupta et al. 2018; here it measures error). At equal
parameters it keeps an encoder's embedding closer than KFAC (benchmarks/results/), so it is the
default for tasks whose loss is of whole sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from autotune.compress.metrics.base import Metric, Whitening, damped_root
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site
from autotune.core.plugin_options import Bounds


class KfacSequence(Metric):
    """½ tr(L ΔW R ΔWᵀ) / tr L with L = E[J Jᵀ], R = E[Jᵀ J] per loss item."""

    name = "kfac-seq"
    moments = frozenset({"left", "right"})
    in_loss_units = True

    def __init__(self, damping: Annotated[float, Bounds(ge=1e-12, le=100)] = 1e-2) -> None:
        self.damping = damping

    def whitening(self, site: Site, statistics: Statistics) -> Whitening:
        """Cholesky roots of both marginals."""
        return self._roots(statistics.moment("left", site), statistics.moment("right", site))

    def shared_whitenings(self, members: Sequence[Site], statistics: Statistics) -> list[Whitening]:
        """R is pooled, Σ R_i over the members, and scaled to each member's own trace."""
        rights = [statistics.moment("right", member) for member in members]
        pooled = torch.stack(rights).sum(0)
        pooled = pooled / pooled.trace().clamp_min(1e-300)
        lefts = [statistics.moment("left", member) for member in members]
        return [
            replace(self._roots(left, pooled), scale=0.5 if right.trace() > 0 else 0.0)
            for left, right in zip(lefts, rights, strict=True)
        ]

    def _roots(self, left: Tensor, right: Tensor) -> Whitening:
        trace = float(left.trace())
        return Whitening(
            left=damped_root(left, self.damping),
            right=damped_root(right, self.damping),
            scale=0.5 / trace if trace > 0 else 0.0,
        )
