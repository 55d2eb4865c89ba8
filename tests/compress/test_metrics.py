"""One suite for every metric, on statistics of a real architecture."""

import pytest
import torch

from autotune.compress.factorize import factorize
from autotune.compress.lowrank import dense_weight
from autotune.compress.metrics import METRICS, make_metric
from autotune.compress.sites import find_sites
from autotune.compress.statistics import collect_statistics
from autotune.errors import UsageError
from tests.compress.test_statistics import text_batches
from tests.conftest import tiny_model, tiny_task


@pytest.fixture(params=sorted(METRICS))
def prepared(request):
    metric = make_metric(request.param)
    model = tiny_model("gpt2").double()
    model.requires_grad_(False)
    sites = find_sites(model).sites
    statistics = collect_statistics(
        model, sites, tiny_task("gpt2"), text_batches(masked=False), metric.moments
    )
    return metric, model, sites, statistics


def test_full_rank_is_exact_and_errors_fall(prepared):
    metric, model, sites, statistics = prepared
    for site in sites:
        weight = dense_weight(model.get_submodule(site.name))
        result = factorize(weight, metric.whitening(site, statistics))
        up, down = result.factors(min(weight.shape))
        assert torch.linalg.norm(up @ down - weight) <= 1e-10 * torch.linalg.norm(weight)
        assert (result.errors[1:] <= result.errors[:-1]).all()
        assert result.errors[0] > 0


def test_it_asks_only_for_the_moments_it_reads(prepared):
    metric, _, _, statistics = prepared
    kinds = {key.partition(":")[0] for key in statistics.moments}
    assert kinds == set(metric.moments)
    assert metric.name in METRICS


def test_its_own_factors_are_best_by_its_own_error(prepared):
    metric, model, sites, statistics = prepared
    weight = dense_weight(model.get_submodule(sites[0].name))
    whitening = metric.whitening(sites[0], statistics)
    result = factorize(weight, whitening)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    for rank in (4, 16, 40):
        plain = (u[:, :rank] * s[:rank]) @ vt[:rank]
        error = whitening.scale * float(whitening.whiten(weight - plain).square().sum())
        assert error >= float(result.errors[rank]) * (1 - 1e-9)


def test_unknown_metrics_list_the_known():
    with pytest.raises(UsageError, match="known are kfac-seq, kfac, activation, weight"):
        make_metric("magic")
