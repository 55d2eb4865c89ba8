"""PGSVD's alternating least squares in the activation metric (PGSVD, algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

from autotune.compress.factorizers.base import Factorizer, Layer
from autotune.compress.factorizers.truncated import factorize
from autotune.compress.metrics.base import Whitening
from autotune.core.plugin_options import Bounds

_PLAIN = Whitening(left=None, right=None, scale=1.0)


class Als(Factorizer):
    """From the plain SVD: A ← W M Bᵀ (B M Bᵀ)⁺, then B ← (Aᵀ A)⁺ Aᵀ W, M the metric's Gram.

    The B-update has no M because W M cancels it: min_B ‖(W − AB)R‖ has that solution for every
    invertible R. In whitened coordinates (W' = leftᵀ W right, A' = leftᵀ A, B' = B right) both are
    ordinary least squares, so a metric with an output side works alike. The objective never rises
    and tends to the truncated SVD's in the same metric (docs/methods/svd.md); `tolerance` stops
    early.
    """

    name = "als"

    def __init__(
        self,
        iterations: Annotated[int, Bounds(ge=1, le=1000)] = 10,
        tolerance: Annotated[float, Bounds(ge=0, le=1)] = 1e-6,
    ) -> None:
        self.iterations = iterations
        self.tolerance = tolerance

    def factors(self, layer: Layer, rank: int) -> tuple[Tensor, Tensor]:
        """Up (N, r) and down (r, K) factor of the last iterate."""
        last = float("inf")
        for up, down, objective in self.iterates(layer, rank):  # noqa: B007
            if objective > last * (1 - self.tolerance):
                break
            last = objective
        return layer.whitening.unwhiten_up(up), layer.whitening.unwhiten_down(down)

    def iterates(self, layer: Layer, rank: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Whitened A' (N, r), B' (r, K) and ‖W' − A'B'‖²_F after every half step."""
        start_up, start_down = factorize(layer.weight, _PLAIN, max_rank=rank).factors(rank)
        target = layer.whitening.whiten(layer.weight)
        up = start_up if layer.whitening.left is None else layer.whitening.left.T @ start_up
        down = start_down
        if layer.whitening.right is not None:
            down = start_down @ layer.whitening.right
        for _ in range(self.iterations):
            up = torch.linalg.lstsq(down.T, target.T).solution.T
            yield up, down, float((target - up @ down).square().sum())
            down = torch.linalg.lstsq(up, target).solution
            yield up, down, float((target - up @ down).square().sum())
