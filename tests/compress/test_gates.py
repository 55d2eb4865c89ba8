"""The soft truncation: its gradient against finite differences, ties too (docs/methods/dobi.md)."""

import pytest
import torch

from autotune.compress.gates import GatedLinear, SoftTruncate, gate


def matrix(sigma, rows=9, columns=7, seed=0):
    """A matrix with the given singular values."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(rows, len(sigma), generator=generator, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(columns, len(sigma), generator=generator, dtype=torch.float64))
    return (u * torch.tensor(sigma, dtype=torch.float64)) @ v[0].T


def truncated(a, k, beta):
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    return (u * (s * gate(k, len(s), beta=beta))) @ vt


def numeric(a, k, beta, weights, step=1e-6):
    """Central differences of ⟨weights, F⟩ in every entry of A, from the definition alone."""
    found = torch.zeros_like(a)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            moved = torch.zeros_like(a)
            moved[i, j] = step
            up = (truncated(a + moved, k, beta) * weights).sum()
            down = (truncated(a - moved, k, beta) * weights).sum()
            found[i, j] = (up - down) / (2 * step)
    return found


SPECTRA = {
    "distinct": [5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5],
    "tie above the gate": [4.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5],
    "tie below the gate": [5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 0.5],
    "rank deficient": [5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_the_loewner_gradient_equals_finite_differences(name):
    a = matrix(SPECTRA[name]).requires_grad_(True)
    k = torch.tensor(3.5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(a.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    beta = 10.0
    (SoftTruncate.apply(a, k, beta, "loewner") * weights).sum().backward()
    expected = numeric(a.detach(), k.detach(), beta, weights)
    assert torch.allclose(a.grad, expected, atol=2e-5 * float(expected.abs().max()))
    step = 1e-6
    slope = [(truncated(a.detach(), k.detach() + d, beta) * weights).sum() for d in (step, -step)]
    assert float(k.grad) == pytest.approx(float((slope[0] - slope[1]) / (2 * step)), rel=1e-6)


def test_a_wide_matrix_and_a_batch():
    batch = torch.stack([matrix(SPECTRA["distinct"], 7, 12, seed) for seed in (2, 3)])
    a = batch.clone().requires_grad_(True)
    k = torch.tensor(2.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, y: SoftTruncate.apply(x, y, 3.0, "loewner"), (a, k), atol=1e-6
    )


def test_the_papers_form_agrees_away_from_ties_and_not_at_them():
    k = torch.tensor(3.5, dtype=torch.float64)
    weights = torch.randn(9, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def gradient(sigma, form):
        a = matrix(sigma).requires_grad_(True)
        (SoftTruncate.apply(a, k, 10.0, form) * weights).sum().backward()
        return a.grad

    distinct = SPECTRA["distinct"]
    assert torch.allclose(gradient(distinct, "taylor"), gradient(distinct, "loewner"), atol=1e-9)
    # Exactly equal singular values in the numbers themselves, not only up to rounding.
    a = torch.diag(torch.tensor([4.0, 4.0, 2.0, 1.0], dtype=torch.float64)).requires_grad_(True)
    weights = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = {}
    for form in ("loewner", "taylor"):
        a.grad = None
        (SoftTruncate.apply(a, k, 10.0, form) * weights).sum().backward()
        found[form] = a.grad.clone()
        assert torch.isfinite(found[form]).all()
    expected = numeric(a.detach(), k, 10.0, weights)
    assert torch.allclose(found["loewner"], expected, atol=1e-4)
    assert not torch.allclose(found["taylor"], expected, atol=1e-2)


def test_a_wide_open_gate_changes_nothing():
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 8).double()
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    gated = GatedLinear(layer, limit=4, start=5.0)
    assert torch.allclose(gated(x), layer(x), atol=1e-10)
    closed = GatedLinear(layer, limit=4, start=0.5)
    _, s, _ = torch.linalg.svd(closed(x) - layer.bias)
    assert (s[:, 4:] < 1e-6 * s[:, :1]).all()
