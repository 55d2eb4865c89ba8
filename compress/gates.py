"""Dobi-SVD's soft truncation of activations, with a gradient that ties do not break.

F(A, k) = U diag(T) Vᵀ for A = U Σ Vᵀ, T_i = σ_i·(½ tanh(β(k − i)) + ½), i from 1 (Dobi-SVD, §3.1).
Its derivative needs the divided differences of T over σ (a Loewner matrix), not the derivatives of
U and V one by one: L1 = (T_i − T_j)/(σ_i − σ_j) and L2 = (T_i + T_j)/(σ_i + σ_j) have limits where
those have poles. The paper's form, 1/(σ_i² − σ_j²) patched by a truncated series, is kept by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

BETA = 10.0
_TAYLOR_TERMS = 10
_TAYLOR_TIE = 1e-10
_TAYLOR_CLAMP = 100.0


def gate(k: Tensor, count: int, *, beta: float = BETA) -> Tensor:
    """½ tanh(β(k − i)) + ½ for i = 1 … count."""
    index = torch.arange(1, count + 1, dtype=k.dtype, device=k.device)
    return 0.5 * torch.tanh(beta * (k - index)) + 0.5


def loewner(sigma: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and L2 (…, q, q) of T = σ·g, for σ (…, q) descending and g (q,).

    L1 = g_i + σ_j (g_i − g_j)/(σ_i − σ_j); at a tie where the gate is flat the quotient is 0.
    A tie that straddles the gate has no derivative; the mean of both gates stands there.
    """
    gi, gj = g[:, None], g[None, :]
    si, sj = sigma[..., :, None], sigma[..., None, :]
    gap, total = si - sj, si + sj
    scale = sigma[..., :1, None].clamp_min(torch.finfo(sigma.dtype).tiny)
    tie = gap.abs() <= 8 * torch.finfo(sigma.dtype).eps * scale
    mean = (0.5 * (gi + gj)).expand_as(gap)
    safe = torch.where(tie, torch.ones_like(gap), gap)
    first = torch.where(tie, mean, (si * gi - sj * gj) / safe)
    nothing = total <= torch.finfo(sigma.dtype).eps * scale
    second = torch.where(
        nothing, mean, (si * gi + sj * gj) / torch.where(nothing, torch.ones_like(total), total)
    )
    return first, second


def taylor(sigma: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The same two matrices from the paper's approximation of 1/(σ_i² − σ_j²).

    Both σ near zero: 100; |σ_i − σ_j| ≤ 1e-10: Σ_{t≤10} (σ_j/σ_i)^t / (σ_i(σ_i + σ_j)); else
    exact. Finite everywhere, biased at ties and unprotected just beside them.
    """
    si, sj = sigma[..., :, None], sigma[..., None, :]
    gi, gj = g[:, None], g[None, :]
    gap = si - sj
    zero = (si < _TAYLOR_TIE) & (sj < _TAYLOR_TIE)
    tie = (gap.abs() <= _TAYLOR_TIE) & ~zero
    upper = torch.ones_like(gap).triu(1)
    sign = upper - upper.mT
    ratio = torch.where(zero, torch.zeros_like(gap), torch.minimum(si, sj) / torch.maximum(si, sj))
    series = sum((ratio**t for t in range(_TAYLOR_TERMS + 1)), torch.zeros_like(gap))
    largest = torch.maximum(si, sj)
    product = (largest * (si + sj)).clamp_min(torch.finfo(sigma.dtype).tiny)
    exact = 1.0 / torch.where(zero | tie, torch.ones_like(gap), gap * (si + sj))
    inverse = torch.where(tie, sign * series / product, exact)
    inverse = torch.where(zero, sign * _TAYLOR_CLAMP, inverse)
    t_i, t_j = si * gi, sj * gj
    straight, crossed = (si * t_i - sj * t_j) * inverse, (t_i * sj - t_j * si) * inverse
    same = torch.eye(sigma.shape[-1], dtype=torch.bool, device=sigma.device)
    straight = torch.where(same, g.expand_as(gap), straight)
    crossed = torch.where(same, torch.zeros_like(crossed), crossed)
    return straight + crossed, straight - crossed


class SoftTruncate(Function):
    """(A (…, T, N), k (), β, form) → F(A, k)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, k: Tensor, beta: float, form: str) -> Tensor:
        """U diag(σ g) Vᵀ, the matrix with its singular values gated."""
        u, sigma, vt = torch.linalg.svd(a, full_matrices=False)
        g = gate(k.to(a.dtype), sigma.shape[-1], beta=beta)
        ctx.save_for_backward(u, sigma, vt, g, k)
        ctx.beta, ctx.form = beta, form
        out: Tensor = (u * (sigma * g)[..., None, :]) @ vt
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The adjoint of dF = U (L1∘sym P + L2∘skew P) Vᵀ + what leaves the spans of U and V."""
        (grad,) = grads
        u, sigma, vt, g, k = ctx.saved_tensors
        first, second = (loewner if ctx.form == "loewner" else taylor)(sigma, g)
        left, right = u.mT @ grad, grad @ vt.mT
        p = left @ vt.mT
        inner = 0.5 * (first * (p + p.mT) + second * (p - p.mT))
        to_a = u @ (inner - p * g[None, :] - g[:, None] * p) @ vt
        to_a = to_a + (right * g) @ vt + u @ (g[:, None] * left)
        slope = 2.0 * ctx.beta * g * (1.0 - g)  # d/dk of ½ tanh(β(k − i)) + ½
        to_k = (p.diagonal(dim1=-2, dim2=-1) * sigma * slope).sum().to(k.dtype)
        return to_a, to_k.reshape(k.shape), None, None


class GatedLinear(nn.Module):
    """A frozen linear layer whose output is softly truncated to rank k, sample by sample.

    `k` is in units of `limit` (the break-even rank), so that layers of all sizes learn alike.
    """

    def __init__(
        self, module: nn.Module, limit: int, *, start: float = 1.0, form: str = "loewner"
    ) -> None:
        super().__init__()
        self.module = module
        self.limit = limit
        self.form = form
        self.share = nn.Parameter(torch.tensor(float(start)))

    @property
    def rank(self) -> Tensor:
        """The trained k, as a number of singular values."""
        return self.share * self.limit

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) to (…, N)."""
        y: Tensor = self.module(x)
        bias: Any = self.module.bias
        a = y if bias is None else y - bias
        gated: Tensor = SoftTruncate.apply(a, self.rank, BETA, self.form)  # type: ignore[no-untyped-call]
        return gated if bias is None else gated + bias
