"""The suite for every factorizer, then each one's own identities (docs/methods)."""

import itertools

import pytest
import torch

from autotune.compress.factorizers import FACTORIZERS, make_factorizer
from autotune.compress.factorizers.als import Als
from autotune.compress.factorizers.base import Layer
from autotune.compress.factorizers.output_subspace import merge_bases, output_bases
from autotune.compress.factorizers.residual import Residual
from autotune.compress.factorizers.truncated import factorize
from autotune.compress.lowrank import dense_weight
from autotune.compress.metrics.base import Whitening
from autotune.core.errors import UsageError
from autotune.core.layers import Site
from autotune.testing.suites.factorizer import FactorizerSuite
from tests.compress.factorizers.test_truncated import PLAIN, activation, output_error
from tests.compress.test_statistics import text_batches
from tests.conftest import tiny_model, tiny_task

N, K = 48, 40


@pytest.fixture
def data():
    """W (N, K) and correlated X (K, tokens)."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(N, K, generator=generator, dtype=torch.float64)
    mix = torch.randn(K, K, generator=generator, dtype=torch.float64)
    x = mix @ torch.randn(K, 400, generator=generator, dtype=torch.float64)
    return weight, x


def layer_of(weight, whitening, x):
    n, k = weight.shape
    site = Site(name="site", in_features=k, out_features=n, tokens=1)
    _, _, vt = torch.linalg.svd((weight @ x).T, full_matrices=False)
    return Layer(site=site, weight=weight, whitening=whitening, output_basis=vt.T)


class TestFactorizers(FactorizerSuite):
    @pytest.fixture(params=FACTORIZERS)
    def factorizer(self, request):
        return make_factorizer(request.param)


def test_als_never_rises_and_tends_to_the_svd(data):
    weight, x = data
    rank = 10
    layer = layer_of(weight, activation(x), x)
    objectives = [o for _, _, o in Als(iterations=400).iterates(layer, rank)]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(objectives))
    best = float(factorize(weight, activation(x)).errors[rank])
    assert objectives[-1] >= best * (1 - 1e-12)
    assert objectives[-1] == pytest.approx(best, rel=1e-3)
    assert objectives[0] > best * 1.001


def test_als_updates_are_the_papers(data):
    """One sweep in the whitened coordinates equals the note's formulas in the plain ones."""
    weight, x = data
    rank, m = 7, x @ x.T / x.shape[1]
    a, b = factorize(weight, PLAIN).factors(rank)
    a = weight @ m @ b.T @ torch.linalg.pinv(b @ m @ b.T)
    b = torch.linalg.pinv(a.T @ a) @ a.T @ weight
    whitening = activation(x)
    steps = list(Als(iterations=1).iterates(layer_of(weight, whitening, x), rank))
    up, down, _ = steps[-1]
    assert torch.allclose(
        whitening.unwhiten_up(up) @ whitening.unwhiten_down(down), a @ b, atol=1e-8
    )


def test_als_stops_early(data):
    weight, x = data
    layer = layer_of(weight, activation(x), x)
    patient = Als(iterations=50, tolerance=0.0).factors(layer, 10)
    hasty = Als(iterations=50, tolerance=0.5).factors(layer, 10)
    assert not torch.allclose(patient[0] @ patient[1], hasty[0] @ hasty[1])


def test_residual_stages_of_one_metric_are_that_metrics_svd(data):
    weight, x = data
    layer = layer_of(weight, activation(x), x)
    for plain, whitening in ((False, activation(x)), (True, PLAIN)):
        up, down = Residual(beta=0.2, plain=(plain, plain)).factors(layer, 12)
        expected = factorize(weight, whitening).factors(12)
        assert torch.allclose(up @ down, expected[0] @ expected[1], atol=1e-8)


def test_the_mixed_form_trades_calibration_error_for_weight_error(data):
    weight, x = data
    layer = layer_of(weight, activation(x), x)
    mixed = Residual(beta=0.25)
    up, down = mixed.factors(layer, 12)
    white = factorize(weight, activation(x)).factors(12)
    assert output_error(weight, up @ down, x) > output_error(weight, white[0] @ white[1], x)
    assert (weight - up @ down).norm() < (weight - white[0] @ white[1]).norm()
    assert sum(mixed.ranks(layer.site, 12)) == 12
    assert mixed.least_rank(layer.site) == int(0.25 * N * K / (N + K)) + 1
    assert sum(Residual(beta=0.4, stages=4).ranks(layer.site, 15)) == 15


def test_merged_bases_ignore_signs_and_keep_the_most():
    generator = torch.Generator().manual_seed(0)
    bases = [
        torch.linalg.qr(torch.randn(20, 5, generator=generator, dtype=torch.float64))[0]
        for _ in range(6)
    ]
    flipped = [b * torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0]) for b in bases]
    total = sum(b @ b.T for b in bases)
    v = merge_bases(total, 5)
    w = merge_bases(sum(b @ b.T for b in flipped), 5)
    assert torch.allclose(v @ v.T, w @ w.T, atol=1e-10)
    kept = sum(float((v.T @ b).square().sum()) for b in bases)
    assert kept == pytest.approx(float(torch.linalg.eigvalsh(total)[-5:].sum()))


def test_output_bases_come_from_every_sequence_without_its_padding():
    model = tiny_model("bert").double()
    model.requires_grad_(False)
    name = "encoder.layer.0.intermediate.dense"
    batches = text_batches(masked=True)
    found = output_bases(model, tiny_task("bert"), batches=batches, ranks={name: 6})[name]
    assert torch.allclose(found.T @ found, torch.eye(6, dtype=torch.float64), atol=1e-10)
    total, module = 0, model.get_submodule(name)
    for batch in batches:
        for i in range(len(batch["input_ids"])):
            keep = batch["attention_mask"][i].bool()
            rows = []
            handle = module.register_forward_hook(
                lambda m, _a, out, rows=rows: rows.append(out - m.bias)
            )
            model(**{key: value[i : i + 1] for key, value in batch.items()})
            handle.remove()
            _, _, vt = torch.linalg.svd(rows[0][0][keep], full_matrices=False)
            total = total + vt[:6].T @ vt[:6]
    expected = merge_bases(total, 6)
    assert torch.allclose(found @ found.T, expected @ expected.T, atol=1e-7)
    assert not module._forward_hooks


def test_the_projection_is_the_weight_seen_through_the_basis():
    weight = dense_weight(tiny_model("bert").encoder.layer[0].output.dense).double()
    basis = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0]
    site = Site(name="s", in_features=128, out_features=64, tokens=1)
    plain = Whitening(left=None, right=None, scale=1.0)
    layer = Layer(site=site, weight=weight, whitening=plain, output_basis=basis)
    up, down = make_factorizer("output-subspace").factors(layer, 9)
    assert torch.allclose(up @ down, basis[:, :9] @ basis[:, :9].T @ weight)


def test_unknown_factorizers_list_the_known():
    with pytest.raises(UsageError, match="known are svd, als, residual, output-subspace"):
        make_factorizer("magic")
