"""The suite for every metric, and identities of some."""

import pytest
import torch

from autotune.compress.metrics import METRICS, make_metric
from autotune.compress.metrics.base import damped_root
from autotune.core.errors import UsageError
from autotune.testing.suites.metric import MetricSuite


class TestMetrics(MetricSuite):
    @pytest.fixture(params=sorted(METRICS))
    def metric(self, request):
        return make_metric(request.param)


def test_every_metric_has_the_name_of_its_registry():
    assert {name: make_metric(name).name for name in METRICS} == {name: name for name in METRICS}


def test_unknown_metrics_list_the_known():
    with pytest.raises(UsageError, match="known are kfac-seq, kfac, activation"):
        make_metric("magic")


def test_ledoit_wolf_equals_sklearns():
    from sklearn.covariance import ledoit_wolf

    from autotune.compress.metrics.ledoit_wolf import shrinkage

    generator = torch.Generator().manual_seed(0)
    for rows, features in ((30, 50), (400, 20)):
        x = torch.randn(rows, features, generator=generator, dtype=torch.float64)
        x = x @ torch.randn(features, features, generator=generator, dtype=torch.float64)
        gram = x.T @ x / rows
        norm4 = float(x.square().sum(1).square().mean())
        expected, weight = ledoit_wolf(x.numpy(), assume_centered=True)
        found = shrinkage(gram, norm4, rows=rows)
        assert found == pytest.approx(weight, abs=1e-10)
        mu = float(gram.diagonal().mean())
        shrunk = (1 - found) * gram + found * mu * torch.eye(features, dtype=torch.float64)
        assert torch.allclose(shrunk, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def test_dipsvd_identities():
    from autotune.compress.metrics.dipsvd import DipSvd, DipSvdCode, channel_weights

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 300, generator=generator, dtype=torch.float64)
    x[3] *= 10
    gram = x @ x.T
    by_rows = torch.stack([(row @ (x.T @ x) @ row).sqrt() for row in x])
    assert torch.allclose(torch.linalg.norm(gram, dim=0), by_rows)
    weights = channel_weights(gram, 0.03, amplify=30.0)
    assert (weights > 1).sum() == 2
    assert weights[3] == 30.0
    assert torch.allclose(DipSvd(amplify=1.0).weighted(gram), gram)
    assert torch.allclose(DipSvdCode(amplify=1.0).weighted(gram), gram)
    root = DipSvdCode().weighted(gram)
    assert torch.allclose(root @ root, gram @ torch.diag(weights**2) @ gram)


def test_a_singular_gram_is_exact_on_its_support():
    from autotune.compress.metrics.base import support_root

    a = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gram = a @ a.T
    root = support_root(gram)
    assert torch.equal(root, root.tril())
    assert torch.allclose(root @ root.T, gram, atol=1e-8 * float(gram.max()))
    assert float(torch.linalg.svdvals(root)[-1]) > 0
    assert torch.equal(support_root(torch.zeros(3, 3).double()), torch.eye(3).double())


def random_rows(rows, columns):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def test_a_gram_that_rounding_left_indefinite_has_a_root_of_what_is_positive():
    """As of values so small that their products are subnormal in fp32."""
    vectors, _ = torch.linalg.qr(random_rows(6, 6))
    values = torch.tensor([-1e-3, 0.5, 1, 2, 3, 4], dtype=torch.float64) * 1e-42
    gram = (vectors * values) @ vectors.T
    root = damped_root(gram, 1e-6)
    assert torch.equal(root, root.tril())
    ridge = 1e-6 * gram.diagonal().mean()
    expected = (vectors * values.clamp_min(ridge)) @ vectors.T
    torch.testing.assert_close(root @ root.T * 1e42, expected * 1e42)


def test_a_gram_of_few_samples_has_the_root_of_itself_and_its_ridge():
    sample = random_rows(3, 6)
    gram = sample.T @ sample
    root = damped_root(gram, 1e-3)
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(root @ root.T, gram + ridge)
