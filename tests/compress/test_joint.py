"""Layers with one input and one down factor: the mathematics, the modules, what is written."""

import copy

import onnx
import pytest
import torch
from torch import nn

from autotune.compress.checkpoint import low_rank_layers, save_checkpoint
from autotune.compress.factorizers.truncated import factorize, factorize_together
from autotune.compress.factors import FactorStore, build_factor_store, build_layers
from autotune.compress.lowrank import (
    SharedLowRankLinear,
    replaced,
    shared_low_rank_like,
)
from autotune.compress.metrics import METRICS, make_metric
from autotune.compress.metrics.base import Whitening, damped_root
from autotune.compress.onnx_export import export_dense
from autotune.compress.onnx_rewrite import check_low_rank, rewrite_low_rank
from autotune.compress.sites import count_tokens, find_sites
from autotune.compress.statistics import collect_statistics
from autotune.core.errors import ModelError
from autotune.core.forms import low_rank
from autotune.core.types import Workload
from tests.compress.test_onnx import WORKLOAD, assert_parity
from tests.conftest import tiny_model, tiny_task

OUT = (24, 8, 16)


def problem(seed=0, k=20):
    """Weights (N_i, K) and roots with one right side, fp64."""
    generator = torch.Generator().manual_seed(seed)

    def gram(size):
        x = torch.randn(size, 2 * size, generator=generator, dtype=torch.float64)
        return damped_root(x @ x.T, 1e-3)

    right = gram(k)
    weights = [torch.randn(n, k, generator=generator, dtype=torch.float64) for n in OUT]
    roots = [Whitening(left=gram(n), right=right, scale=0.5 + i) for i, n in enumerate(OUT)]
    return weights, roots


def error(weights, roots, ups, down):
    return sum(
        root.scale * float((root.left.T @ (w - up @ down) @ root.right).square().sum())
        for w, root, up in zip(weights, roots, ups, strict=True)
    )


@pytest.mark.parametrize("rank", [1, 5, 13, 20])
def test_the_shared_factor_is_the_optimum_of_the_summed_errors(rank):
    """Its error is what it says, and alternating least squares from elsewhere finds no better."""
    weights, roots = problem()
    result = factorize_together(weights, roots)
    up, down = result.factors(rank)
    ups = up.split(OUT)
    assert error(weights, roots, ups, down) == pytest.approx(float(result.errors[rank]), rel=1e-9)
    generator = torch.Generator().manual_seed(rank)
    gram = roots[0].right @ roots[0].right.T
    other = torch.randn(rank, 20, generator=generator, dtype=torch.float64)
    for _ in range(300):
        found = [w @ gram @ other.T @ torch.linalg.pinv(other @ gram @ other.T) for w in weights]
        h = [r.scale * r.left @ r.left.T for r in roots]
        left = sum(u.T @ m @ u for u, m in zip(found, h, strict=True))
        right = sum(u.T @ m @ w for u, m, w in zip(found, h, weights, strict=True))
        other = torch.linalg.pinv(left) @ right
    reached = error(weights, roots, found, other)
    assert reached >= float(result.errors[rank]) * (1 - 1e-9)
    assert reached == pytest.approx(float(result.errors[rank]), rel=1e-3, abs=1e-9)


def test_one_layer_alone_and_full_rank_are_what_they_must_be():
    weights, roots = problem()
    alone, single = factorize_together(weights[:1], roots[:1]), factorize(weights[0], roots[0])
    assert torch.allclose(alone.errors, single.errors, rtol=1e-10)
    up, down = factorize_together(weights, roots).factors(20)
    for weight, part in zip(weights, up.split(OUT), strict=True):
        assert torch.allclose(part @ down, weight, rtol=1e-10, atol=1e-10)


def test_a_layer_that_costs_nothing_keeps_its_weight_at_full_rank():
    weights, roots = problem()
    free = [roots[0], Whitening(left=None, right=roots[0].right, scale=0.0), roots[2]]
    up, down = factorize_together(weights, free).factors(20)
    for weight, part in zip(weights, up.split(OUT), strict=True):
        assert torch.allclose(part @ down, weight, atol=1e-6)


@pytest.fixture(params=["llama", "bert"])
def found(request):
    model, task = tiny_model(request.param), tiny_task(request.param)
    model.requires_grad_(False)
    inputs = task.example_inputs(model, WORKLOAD)
    return request.param, model, task, count_tokens(model, find_sites(model), inputs=inputs), inputs


def test_layers_with_one_input_are_found(found):
    kind, _, _, sites, _ = found
    leaves = [site.name.rpartition(".")[2] for site in sites.joint]
    wanted = {"llama": ["q_proj+k_proj+v_proj", "gate_proj+up_proj"], "bert": ["query+key+value"]}
    assert leaves == wanted[kind] * 2
    for joint in sites.joint:
        members = [site for site in sites.sites if site.name in joint.members]
        assert joint.parts == tuple(site.out_features for site in members)
        assert joint.out_features == sum(joint.parts)


