"""The truth of simulated hardware: seeded, with cliffs, and no formula of a predictor."""

import dataclasses
import itertools
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, Form, low_rank
from autotune.core.layers import LayerShape, Site
from autotune.devices.roofline import Roofline
from autotune.testing.hardware import PRESETS, simulated_hardware
from autotune.testing.kernels import Tile, misalignment, overlapped, wave_count
from tests.forms import form_of

CPU, GPU = simulated_hardware("cpu-like"), simulated_hardware("h200-like")
SIZES = st.integers(1, 64).map(lambda i: 64 * i)


def layer(rank=None, tokens=2048, k=4096, n=4096, dtype="bf16", parts=()):
    return LayerShape(
        tokens=tokens, in_features=k, out_features=n, form=form_of(rank), dtype=dtype, parts=parts
    )


def network(width, tokens, blocks=4):
    """Attention and a feed-forward pair in every block, with a joint site for q, k and v."""
    sites = []
    for block in range(blocks):
        for name in ("q", "k", "v", "o", "up", "down"):
            k = 4 * width if name == "down" else width
            n = 4 * width if name == "up" else width
            sites.append(
                Site(
                    name=f"{block}.{name}",
                    in_features=k,
                    out_features=n,
                    tokens=tokens,
                    block=block,
                )
            )
    return sites


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), tokens=st.integers(1, 4096), k=SIZES, n=SIZES)
def test_the_same_seed_is_the_same_machine(preset, seed, tokens, k, n):
    one, two = (simulated_hardware(preset, seed=seed) for _ in range(2))
    shape = LayerShape(tokens=tokens, in_features=k, out_features=n, dtype=one.default_dtype)
    assert one.layer_latency_s(shape) == two.layer_latency_s(shape) > 0
    assert one.identity == two.identity
    other = simulated_hardware(preset, seed=seed + 1)
    assert other.layer_latency_s(shape) != one.layer_latency_s(shape)
    assert other.identity != one.identity


