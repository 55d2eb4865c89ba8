"""Pivoted pairs are the same product with fewer numbers."""

import pytest
import torch

from autotune.compress.pivoting import pivoted

SHAPES = [(24, 60, 8), (60, 24, 8), (24, 24, 24), (24, 60, 23), (5, 9, 1), (9, 5, 5)]


def factors(rows, columns, rank, dtype=torch.float64):
    draw = torch.Generator().manual_seed(rows + columns + rank)
    up = torch.randn(rows, rank, generator=draw, dtype=dtype)
    # Singular values fall by three orders of magnitude, as those of trained layers do.
    scale = torch.logspace(0, -3, rank, dtype=dtype)
    return up * scale, torch.randn(rank, columns, generator=draw, dtype=dtype)


@pytest.mark.parametrize("side", ["in", "out"])
@pytest.mark.parametrize(("rows", "columns", "rank"), SHAPES)
class TestEveryShape:
    def test_the_product_is_that_of_the_pair(self, rows, columns, rank, side):
        up, down = factors(rows, columns, rank)
        found = pivoted(up, down, side=side).product
        torch.testing.assert_close(found, up @ down, rtol=1e-10, atol=1e-12)

    def test_it_holds_fewer_numbers_by_the_square_of_the_rank(self, rows, columns, rank, side):
        found = pivoted(*factors(rows, columns, rank), side=side)
        assert found.up.numel() + found.down.numel() == rank * (rows + columns - rank)
        assert sorted(found.order.tolist()) == list(range(columns if side == "in" else rows))

    def test_what_the_docstring_says_of_a_call(self, rows, columns, rank, side):
        up, down = factors(rows, columns, rank)
        x = torch.randn(3, columns, dtype=torch.float64)
        found = pivoted(up, down, side=side)
        if side == "in":
            chosen, rest = x[:, found.order].split([rank, columns - rank], dim=1)
            y = (chosen + rest @ found.down.T) @ found.up.T
        else:
            latent = x @ found.down.T
            y = torch.cat([latent, latent @ found.up.T], dim=1)[:, found.order.argsort()]
        torch.testing.assert_close(y, x @ (up @ down).T, rtol=1e-10, atol=1e-10)

    def test_coefficients_stay_small(self, rows, columns, rank, side):
        """Rounding is not amplified: 1.55 was the largest seen in trained models."""
        found = pivoted(*factors(rows, columns, rank), side=side)
        coefficients = found.down if side == "in" else found.up
        assert coefficients.numel() == 0 or coefficients.abs().max() < 3.0


def test_in_single_precision_only_rounding_is_lost():
    up, down = factors(200, 300, 100, torch.float32)
    exact = up.double() @ down.double()
    found = pivoted(up, down, side="in").product.double()
    assert (found - exact).norm() / exact.norm() < 1e-6


@pytest.mark.parametrize("kept", [0, 3])
def test_factors_of_less_than_their_rank_keep_their_product(kept):
    """A layer of zeros, or one whose own rank is lower."""
    up, down = factors(20, 30, 8)
    down[kept:] = 0.0
    for side in ("in", "out"):
        found = pivoted(up, down, side=side)
        assert torch.isfinite(found.up).all() and torch.isfinite(found.down).all()
        torch.testing.assert_close(found.product, up @ down, rtol=1e-10, atol=1e-12)
