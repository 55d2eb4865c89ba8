"""Bias, Conv1D, grouped queries, tied weights, vision and two towers: exact at full rank."""

import pytest
import torch

from autotune.compress.factorizers.truncated import factorize
from autotune.compress.lowrank import dense_weight, low_rank_like, replace_modules
from autotune.compress.metrics.base import Whitening
from autotune.compress.sites import find_sites
from tests.conftest import tiny_model

PLAIN = Whitening(left=None, right=None, scale=1.0)


def build(kind):
    return tiny_model(kind).double()


def outputs(kind, model):
    ids = torch.randint(3, 101, (2, 9), generator=torch.Generator().manual_seed(1))
    pixels = torch.randn(
        2, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    with torch.no_grad():
        if kind == "clip":
            out = model(input_ids=ids, pixel_values=pixels)
            return torch.cat([out.text_embeds, out.image_embeds])
        return model(pixels)[0] if kind == "vit" else model(ids)[0]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "qwen2", "vit", "clip"])
def test_full_rank_is_exact_and_what_cannot_be_a_site_says_why(kind):
    model = build(kind)
    expected = outputs(kind, model)
    found = find_sites(model)
    layers = {}
    for site in found.sites:
        module = model.get_submodule(site.name)
        weight = dense_weight(module)
        result = factorize(weight, PLAIN)
        up, down = result.factors(min(weight.shape))
        layers[site.name] = low_rank_like(module, up=up, down=down)
        assert (layers[site.name].bias is not None) == site.has_bias
    replace_modules(model, layers)
    got = outputs(kind, model)
    assert float((got - expected).norm() / expected.norm()) <= 1e-10
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert set(linear) <= set(found.left_out)
    assert all(reason for reason in found.left_out.values())


def test_the_shapes_that_break_published_code():
    sites = {s.name: s for s in find_sites(build("qwen2")).sites}
    key = sites["model.layers.0.self_attn.k_proj"]
    assert (key.in_features, key.out_features, key.has_bias) == (64, 32, True)
    towers = {s.name.split("_model")[0] for s in find_sites(build("clip")).sites}
    assert towers == {"text", "vision"}
    assert "tied" in find_sites(build("llama")).left_out["lm_head"]
