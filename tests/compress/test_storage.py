"""Storage layouts: exact bit counts, bounded errors, and checkpoints that load again."""

import pytest
import torch
from safetensors import safe_open

from autotune.compress.checkpoint import low_rank_layers, save_checkpoint
from autotune.compress.lowrank import LowRankLinear, dense_weight, low_rank_like, replace_modules
from autotune.compress.sites import find_sites
from autotune.compress.storage import remap, round_trip, unmap
from autotune.compress.storage_layouts import STORAGES, stored_bits
from autotune.core.errors import UsageError
from tests.conftest import tiny_model


def factors(n, k, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, rank, generator=generator), torch.randn(rank, k, generator=generator)


@pytest.mark.parametrize(("n", "k"), [(48, 32), (32, 48), (40, 40)])
def test_remap8_has_dobis_bits_and_half_a_step_of_error(n, k):
    up, down = factors(n, k, 7)
    packed = remap(up, down)
    bits = 8 * packed.codes.numel() + 16 * (packed.tail.numel() + packed.scales.numel())
    assert (
        bits
        == stored_bits("remap8", in_features=k, out_features=n, rank=7)
        == 16 * 7 * max(n, k) + 32 * 7
    )
    got_up, got_down = unmap(packed, out_features=n, in_features=k)
    assert got_up.shape == up.shape
    assert got_down.shape == down.shape
    scales = packed.scales.float().max(0).values
    assert ((got_up - up).abs() <= 0.51 * scales + 1e-3).all()
    assert ((got_down - down).abs() <= 0.51 * scales[:, None] + 1e-3).all()
    again = round_trip("remap8", up=got_up, down=got_down)
    assert torch.allclose(again[0], got_up, atol=1e-6)


def test_remap8_survives_empty_and_huge_columns():
    up, down = factors(8, 6, 3)
    up[:, 1], down[1] = 0.0, 0.0
    up[0, 2] = 3e4
    got_up, got_down = unmap(remap(up, down), out_features=8, in_features=6)
    assert torch.isfinite(got_up).all()
    assert (got_up[:, 1] == 0).all()
    assert (got_down[1] == 0).all()
    assert float(got_up[0, 2]) == pytest.approx(3e4, rel=2e-2)


def test_bits_of_the_others_and_unknown_names():
    assert stored_bits("fp32", in_features=10, out_features=20, rank=3) == 32 * 90
    assert (
        stored_bits("bf16", in_features=10, out_features=20, rank=3)
        == stored_bits("fp16", in_features=10, out_features=20, rank=3)
        == 16 * 90
    )
    with pytest.raises(UsageError, match="known are fp32, fp16, bf16, remap8"):
        stored_bits("int3", in_features=10, out_features=20, rank=3)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_stored_checkpoint_loads_as_what_it_stores(kind, storage, tmp_path):
    model = tiny_model(kind)
    layers = {}
    for site in find_sites(model).sites:
        weight = dense_weight(model.get_submodule(site.name))
        up, down = factors(*weight.shape, 8, seed=len(layers))
        up, down = round_trip(storage, up=up * 0.05, down=down * 0.05)
        layers[site.name] = low_rank_like(model.get_submodule(site.name), up=up, down=down)
    replace_modules(model, layers)
    model.eval()
    save_checkpoint(model, None, folder=tmp_path / "one", storage=storage)
    assert all(isinstance(m, LowRankLinear) for m in low_rank_layers(model).values())
    ids = torch.randint(0, 101, (2, 9))
    loaded = type(model).from_pretrained(tmp_path / "one").eval()
    assert low_rank_layers(loaded).keys() == layers.keys()
    with torch.no_grad():
        assert torch.allclose(loaded(ids)[0], model(ids)[0], atol=1e-6)
    with safe_open(tmp_path / "one" / "model.safetensors", framework="pt") as file:
        bits = sum(
            file.get_tensor(key).numel() * file.get_tensor(key).element_size() * 8
            for key in file.keys()  # noqa: SIM118
            if any(
                key.endswith(f"{name}.weight{part}")
                for name in layers
                for part in ("", "_down", "_tail", "_scales")
            )
        )
    wanted = sum(
        stored_bits(storage, in_features=m.in_features, out_features=m.out_features, rank=m.rank)
        for m in layers.values()
    )
    assert bits == wanted
    # Saved again it is whole precision, and still the same model.
    loaded.save_pretrained(tmp_path / "two")
    again = type(model).from_pretrained(tmp_path / "two").eval()
    with torch.no_grad():
        assert torch.equal(again(ids)[0], loaded(ids)[0])
