"""Truncated SVD in any metric: one decomposition of a site serves every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autotune.compress.factorizers.base import Factorizer, Layer
from autotune.compress.metrics.base import Whitening


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


def factorize(
    weight: Tensor, whitening: Whitening, *, max_rank: int | None = None
) -> Factorization:
    """Best factors of `weight` (N, K) in the metric, for every rank up to `max_rank`.

    Ŵ_r = left⁻ᵀ [leftᵀ W right]_r right⁻¹ minimises scale·‖leftᵀ(W−Ŵ)right‖²_F over rank r, with
    value scale·Σ_{i>r} σ_i² (Eckart–Young in the whitened space; docs/methods/svd.md).
    """
    up, down, tail = _decompose(whitening.whiten(weight.double()), max_rank)
    return Factorization(
        up=whitening.unwhiten_up(up),
        down=whitening.unwhiten_down(down),
        errors=whitening.scale * tail,
    )


def factorize_together(
    weights: Sequence[Tensor], whitenings: Sequence[Whitening], *, max_rank: int | None = None
) -> Factorization:
    """Factors of layers (N_i, K) with one input: one shared down, their ups stacked (Σ N_i, r).

    Minimises Σ_i scale_i·‖left_iᵀ(W_i − U_i V)right‖²_F over rank-r V, right the same for all: the
    truncated SVD of the stacked √scale_i·left_iᵀ W_i right (Eckart–Young; the joint form of
    docs/methods/svd.md, no paper's).
    """
    most = max(whitening.scale for whitening in whitenings)
    # A layer that costs nothing still needs factors of its own weight.
    scales = [max(w.scale, 1e-12 * most) ** 0.5 or 1.0 for w in whitenings]
    stacked = [
        scale * whitening.whiten(weight.double())
        for scale, whitening, weight in zip(scales, whitenings, weights, strict=True)
    ]
    up, down, tail = _decompose(torch.cat(stacked), max_rank)
    parts = up.split([len(weight) for weight in weights])
    ups = [w.unwhiten_up(p) / s for w, p, s in zip(whitenings, parts, scales, strict=True)]
    return Factorization(up=torch.cat(ups), down=whitenings[0].unwhiten_down(down), errors=tail)


def _decompose(matrix: Tensor, max_rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """U√Σ and √ΣVᵀ of the first `max_rank` components, and Σ_{i>r} σ_i² for every r."""
    up, s, down = (_by_gram if matrix.is_cuda else _by_svd)(matrix)
    q = min(max_rank or len(s), len(s))
    tail = torch.cat([(s**2).flip(0).cumsum(0).flip(0), s.new_zeros(1)])
    return up[:, :q], down[:q], tail


def _by_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U√Σ (N, r), the singular values σ in descending order, and √ΣVᵀ (r, K)."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    split = s.sqrt()
    return u * split, s, split[:, None] * vt


def _by_gram(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same from the eigenvectors Q of the smaller Gram, which a GPU finds ten times as fast.

    The other factor is Qᵀ·matrix, never divided by σ, so that the product is a projection: exact at
    full rank however small the last singular values are (their own digits are lost below √ε).
    """
    if matrix.shape[0] > matrix.shape[1]:
        down, s, up = _by_gram(matrix.T)
        return up.T, s, down.T
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    s, q = values.clamp_min(0).sqrt().flip(0), vectors.flip(1)
    split = s.clamp_min(s[:1] * 1e-8 + 1e-300).sqrt()
    return q * split, s, (q.T @ matrix) / split[:, None]


class Truncated(Factorizer):
    """The best factors in the metric; what the error table is made from."""

    name = "svd"

    def factors(self, layer: Layer, rank: int) -> tuple[Tensor, Tensor]:
        """Up (N, r) and down (r, K) factor: the first r components of the decomposition."""
        return factorize(layer.weight, layer.whitening, max_rank=rank).factors(rank)