def test_no_group_where_the_input_was_changed_or_belongs_to_another_module():
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(64, 64) for _ in range(3))
            self.inner = nn.Sequential(nn.Linear(64, 64))

        def forward(self, x):
            x = x * 1.0
            y = self.a(x) + self.b(x) + self.inner(x)
            return y + self.c(x.add_(1.0))

    model = Changed()
    sites = count_tokens(model, find_sites(model), inputs={"x": torch.ones(5, 64)})
    assert [site.members for site in sites.joint] == [("a", "b")]


def factor_store(found, metric, path):
    _, model, task, sites, inputs = found
    metric = make_metric(metric)
    batches = [{**inputs, "labels": inputs["input_ids"]}] if "labels" in inputs else [inputs]
    statistics = collect_statistics(
        model, sites.sites, task=task, batches=batches * 2, kinds=metric.moments
    )
    build_factor_store(
        model, sites.sites, path=path, metric=metric, statistics=statistics, joint=sites.joint
    )
    return FactorStore(path)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_gives_joint_errors_on_the_scale_of_the_members(found, name, tmp_path):
    """At rank 0 they are the members' together; at a rank r no better than r for each member."""
    _, _, _, sites, _ = found
    factors = factor_store(found, name, tmp_path / "f.safetensors")
    loss_units = make_metric(name).in_loss_units
    by_name = {site.name: site for site in sites.sites}
    for joint in sites.joint:
        errors = factors.errors(joint)
        own = [factors.errors(by_name[member]) for member in joint.members]
        own = [e if loss_units else e / e[0] for e in own]
        assert float(errors[0]) == pytest.approx(sum(float(e[0]) for e in own), rel=1e-9)
        assert (errors[:-1] >= errors[1:] - 1e-15).all()
        if name != "kfac-seq":  # there the members' own input sides differ from the pooled one
            shortest = min(len(e) for e in own)
            together = sum(e[:shortest] for e in own)
            assert (errors[:shortest] >= together * (1 - 1e-6) - 1e-12).all()


@torch.no_grad()
def test_the_layers_compute_the_factors_and_the_latent_once(found, tmp_path, monkeypatch):
    _, model, task, sites, inputs = found
    factors = factor_store(found, "kfac", tmp_path / "f.safetensors")
    plan = {joint.name: low_rank(16) for joint in sites.joint}
    layers = build_layers(model, (*sites.sites, *sites.joint), factors=factors, plan=plan)
    dense = {
        name: nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        for name, layer in layers.items()
    }
    for name, layer in layers.items():
        dense[name].weight.data = layer.weight @ layer.weight_down
        if layer.bias is not None:
            dense[name].bias.data = layer.bias.data
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with replaced(model, dense):
        expected = task.output(model, inputs)
    calls = []
    real = nn.functional.linear
    monkeypatch.setattr(
        "autotune.compress.lowrank.functional.linear",
        lambda x, w, *rest: (calls.append(w.shape), real(x, w, *rest))[1],
    )
    with replaced(model, layers):
        assert torch.allclose(task.output(model, inputs), expected, atol=1e-5)
    downs = [layers[joint.members[0]].weight_down.shape for joint in sites.joint]
    assert sum(shape in downs for shape in calls) == len(sites.joint)
    assert all(layer.__dict__.get("_kept") is None for layer in layers.values())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert set(after) == set(before)


def three_layers():
    modules = [nn.Linear(12, n) for n in OUT]
    generator = torch.Generator().manual_seed(3)
    ups = [torch.randn(n, 4, generator=generator) for n in OUT]
    return shared_low_rank_like(modules, ups=ups, down=torch.randn(4, 12, generator=generator))


def direct(layer, x):
    return x @ layer.weight_down.T @ layer.weight.T + layer.bias


def test_a_kept_latent_is_never_taken_for_another_input():
    leader, first, second = three_layers()
    x, y = torch.randn(5, 12), torch.randn(5, 12)
    leader(x)
    assert torch.allclose(first(y), direct(first, y), atol=1e-5)
    leader(x)
    x += 1.0  # the same object, other values
    assert torch.allclose(first(x), direct(first, x), atol=1e-5)
    with torch.no_grad():
        leader(x)
    assert second(x).requires_grad
    with torch.inference_mode():
        z = torch.randn(5, 12)
        leader(z)
        assert torch.allclose(first(z), direct(first, z), atol=1e-5)


def test_gradients_reach_the_shared_factor_from_every_layer():
    layers = three_layers()
    x = torch.randn(5, 12)
    sum(layer(x).square().sum() for layer in layers).backward()
    shared = layers[0].weight_down.grad.clone()
    layers[0].weight_down.grad = None
    sum(direct(layer, x).square().sum() for layer in layers).backward()
    assert torch.allclose(shared, layers[0].weight_down.grad, rtol=1e-4)


