"""Streamed moments against the same moments computed from everything at once."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from autotune.compress.sites import count_tokens, find_sites
from autotune.compress.statistics import collect_statistics, load_statistics, save_statistics
from autotune.compress.tasks.base import MASK
from autotune.core.errors import ModelError
from autotune.core.types import Workload
from tests.conftest import tiny_model, tiny_task

ALL = frozenset({"gram", "grad", "left", "right"})


def text_batches(count=3, sequences=4, length=12, masked=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        ids = torch.randint(0, 101, (sequences, length), generator=generator)
        mask = torch.ones_like(ids)
        if masked:
            mask[0, length // 2 :] = 0
        batches.append({"input_ids": ids, MASK: mask})
    return batches


def collect(model, task, batches, kinds=ALL, seed=0):
    sites = find_sites(model).sites
    return sites, collect_statistics(
        model, sites, task=task, batches=batches, kinds=kinds, seed=seed
    )


@pytest.fixture
def bert():
    model = tiny_model("bert").double()
    model.requires_grad_(False)
    return model, tiny_task("bert")


def inputs_of(model, name, batches):
    rows = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _m, a: rows.append(a[0]))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    hook.remove()
    return torch.cat([r[b[MASK].bool()] for r, b in zip(rows, batches, strict=True)])


def test_grams_equal_the_direct_product_without_padding(bert):
    model, task = bert
    batches = text_batches()
    sites, statistics = collect(model, task, batches, frozenset({"gram"}))
    for site in sites:
        x = inputs_of(model, site.name, batches)
        assert torch.allclose(statistics.moment("gram", site), x.T @ x / len(x), rtol=1e-10)


def test_sites_with_one_input_share_one_gram(bert):
    model, task = bert
    _, statistics = collect(model, task, text_batches(), frozenset({"gram"}))
    prefix = "encoder.layer.0.attention.self."
    owners = {statistics.input_group[prefix + part] for part in ("query", "key", "value")}
    assert owners == {prefix + "query"}
    assert f"gram:{prefix}key" not in statistics.moments
    assert len([k for k in statistics.moments if k.startswith("gram:")]) == 8


def test_moments_do_not_depend_on_how_data_is_batched(bert):
    model, task = bert
    (batch,) = text_batches(1, sequences=6)
    single = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(6)]
    sites, one = collect(model, task, [batch])
    _, many = collect(model, task, single)
    # One random projection is drawn per sequence in the same order, so even H agrees.
    for site in sites:
        for kind in ALL:
            assert torch.allclose(
                one.moment(kind, site), many.moment(kind, site), rtol=1e-8, atol=1e-14
            )


def test_sequence_moments_equal_autograds_weight_gradients(bert):
    """L = mean J Jᵀ and R = mean Jᵀ J with J from autograd, one sequence at a time."""
    model, task = bert
    (batch,) = text_batches(1, sequences=3)
    sites, statistics = collect(model, task, [batch], frozenset({"left", "right"}))
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(3, 64, generator=generator)
    model.requires_grad_(True)
    for site in (sites[0], sites[5], sites[-1]):
        weight = model.get_submodule(site.name).weight
        left = right = 0
        for i in range(3):
            one = {k: v[i : i + 1] for k, v in batch.items()}
            embedded = task.embed(task.output(model, one), one)
            (j,) = torch.autograd.grad((embedded * direction[i]).sum(), weight)
            left, right = left + j @ j.T, right + j.T @ j
        # The embedding is compared in fp32, so gradients agree to fp32.
        scale = float(torch.as_tensor(left).abs().max())
        assert torch.allclose(
            statistics.moment("left", site), left / 3, rtol=1e-4, atol=1e-6 * scale
        )
        scale = float(torch.as_tensor(right).abs().max())
        assert torch.allclose(
            statistics.moment("right", site), right / 3, rtol=1e-4, atol=1e-6 * scale
        )
        assert float(statistics.moment("left", site).trace()) == pytest.approx(
            float(statistics.moment("right", site).trace()), rel=1e-6
        )


def test_sampled_labels_give_the_true_fisher():
    """For softmax regression the Fisher of the logits is diag(p) − p pᵀ exactly."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(40, 33)

        def forward(self, input_ids, attention_mask, use_cache=False):
            from types import SimpleNamespace

            x = nn.functional.one_hot(input_ids, 40).float()
            return SimpleNamespace(logits=self.linear(x))

    torch.manual_seed(0)
    model = Tiny()
    model.requires_grad_(False)
    ids = torch.full((8, 4096), 3)
    batch = {"input_ids": ids, MASK: torch.ones_like(ids)}
    sites, statistics = collect(model, tiny_task("llama"), [batch], frozenset({"grad"}))
    p = (model.linear.weight[:, 3] + model.linear.bias).softmax(0).double()
    fisher = torch.diag(p) - torch.outer(p, p)
    measured = statistics.moment("grad", sites[0])
    assert float((measured - fisher).abs().max()) < 4 * float((p.max() / ids.numel()).sqrt())
    assert statistics.rows_per_item["linear"] == 1.0


