import pytest
import torch
from torch import nn

from autotune.compress.factorizers.truncated import factorize
from autotune.compress.lowrank import LowRankLinear, dense_weight, low_rank_like, replace_modules
from autotune.compress.metrics.base import Whitening
from autotune.compress.sites import count_tokens, find_sites, kv_cache_bytes
from autotune.core.errors import ModelError, UsageError
from autotune.core.types import Workload
from tests.conftest import tiny_model, tiny_task

PER_BLOCK = {"bert": 6, "gpt2": 4, "llama": 7, "vit": 6}


def test_sites_of_every_architecture(tiny):
    kind, model, task = tiny
    found = find_sites(model)
    found = count_tokens(
        model, found, inputs=task.example_inputs(model, Workload(sequence_length=8))
    )
    assert len(found.sites) == 2 * PER_BLOCK[kind]
    assert {site.group for site in found.sites} == {"attention", "mlp"}
    assert {site.block for site in found.sites} == {0, 1}
    for site in found.sites:
        weight = dense_weight(model.get_submodule(site.name))
        assert weight.shape == (site.out_features, site.in_features)


def test_heads_and_tied_weights_are_left_out_with_the_reason():
    assert "tied" in find_sites(tiny_model("llama")).left_out["lm_head"]
    assert find_sites(tiny_model("bert")).left_out["pooler.dense"] == "a head"


def test_targets_and_ignore():
    model = tiny_model("llama")
    only = find_sites(model, targets=[r"q_proj$"])
    assert len(only.sites) == 2
    assert "matches no target pattern" in only.left_out["model.layers.0.mlp.up_proj"]
    rest = find_sites(model, ignore=[r"layers\.0\."])
    assert {site.block for site in rest.sites} == {1}
    with pytest.raises(UsageError, match="matches no linear layer"):
        find_sites(model, targets=["nothing"])
    with pytest.raises(UsageError, match="not a regular expression"):
        find_sites(model, ignore=["("])


def test_a_model_without_linear_layers():
    with pytest.raises(ModelError, match="no linear layer"):
        find_sites(nn.Sequential(nn.Conv2d(3, 3, 3)))


def test_a_layer_that_runs_twice_or_never_is_left_out():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.once, self.never = (nn.Linear(64, 64) for _ in range(3))

        def forward(self, x):
            return self.once(self.twice(self.twice(x)))

    model = Shared()
    sites = count_tokens(model, find_sites(model), inputs={"x": torch.ones(5, 64)})
    assert [site.name for site in sites.sites] == ["once"]
    assert sites.left_out == {"twice": "runs 2 times a pass", "never": "does not run"}


@torch.no_grad()
def test_every_architecture_is_exact_at_full_rank(tiny):
    """All sites factorized at full rank, in fp64: the same outputs to 1e-10."""
    _, model, task = tiny
    model.double()
    inputs = task.example_inputs(model, Workload(batch_size=2, sequence_length=9))
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    before = task.output(model, inputs)
    layers = {}
    for site in find_sites(model).sites:
        module = model.get_submodule(site.name)
        result = factorize(dense_weight(module), Whitening(left=None, right=None, scale=1.0))
        up, down = result.factors(10**6)
        layers[site.name] = low_rank_like(module, up=up, down=down)
    replaced = replace_modules(model, layers)
    after = task.output(model, inputs)
    assert float((after - before).norm() / before.norm()) < 1e-10
    replace_modules(model, replaced)
    assert torch.equal(task.output(model, inputs), before)


def test_gradients_reach_both_factors_and_the_bias():
    layer = low_rank_like(nn.Linear(64, 48), up=torch.randn(48, 8), down=torch.randn(8, 64))
    assert isinstance(layer, LowRankLinear)
    layer(torch.randn(2, 5, 64)).square().sum().backward()
    for parameter in (layer.weight, layer.weight_down, layer.bias):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_the_dtype_of_the_layer_is_kept():
    layer = low_rank_like(
        nn.Linear(64, 48, bias=False, dtype=torch.bfloat16),
        up=torch.randn(48, 8),
        down=torch.randn(8, 64),
    )
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert layer.bias is None


def test_only_linear_layers_have_a_dense_weight():
    with pytest.raises(ModelError, match="LayerNorm is not a linear layer"):
        dense_weight(nn.LayerNorm(4))


def test_tasks_know_better_from_worse():
    """Zero loss for the model itself, more for a disturbed one."""
    for kind in ("bert", "vit"):
        model, task = tiny_model(kind), tiny_task(kind)
        batch = task.example_inputs(model, Workload(batch_size=2, sequence_length=8))
        references = task.references(model, [batch])
        assert task.mean_loss(model, [batch], references=references) == pytest.approx(0, abs=1e-6)
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        model.get_submodule(find_sites(model).sites[-1].name).weight.data.mul_(0.5)
        assert task.mean_loss(model, [batch], references=references) > 1e-4


@pytest.mark.parametrize(("dtype", "element_bytes"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_a_kv_cache_takes_the_bytes_of_its_dtype(dtype, element_bytes):
    config = tiny_model("llama").config  # 2 layers, 2 key-value heads of 16 features each
    workload = Workload(batch_size=3, sequence_length=10, output_length=5, phase="request")
    expected = 2 * 2 * 2 * 16 * 3 * (10 + 5) * element_bytes
    assert kv_cache_bytes(config, workload, dtype=dtype) == expected
