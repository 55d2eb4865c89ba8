"""A precision of another distribution: its bytes, its layers and its builds."""

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from autotune.compress.loading import load_checkpoint
from autotune.compress.lowrank import LowRankLinear, dense_weight
from autotune.compress.precisions import PRECISIONS, make_precision
from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, Form, low_rank, plan_from_json, plan_to_json
from autotune.predictor.network.model import NetworkAnchor, NetworkModel, PhaseModel
from autotune.search.losses import PlanLosses, SearchSubject
from autotune.search.tables import count_resources, site_bytes
from autotune.testing.suites.precision import PrecisionSuite
from autotune.tuning.builders import make_builder
from tests.autotune.tuning.test_builders import DOWN, JOINT, Q, machine_of, outputs

INT8 = "int8-rows"
NATIVE_PLAN = {Q: low_rank(8), JOINT: low_rank(16)}
PLAN = {
    Q: low_rank(8, precision=INT8),
    DOWN: Form(precision=INT8),
    JOINT: low_rank(16, precision=INT8),
}
pytestmark = pytest.mark.usefixtures("third")


class TestInt8Rows(PrecisionSuite):
    @pytest.fixture
    def precision(self, third):
        return make_precision(INT8)


def test_it_is_known_by_its_distribution():
    assert INT8 in PRECISIONS
    assert PRECISIONS.distribution(INT8) == "third-party"
    assert plan_from_json(plan_to_json(PLAN)) == PLAN
    with pytest.raises(UsageError, match=f"unknown precision 'int3'; known are native, .*{INT8}"):
        make_precision("int3")


def test_layers_compute_with_its_rounded_weights(model, compression):
    rounded = make_precision(INT8).rounded
    native, layers = compression.layers(NATIVE_PLAN), compression.layers(PLAN)
    assert set(layers) == {*native, DOWN}
    for name, layer in native.items():
        assert not torch.equal(layers[name].weight, layer.weight)
        assert torch.equal(layers[name].weight, rounded(layer.weight.detach()))
        assert torch.equal(layers[name].weight_down, rounded(layer.weight_down.detach()))
    dense = model.loaded.model.get_submodule(DOWN)
    assert type(layers[DOWN]) is type(dense)
    assert torch.equal(dense_weight(layers[DOWN]), rounded(dense_weight(dense)))
    x = torch.randn(3, dense_weight(dense).shape[1])
    assert torch.equal(layers[DOWN](x), x @ rounded(dense_weight(dense)).T)


def test_plans_are_judged_and_cached_with_it(model, factors, compression):
    draw = torch.Generator().manual_seed(1)
    batch = {
        "input_ids": torch.randint(0, 101, (2, 8), generator=draw),
        "attention_mask": torch.ones(2, 8, dtype=torch.long),
    }
    subject = SearchSubject(
        model=model.loaded.model,
        task=model.task,
        sites=model.single,
        joint=model.joint,
        factors=factors,
        batches=[batch],
    )
    losses = PlanLosses(subject)
    found = [losses.true_loss(plan) for plan in ({}, {DOWN: DENSE}, {DOWN: PLAN[DOWN]})]
    assert found[0] == found[1] != found[2]
    assert compression.plan_key(PLAN)["plan"] == plan_to_json(PLAN)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch-eager", "onnxruntime-cpu"])
def test_builds_hold_the_rounded_weights(model, compression, workspace, backend):
    builder = make_builder(model, machine_of(backend, "fp32"), workspace=workspace)
    inputs = load_file(builder.inputs("prefill"))
    build = builder.compressed("prefill", compression, plan=PLAN)
    with compression.applied(PLAN) as applied:
        wanted = outputs(applied, inputs, "prefill")
    with compression.applied(NATIVE_PLAN) as applied:
        native = outputs(applied, inputs, "prefill")
    if backend == "torch-eager":
        loaded = load_checkpoint(build).model
        pairs = [m for m in loaded.modules() if isinstance(m, LowRankLinear)]
        assert len(pairs) == 3
        found = outputs(loaded, inputs, "prefill")
    else:
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        found = torch.from_numpy(onnxruntime.InferenceSession(str(build)).run(None, feeds)[0])
    assert torch.allclose(found, wanted, atol=2e-5)
    assert not torch.allclose(found, native, atol=2e-4)


def test_a_backend_without_it_is_refused_before_anything_is_built(model, compression, workspace):
    builder = make_builder(model, machine_of("tensorrt", "fp16"), workspace=workspace)
    with pytest.raises(UsageError, match=f"{INT8} is not available on the backend tensorrt"):
        builder.compressed("prefill", compression, plan=PLAN)
    assert not list(workspace.cache.glob("compressed*"))


def test_its_bytes_count_in_a_weight_bytes_budget(model, compression):
    """Loss by rounding is small here, so that a budget below what pairs reach takes int8."""
    from third_party.solve import solve_with_int8

    sites = model.single
    network = NetworkModel(
        phases=(
            PhaseModel(
                anchor=NetworkAnchor(
                    latency_s=1.0, layer_shares={site.shape(): 0.01 for site in sites}
                ),
                predictor=None,
                sites=sites,
            ),
        )
    )
    dense = sum(site_bytes(site, DENSE, dtype="fp32", storage="fp32") for site in sites)
    totals = count_resources(
        sites, network, parameters=int(dense) // 4, weight_bytes=int(dense), kv_cache_bytes=0
    )
    errors = compression.error_table(8)
    limit = 0.2 * dense
    found = solve_with_int8(
        errors,
        dict.fromkeys(errors, 1e-3),
        sites=sites,
        network=network,
        totals=totals,
        limits={"weight_bytes": limit},
    )
    stored = {
        site.name: site_bytes(site, found.plan[site.name], dtype="fp32", storage="fp32")
        for site in sites
    }
    assert found.costs == (pytest.approx(sum(stored.values())),)
    assert sum(stored.values()) <= limit
    assert {form.precision for form in found.plan.values()} == {INT8}
    assert any(not form.is_dense for form in found.plan.values())
    for site in sites:
        form = found.plan[site.name]
        rows = site.out_features + form.rank
        weights = site.shape(form).parameters
        assert stored[site.name] == weights + 4 * rows  # a byte for a weight, a scale for a row