def test_the_truth_is_the_same_in_another_process():
    code = (
        "from autotune.testing.hardware import simulated_hardware\n"
        "from autotune.core.forms import low_rank\n"
        "from autotune.core.layers import LayerShape\n"
        "sizes = dict(tokens=77, in_features=640, out_features=384)\n"
        "shape = LayerShape(**sizes, form=low_rank(48), dtype='bf16')\n"
        "print(repr(simulated_hardware('h200-like', seed=5).layer_latency_s(shape)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shape = layer(48, 77, 640, 384)
    assert float(done.stdout) == simulated_hardware("h200-like", seed=5).layer_latency_s(shape)


def test_simulation_needs_neither_pytest_nor_torch():
    code = (
        "import json, sys\n"
        "import autotune.testing.hardware, autotune.testing.disturbance\n"
        "import autotune.testing.replay, autotune.testing.runner\n"
        "print(json.dumps([n for n in ('pytest', 'torch', 'transformers') if n in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), multiple=st.integers(40, 240), off=st.integers(1, 7))
def test_every_unaligned_rank_is_past_the_cliff(seed, multiple, off):
    """At 2048 tokens of a 4096 x 4096 layer, on a GPU: exact, at every multiple of 8 ranks."""
    hardware = simulated_hardware("h200-like", seed=seed)
    rank = 8 * multiple
    aligned = hardware.layer_latency_s(layer(rank))
    assert hardware.layer_latency_s(layer(rank + off)) > 2 * aligned
    assert hardware.layer_latency_s(layer(rank + 8)) < 1.6 * aligned


def test_a_cliff_is_as_high_as_asked():
    for factor in (2.0, 8.0):
        hardware = simulated_hardware("h200-like", cliff_factor=factor, texture=0.0)
        aligned, odd = (hardware.layer_latency_s(layer(rank)) for rank in (1024, 1023))
        assert odd / aligned == pytest.approx(factor, rel=0.1)
    flat = simulated_hardware("h200-like", cliff_factor=1.0, texture=0.0)
    assert flat.layer_latency_s(layer(1023)) == pytest.approx(
        flat.layer_latency_s(layer(1024)), rel=0.02
    )


def test_latency_is_a_staircase():
    """Ranks within one tile and wave cost the same arithmetic; the next step costs more."""
    hardware = simulated_hardware("h200-like", texture=0.0)
    seconds = [hardware.layer_latency_s(layer(rank)) for rank in range(64, 1025, 8)]
    steps = [b / a for a, b in itertools.pairwise(seconds)]
    assert max(steps) > 1.05
    assert sum(step < 1.02 for step in steps) > 0.8 * len(steps)
    assert (
        wave_count(
            2048, 4096, tile=Tile(rows=128, columns=128, depth=64, efficiency=1.0), cores=132
        )
        == 4
    )
    assert (
        wave_count(
            2049, 4096, tile=Tile(rows=128, columns=128, depth=64, efficiency=1.0), cores=132
        )
        == 5
    )


def test_few_tokens_gain_nothing_from_fewer_arithmetic_operations():
    """16 tokens: half the bytes, and not nearly half the time, as measured on an H200."""
    dense, half = (GPU.layer_latency_s(layer(rank, tokens=16)) for rank in (None, 1024))
    assert half / dense > 0.7
    assert GPU.layer_latency_s(layer(1024)) / GPU.layer_latency_s(layer()) < 0.85


@settings(max_examples=60, deadline=None)
@given(
    preset=st.sampled_from(sorted(PRESETS)),
    tokens=st.integers(1, 4096),
    k=SIZES,
    n=SIZES,
    rank=st.integers(0, 32).map(lambda i: 16 * i),
)
def test_nothing_beats_the_data_sheet(preset, tokens, k, n, rank):
    hardware = simulated_hardware(preset, seed=tokens)
    shape = LayerShape(
        tokens=tokens,
        in_features=k,
        out_features=n,
        form=form_of(rank),
        dtype=hardware.default_dtype,
    )
    best_s = shape.flops / hardware.peak_flops[shape.dtype]
    assert hardware.layer_latency_s(shape) > best_s
    roofline = Roofline.of(hardware.spec, hardware.cores)
    assert roofline.peak(shape.dtype) == pytest.approx(hardware.peak_flops[shape.dtype])


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=lambda h: h.name)
def test_a_pair_is_not_the_sum_of_its_products(hardware):
    """Which is how predictor/products prices it: the intermediate result stays in the cache."""
    dtype = hardware.default_dtype
    for tokens in (16, 512):
        pair, down, up = (
            hardware.layer_latency_s(each)
            for each in (
                layer(256, tokens, 1024, 1024, dtype),
                layer(None, tokens, 1024, 256, dtype),
                layer(None, tokens, 256, 1024, dtype),
            )
        )
        assert pair < down + up
        assert pair > 0.5 * (down + up)


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=lambda h: h.name)
@pytest.mark.parametrize("tokens", [8, 1024])
@pytest.mark.parametrize("width", [384, 1024])
def test_the_network_is_not_what_the_predictor_adds_up(hardware, tokens, width):
    """latency = dense · (1 + Σ share · (ratio − 1)) misses the truth: layers interact."""
    dtype, sites = hardware.default_dtype, network(width, tokens)
    plan = {site.name: low_rank(width // 8 // 16 * 16) for site in sites[: len(sites) // 2]}
    dense_s = hardware.network_latency_s(sites, {}, dtype=dtype)
    truth = hardware.network_latency_s(sites, plan, dtype=dtype) / dense_s
    added = 1.0
    for site in sites:
        if site.name in plan:
            own = hardware.layer_latency_s(site.shape(DENSE, dtype))
            ours = hardware.layer_latency_s(site.shape(plan[site.name], dtype))
            added += (ours - own) / dense_s
    assert truth != pytest.approx(added, abs=2e-3)
    assert truth == pytest.approx(added, abs=0.25)  # but it tells something


def test_sites_interact():
    """What one site saves depends on the others: no sum over sites gives that, with any shares."""
    for hardware, width, tokens in ((CPU, 768, 8), (GPU, 2048, 64), (GPU, 2048, 1024)):
        dtype, sites = hardware.default_dtype, network(width, tokens)
        one, two = {sites[0].name: low_rank(96)}, {site.name: low_rank(96) for site in sites[1:]}
        seconds = [
            hardware.network_latency_s(sites, plan, dtype=dtype)
            for plan in ({}, one, two, {**one, **two})
        ]
        alone, beside = seconds[0] - seconds[1], seconds[2] - seconds[3]
        assert abs(alone - beside) > 0.1 * abs(alone)


def test_a_network_that_fits_the_cache_reads_faster():
    """The same plan saves more once the rest of the weights stay in the cache."""
    sites = network(768, 1)
    roomy = dataclasses.replace(CPU, cache_bytes=1e9)
    assert roomy.network_latency_s(sites, {}) < 0.8 * CPU.network_latency_s(sites, {})


def test_phases_have_rests_of_their_own():
    sites = network(384, 16)
    prefill, decode = (
        CPU.network_latency_s(sites, {}, phase=phase) for phase in ("prefill", "decode")
    )
    assert prefill == pytest.approx(decode * (1 - 0.3) / (1 - 0.2))
    with pytest.raises(UsageError, match="unknown phase 'request'; cpu-like knows prefill, decode"):
        CPU.network_latency_s(sites, {}, phase="request")


def test_a_joint_site_stands_for_its_members():
    sites = network(384, 64, blocks=1)
    members = tuple(site.name for site in sites[:3])
    joint = Site(
        name="qkv",
        in_features=384,
        out_features=3 * 384,
        tokens=64,
        block=0,
        members=members,
        parts=(384, 384, 384),
    )
    dense = CPU.network_latency_s(sites, {})
    assert CPU.network_latency_s([*sites, joint], {}) == dense
    assert CPU.network_latency_s([*sites, joint], {"qkv": DENSE}) == dense
    together = CPU.network_latency_s([*sites, joint], {"qkv": low_rank(64)})
    apart = CPU.network_latency_s(sites, dict.fromkeys(members, low_rank(64)))
    assert together < apart < dense


def test_mistakes_are_refused():
    with pytest.raises(UsageError, match="unknown preset 'tpu'; known are cpu-like, h200-like"):
        simulated_hardware("tpu")
    with pytest.raises(UsageError, match="unknown setting 'speed' of cpu-like; known are band"):
        simulated_hardware("cpu-like", speed=3)
    with pytest.raises(UsageError, match="cores must be above 0, got 0"):
        simulated_hardware("cpu-like", cores=0)
    with pytest.raises(UsageError, match="kind must be cpu or cuda"):
        simulated_hardware("cpu-like", kind="tpu")
    with pytest.raises(UsageError, match="has no bf16; it knows fp32"):
        CPU.layer_latency_s(layer())
    with pytest.raises(UsageError, match=r"plain factors.*rank=64:pivoted"):
        CPU.network_latency_s(network(384, 8)[:1], {"0.q": Form(rank=64, structure="pivoted")})


def test_misalignment_and_the_knee():
    assert [misalignment(size, 8) for size in (16, 12, 10, 9)] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert misalignment(7, 1) == 0.0
    assert overlapped(0.0, 0.0) == 0.0
    assert overlapped(1.0, 1.0) == pytest.approx(2**0.25)
    assert overlapped(1.0, 1e-3) == pytest.approx(1.0)
