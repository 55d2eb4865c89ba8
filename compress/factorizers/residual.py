"""ERC's residual compensation: a rank split between two metrics (ERC-SVD, §3.2).

See docs/methods/erc.md.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from autotune.compress.factorizers.base import Factorizer, Layer
from autotune.compress.factorizers.truncated import factorize
from autotune.compress.metrics.base import Whitening
from autotune.core.layers import Site
from autotune.core.plugin_options import Bounds

_PLAIN = Whitening(left=None, right=None, scale=1.0)


class Residual(Factorizer):
    """Stage 1 of rank r_i in the metric, then residual stages, plain and in the metric by turn.

    With α = NK/(N+K), the stages after the first share r_r = ⌊αβ⌋ of the rank. The paper's form is
    two stages, the second plain. Plain then plain is plain SVD and metric then metric is the
    metric's SVD (both exactly), so only the mixture differs from them.
    """

    name = "residual"

    def __init__(
        self,
        beta: Annotated[float, Bounds(ge=0, le=0.9)] = 0.05,
        stages: Annotated[int, Bounds(ge=2, le=16)] = 2,
        *,
        plain: tuple[bool, ...] | None = None,
    ) -> None:
        self.beta = beta
        # Which stages are plain; the first is in the metric.
        self.plain = plain or tuple(i % 2 == 1 for i in range(stages))

    def residual_rank(self, site: Site) -> int:
        """The rank r_r that the residual gets, at least 1."""
        k, n = site.in_features, site.out_features
        return max(1, int(self.beta * n * k / (n + k)))

    def least_rank(self, site: Site) -> int:
        """One more than the residual's share: R_l < 1 − β."""
        return self.residual_rank(site) + 1

    def ranks(self, site: Site, rank: int) -> list[int]:
        """Ranks of the stages; they add up to `rank`."""
        later = len(self.plain) - 1
        if rank == min(site.in_features, site.out_features):
            return [rank] + [0] * later
        shared = min(self.residual_rank(site), rank - 1)
        parts = [shared * (i + 1) // later - shared * i // later for i in range(later)]
        return [rank - shared, *parts]

    def factors(self, layer: Layer, rank: int) -> tuple[Tensor, Tensor]:
        """Up (N, r) and down (r, K) factor: those of the stages, concatenated along r."""
        rest = layer.weight
        ups, downs = [], []
        for size, plain in zip(self.ranks(layer.site, rank), self.plain, strict=True):
            if size == 0:
                continue
            up, down = factorize(rest, _PLAIN if plain else layer.whitening, max_rank=size).factors(
                size
            )
            rest = rest - up @ down
            ups.append(up)
            downs.append(down)
        return torch.cat(ups, dim=1), torch.cat(downs, dim=0)
