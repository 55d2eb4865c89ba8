"""Truncated SVD in any metric: one decomposition a site serves every rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autotune.compress.lowrank import dense_weight
from autotune.compress.metrics.base import Metric, Whitening
from autotune.compress.statistics import Statistics
from autotune.errors import ModelError
from autotune.types import Site, break_even_rank


@dataclass(frozen=True, kw_only=True)
class Factorization:
    """All ranks of one site at once: slices of these are the factors of any rank.

    `up` (N, q) and `down` (q, K), in order of importance, √Σ split between them; `errors[r]` is
    the metric's error when r components are kept (length min(N, K) + 1, non-increasing).
    """

    up: Tensor = field(repr=False)
    down: Tensor = field(repr=False)
    errors: Tensor = field(repr=False)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Up (N, r) and down (r, K)."""
        return self.up[:, :rank], self.down[:rank]


def factorize(weight: Tensor, whitening: Whitening, max_rank: int | None = None) -> Factorization:
    """Best factors of `weight` (N, K) in the metric, for every rank up to `max_rank`.

    Ŵ_r = left⁻ᵀ [leftᵀ W right]_r right⁻¹ minimises scale·‖leftᵀ(W−Ŵ)right‖²_F over rank r, with
    value scale·Σ_{i>r} σ_i² (Eckart–Young in the whitened space; methods.md §0.1).
    """
    u, s, vt = torch.linalg.svd(whitening.whiten(weight.double()), full_matrices=False)
    q = min(max_rank or len(s), len(s))
    split = s[:q].sqrt()
    tail = torch.cat([(s**2).flip(0).cumsum(0).flip(0), s.new_zeros(1)])
    return Factorization(
        up=whitening.unwhiten_up(u[:, :q] * split),
        down=whitening.unwhiten_down(split[:, None] * vt[:q]),
        errors=whitening.scale * tail,
    )


class FactorStore:
    """The factors of every site in one safetensors file, read slice by slice.

    Kept to break-even rank in the model's dtype, so the file is about as large as the model.
    """

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")

    def errors(self, site: Site) -> Tensor:
        """The metric's error at every rank, (min(N, K) + 1), fp64."""
        tensor: Tensor = self._file.get_tensor(f"errors:{site.name}")
        return tensor

    def factors(self, site: Site, rank: int) -> tuple[Tensor, Tensor]:
        """Up (N, r) and down (r, K)."""
        up = self._file.get_slice(f"up:{site.name}")[:, :rank]
        down = self._file.get_slice(f"down:{site.name}")[:rank]
        return up, down


def build_factor_store(
    model: nn.Module,
    sites: Sequence[Site],
    metric: Metric,
    statistics: Statistics,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Factorize every site and write the store to `path`.

    Raises:
        ModelError: a factor is not finite.
    """
    tensors: dict[str, Tensor] = {}
    for done, site in enumerate(sites):
        progress(done, len(sites))
        weight = dense_weight(model.get_submodule(site.name))
        limit = break_even_rank(site.in_features, site.out_features)
        result = factorize(weight, metric.whitening(site, statistics), limit)
        up, down = result.up.to(weight.dtype), result.down.to(weight.dtype)
        if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
            raise ModelError(f"the factors of {site.name} are not finite in {weight.dtype}")
        tensors[f"up:{site.name}"] = up.contiguous()
        tensors[f"down:{site.name}"] = down.contiguous()
        tensors[f"errors:{site.name}"] = result.errors
    progress(len(sites), len(sites))
    save_file(tensors, path)
