"""Factors, plans applied to the model, and the model as it was afterwards."""

import pytest
import torch

from autotune.compress.calibration import CalibrationData
from autotune.compress.factors import FactorStore, Refactored, Stored
from autotune.compress.lowrank import LowRankLinear, SharedLowRankLinear
from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, low_rank
from autotune.core.workload import Budget
from autotune.testing.examples import example_batches
from autotune.tuning.compression import chosen_metric, compress
from autotune.tuning.options import MethodOptions
from autotune.tuning.request import TuneRequest
from tests.autotune.tuning.conftest import Q, traced

JOINT = "model.layers.0.mlp.gate_proj+up_proj"
MEMBERS = ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj")
PLAN = {Q: low_rank(8), JOINT: low_rank(16), "model.layers.1.mlp.down_proj": DENSE}


def logits(model):
    (batch,) = example_batches(1)
    with torch.no_grad():
        return model(**batch).logits


class TestApplied:
    def test_the_plan_is_in_place_and_gone_afterwards(self, model, compression):
        dense = model.loaded.model
        before, modules = logits(dense), dict(dense.named_modules())
        with compression.applied(PLAN) as applied:
            assert applied is dense
            found = {n: m for n, m in applied.named_modules() if isinstance(m, LowRankLinear)}
            assert {name: layer.rank for name, layer in found.items()} == {
                Q: 8,
                MEMBERS[0]: 16,
                MEMBERS[1]: 16,
            }
            assert isinstance(found[MEMBERS[1]], SharedLowRankLinear)
            assert found[MEMBERS[1]].leader is found[MEMBERS[0]]
            assert not torch.allclose(logits(applied), before, atol=1e-3)
        assert dict(dense.named_modules()) == modules
        assert torch.equal(logits(dense), before)

    def test_the_model_is_dense_again_after_an_error(self, model, compression):
        dense = model.loaded.model
        modules = dict(dense.named_modules())
        with pytest.raises(RuntimeError, match="interrupted"), compression.applied(PLAN):
            raise RuntimeError("interrupted")
        assert dict(dense.named_modules()) == modules

    def test_a_form_that_no_layer_can_take_changes_nothing(self, model, compression):
        modules = dict(model.loaded.model.named_modules())
        with pytest.raises(UsageError, match="unknown precision 'nowhere'"):
            with compression.applied({**PLAN, Q: low_rank(8, precision="nowhere")}):
                pass
        assert dict(model.loaded.model.named_modules()) == modules

    def test_layers_are_the_best_of_their_rank(self, model, compression):
        """The metric is the weight's own: the truncated SVD, by Eckart and Young."""
        (layer,) = compression.layers({Q: low_rank(8)}).values()
        weight = model.loaded.model.get_submodule(Q).weight.detach()
        error = (weight - (layer.weight @ layer.weight_down).detach()).square().sum()
        best = torch.linalg.svdvals(weight)[8:].square().sum()
        assert float(error) == pytest.approx(float(best), rel=1e-4)


def test_errors_are_known_of_every_rank_that_saves(model, compression):
    table = compression.error_table(8)
    assert set(table) == {site.name for site in model.choices}
    for site in model.single:
        forms = sorted(table[site.name])
        k, n = site.in_features, site.out_features
        assert forms == [low_rank(rank) for rank in range(8, k, 8) if rank * (k + n) < k * n]
        errors = [table[site.name][form] for form in forms]
        assert errors == sorted(errors, reverse=True)
        assert 0 < errors[-1] < errors[0] < 1  # relative to the site's own


def test_keys_depend_on_the_plan_and_on_the_factors(compression):
    key = compression.plan_key(PLAN)
    assert key == compression.plan_key({Q: low_rank(8), JOINT: low_rank(16)})
    assert key != compression.plan_key({**PLAN, Q: low_rank(16)})
    assert key.items() >= compression.key.items()


@pytest.mark.parametrize(
    ("metric", "task", "expected"),
    [
        (None, "causal-lm", "kfac"),
        (None, "embedding", "kfac-seq"),
        ("weight", "causal-lm", "weight"),
    ],
)
def test_the_task_chooses_the_metric_unless_one_is_given(metric, task, expected):
    request = TuneRequest(budget=Budget(latency="0.9x"), method=MethodOptions(metric=metric))
    assert chosen_metric(request, task) == expected


class TestCompress:
    """From a request to factors, which the run folder keeps."""

    @pytest.fixture
    def run(self, model, workspace):
        batches = tuple(example_batches(2))
        data = CalibrationData(
            statistics=batches, search=batches, heldout=batches, sha256="1" * 64, origin="a test"
        )

        def compressed(model=model, **method):
            options = MethodOptions(**{"metric": "activation", **method})
            request = TuneRequest(budget=Budget(latency="0.9x"), method=options)
            return compress(model, request, data=data, workspace=workspace)

        return compressed

    def test_factors_are_made_once(self, run, workspace):
        found = run()
        assert isinstance(found.factors, FactorStore)
        assert (found.metric, found.storage) == ("activation", "fp32")
        files = {path: path.stat().st_mtime_ns for path in workspace.cache.iterdir()}
        assert {path.name.partition("-")[0] for path in files} == {"lock", "statistics", "factors"}
        again = run()
        assert again.key == found.key
        assert {path: path.stat().st_mtime_ns for path in workspace.cache.iterdir()} == files

    def test_another_metric_has_factors_of_its_own(self, run):
        one, other = run(), run(metric="weight")
        assert one.key != other.key
        assert one.factors.path != other.factors.path
        assert one.search_key != other.search_key

    def test_storage_and_factorizer_share_the_factors_and_no_key(self, run):
        plain, stored, again = run(), run(storage="fp16"), run(factorizer="als")
        assert isinstance(stored.factors, Stored)
        assert isinstance(again.factors, Refactored)
        assert stored.factors.inner.path == again.factors.store.path == plain.factors.path
        keys = [each.plan_key({Q: low_rank(8)}) for each in (plain, stored, again)]
        assert keys[0] != keys[1] != keys[2] != keys[0]

    def test_a_model_of_other_weights_is_another(self, run, model):
        other = traced(seed=1, weights_sha256="2" * 64)
        assert run(other).factors.path != run().factors.path
