"""Identities of docs/methods/svd.md in fp64, against the data itself and not our formulas."""

import pytest
import torch

from autotune.compress.factorizers.truncated import factorize
from autotune.compress.metrics.base import Whitening, damped_root


@pytest.fixture
def layer():
    """W (N, K) and correlated inputs X (K, tokens), fp64."""
    generator = torch.Generator().manual_seed(0)
    n, k, tokens = 24, 40, 300
    weight = torch.randn(n, k, generator=generator, dtype=torch.float64)
    mix = torch.randn(k, k, generator=generator, dtype=torch.float64)
    x = (
        mix
        @ torch.diag(torch.logspace(0, -2, k, dtype=torch.float64))
        @ torch.randn(k, tokens, generator=generator, dtype=torch.float64)
    )
    return weight, x


def activation(x, damping=0.0):
    gram = x @ x.T / x.shape[1]
    root = torch.linalg.cholesky(gram) if damping == 0 else damped_root(gram, damping)
    return Whitening(left=None, right=root, scale=1.0)


def output_error(weight, approximation, x):
    return float(((weight - approximation) @ x).square().sum() / x.shape[1])


PLAIN = Whitening(left=None, right=None, scale=1.0)


def both_sides(n, k, seed=1):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(n, 2 * n, generator=generator, dtype=torch.float64)
    right = torch.randn(k, 2 * k, generator=generator, dtype=torch.float64)
    return Whitening(
        left=damped_root(left @ left.T, 1e-2), right=damped_root(right @ right.T, 1e-2), scale=0.5
    )


def test_every_metric_is_exact_at_full_rank(layer):
    weight, x = layer
    for whitening in (PLAIN, activation(x), activation(x, 1e-8), both_sides(*weight.shape)):
        up, down = factorize(weight, whitening).factors(min(weight.shape))
        assert torch.linalg.norm(up @ down - weight) <= 1e-10 * torch.linalg.norm(weight)


def test_a_singular_gram_is_exact_too(layer):
    weight, x = layer
    few = x[:, :7]
    result = factorize(weight, activation(few, 1e-8))
    up, down = result.factors(min(weight.shape))
    assert torch.linalg.norm(up @ down - weight) <= 1e-10 * torch.linalg.norm(weight)
    up, down = result.factors(7)
    assert output_error(weight, up @ down, few) <= 1e-6 * float((weight @ few).square().mean())


@pytest.mark.parametrize("rank", [1, 5, 12, 23])
def test_the_error_is_the_loss_on_the_data(layer, rank):
    weight, x = layer
    result = factorize(weight, activation(x))
    up, down = result.factors(rank)
    assert float(result.errors[rank]) == pytest.approx(output_error(weight, up @ down, x), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_nobody_beats_the_activation_metric_on_its_data(layer, rank):
    weight, x = layer
    best = float(factorize(weight, activation(x)).errors[rank])
    others = [PLAIN, activation(x[:, :50], 1e-8), both_sides(*weight.shape)]
    for whitening in others:
        up, down = factorize(weight, whitening).factors(rank)
        assert output_error(weight, up @ down, x) >= best * (1 - 1e-12)


@pytest.mark.parametrize("rank", [3, 11])
def test_whitening_equals_output_pca(layer, rank):
    """Cholesky whitening and projecting the outputs on their top directions are one matrix."""
    weight, x = layer
    up, down = factorize(weight, activation(x)).factors(rank)
    _, vectors = torch.linalg.eigh((weight @ x) @ (weight @ x).T)
    top = vectors[:, -rank:]
    assert torch.allclose(up @ down, top @ top.T @ weight, atol=1e-9)


def test_two_sided_error_is_the_trace_form(layer):
    weight, _ = layer
    w = both_sides(*weight.shape)
    h, g = w.left @ w.left.T, w.right @ w.right.T
    result = factorize(weight, w)
    for rank in (2, 9, 20):
        up, down = result.factors(rank)
        delta = weight - up @ down
        assert float(result.errors[rank]) == pytest.approx(
            0.5 * float(torch.trace(h @ delta @ g @ delta.T)), rel=1e-9
        )


def test_errors_never_increase_with_rank(layer):
    weight, x = layer
    for whitening in (PLAIN, activation(x), both_sides(*weight.shape)):
        errors = factorize(weight, whitening).errors
        assert len(errors) == min(weight.shape) + 1
        assert (errors[1:] <= errors[:-1]).all()
        assert errors[-1] == 0


def test_the_damped_root_is_a_root():
    a = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gram = a @ a.T
    root = damped_root(gram, 1e-2)
    ridge = 1e-2 * gram.diagonal().mean() * torch.eye(9, dtype=torch.float64)
    assert torch.allclose(root @ root.T, gram + ridge)
    assert torch.equal(
        damped_root(torch.zeros(3, 3, dtype=torch.float64), 1e-2), torch.eye(3, dtype=torch.float64)
    )


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (30, 30)])
def test_the_gpus_route_gives_the_same_factors(shape):
    from autotune.compress.factorizers.truncated import _by_gram, _by_svd

    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix[:, -5:] *= 1e-7
    expected, got = _by_svd(matrix), _by_gram(matrix)
    assert torch.allclose(got[1], expected[1], atol=1e-7 * float(expected[1][0]))
    for rank in (1, 7, 15):
        product = got[0][:, :rank] @ got[2][:rank]
        assert torch.allclose(product, expected[0][:, :rank] @ expected[2][:rank], atol=1e-9)
    assert torch.linalg.norm(got[0] @ got[2] - matrix) <= 1e-12 * torch.linalg.norm(matrix)