def test_a_copy_has_its_own_leader():
    module = nn.ModuleList(three_layers())
    x = torch.randn(5, 12)
    module[0](x)  # keeps a latent, which needs a gradient: no tensor that deepcopy would accept
    other = copy.deepcopy(module)
    other[0].weight_down.data.zero_()
    assert other[1].leader is other[0]
    assert torch.equal(other[1](x), other[1].bias.expand(5, -1))
    assert torch.allclose(module[1](x), direct(module[1], x), atol=1e-5)
    assert [name for name, _ in module.named_parameters()].count("0.weight_down") == 1
    assert not any("leader" in name or "1.weight_down" in name for name in module.state_dict())


def test_a_checkpoint_comes_back_bit_equal(found, tmp_path):
    _, model, task, sites, _ = found
    factors = factor_store(found, "kfac", tmp_path / "f.safetensors")
    plan = {sites.joint[0].name: low_rank(16), sites.sites[-1].name: low_rank(8)}
    layers = build_layers(model, (*sites.sites, *sites.joint), factors=factors, plan=plan)
    inputs = task.example_inputs(model, Workload(batch_size=2, sequence_length=9))
    with replaced(model, layers), torch.no_grad():
        expected = task.output(model, inputs)
        save_checkpoint(model, None, folder=tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(task.output(again, inputs), expected)
    shared = [n for n, m in low_rank_layers(again).items() if isinstance(m, SharedLowRankLinear)]
    assert shared == list(sites.joint[0].members[1:])
    save_checkpoint(again, None, folder=tmp_path / "twice")
    with torch.no_grad():
        assert torch.equal(
            task.output(type(model).from_pretrained(tmp_path / "twice"), inputs), expected
        )


def test_a_config_whose_leader_is_missing_is_refused(found, tmp_path):
    import json

    _, model, _, sites, _ = found
    factors = factor_store(found, "kfac", tmp_path / "f.safetensors")
    layers = build_layers(
        model, sites.joint, factors=factors, plan={sites.joint[0].name: low_rank(16)}
    )
    with replaced(model, layers):
        save_checkpoint(model, None, folder=tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]["layers"][sites.joint[0].members[0]]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no leader"):
        type(model).from_pretrained(tmp_path / "saved")


@pytest.mark.slow
def test_the_graph_has_one_product_for_the_shared_factor(found, tmp_path):
    kind, model, task, sites, _ = found
    export_dense(
        model,
        task,
        sites=[site.name for site in sites.sites],
        workload=WORKLOAD,
        path=tmp_path / "dense.onnx",
    )
    factors = factor_store(found, "kfac", tmp_path / "f.safetensors")
    plan = {joint.name: low_rank(16) for joint in sites.joint}
    layers = build_layers(model, (*sites.sites, *sites.joint), factors=factors, plan=plan)
    path = tmp_path / "low.onnx"
    rewrite_low_rank(tmp_path / "dense.onnx", layers, path=path, metadata={})
    with replaced(model, layers):
        assert_parity(path, model, task, kind)
    graph = onnx.load(path).graph
    downs = [node.name for node in graph.node if node.name.endswith(".down")]
    assert downs == [f"{joint.members[0]}.down" for joint in sites.joint]
    for node in graph.node:
        if node.name == downs[0].removesuffix(".down"):
            node.input[0] = "elsewhere"
    broken = onnx.ModelProto(graph=graph)
    with pytest.raises(ModelError, match="not two matrix products"):
        check_low_rank(broken, layers)


@pytest.mark.parametrize(
    "zeros", [["v_proj"], ["q_proj"], ["q_proj", "k_proj"], ["q_proj", "k_proj", "v_proj"]]
)
@pytest.mark.parametrize("metric", sorted(METRICS))
def test_a_member_of_zeros_has_no_part_in_the_scale(tmp_path, metric, zeros):
    """The factors are finite, and the error is that of the members that have one."""
    model = tiny_model("qwen2")
    for name in zeros:
        getattr(model.model.layers[0].self_attn, name).weight.data.zero_()
    model.requires_grad_(False)
    ids = torch.randint(0, 101, (8, 16), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    sites = count_tokens(model, find_sites(model), inputs=batches[0])
    chosen = make_metric(metric)
    statistics = collect_statistics(
        model, sites.sites, task=tiny_task("qwen2"), batches=batches, kinds=chosen.moments
    )
    path = tmp_path / "factors.safetensors"
    build_factor_store(
        model,
        sites.sites,
        path=path,
        metric=chosen,
        statistics=statistics,
        joint=sites.joint,
    )
    store = FactorStore(path)
    (joint, *_) = (each for each in sites.joint if "layers.0.self_attn" in each.name)
    errors = store.errors(joint)
    assert torch.isfinite(errors).all()
    if not chosen.in_loss_units:  # else also those of others, which v of zeros makes idle
        assert float(errors[0]) == pytest.approx(3 - len(zeros), rel=1e-6)
    for _, (up, down) in store.plan({joint: low_rank(8)}):
        assert torch.isfinite(up).all()
        assert torch.isfinite(down).all()