def test_statistics_survive_the_disk(bert, tmp_path):
    model, task = bert
    sites, statistics = collect(model, task, text_batches())
    save_statistics(statistics, tmp_path / "s.safetensors")
    again = load_statistics(tmp_path / "s.safetensors")
    assert again.rows_per_item == statistics.rows_per_item
    for site in sites:
        for kind in ALL:
            assert torch.equal(again.moment(kind, site), statistics.moment(kind, site))
    assert all(t.dtype == torch.float64 for t in load_file(tmp_path / "s.safetensors").values())


def test_non_finite_activations_are_refused_by_name(bert):
    model, task = bert
    with torch.no_grad():
        model.encoder.layer[1].intermediate.dense.bias[3] = float("inf")
    with pytest.raises(ModelError, match=r"not finite"):
        collect(model, task, text_batches(), frozenset({"gram"}))


def test_a_texts_mask_is_not_taken_for_its_pictures():
    """Both towers see 17 rows a sample; only the text's are padded."""
    model, task = tiny_model("clip").requires_grad_(False), tiny_task("clip")
    inputs = task.example_inputs(model, Workload(batch_size=2, sequence_length=17))
    inputs["attention_mask"][0, 9:] = 0
    sites = count_tokens(model, find_sites(model), inputs=inputs).sites
    rows = collect_statistics(
        model, sites, task=task, batches=[inputs], kinds=frozenset({"gram"})
    ).rows
    assert {rows[site.name] for site in sites if site.name.startswith("text")} == {9 + 17}
    assert {rows[site.name] for site in sites if site.name.startswith("vision")} == {2 * 17}


class InPlace(nn.Module):
    """A layer whose output is changed in place, as some models do."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden):
        output = self.layer(hidden)
        output /= 2.0
        return output


def test_an_output_that_is_changed_in_place_has_its_gradient(bert):
    model, task = bert
    query = model.encoder.layer[0].attention.self.query
    _, plain = collect(model, task, text_batches(1))
    model.encoder.layer[0].attention.self.query = InPlace(query)
    with torch.no_grad():
        query.weight *= 2.0
        query.bias *= 2.0
    _, changed = collect(model, task, text_batches(1))
    name = "encoder.layer.0.attention.self.query"
    expected = plain.moments[f"left:{name}"] / 4  # of half the gradient, squared
    assert torch.allclose(changed.moments[f"left:{name}.layer"], expected)


def test_a_site_that_no_gradient_reaches_is_named(bert):
    model, task = bert
    layer = model.encoder.layer[1].output.dense
    layer.register_forward_hook(lambda _module, _args, output: output.detach())
    with pytest.raises(ModelError, match="no gradient reaches encoder"):
        collect(model, task, text_batches(1))
    found = collect(model, task, text_batches(1), kinds=frozenset({"gram"}))
    assert found[1].moments


def test_a_model_without_gradients_is_refused(bert):
    model, task = bert
    model.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no backward")))
    with pytest.raises(ModelError, match=r"no statistics can be collected .*: no backward; choose"):
        collect(model, task, text_batches(1))


def test_hooks_are_gone_afterwards(bert):
    model, task = bert
    collect(model, task, text_batches(1))
    assert not any(m._forward_hooks for m in model.modules())


def test_tokens_are_counted_per_site(tiny):
    kind, model, task = tiny
    workload = Workload(batch_size=3, sequence_length=10)
    sites = count_tokens(model, find_sites(model), inputs=task.example_inputs(model, workload))
    expected = 3 * 17 if kind == "vit" else 30
    assert {site.tokens for site in sites.sites} == {expected}
