"""Whole networks on a GPU: predicted from the layer database, then measured with CUDA graphs.

    python benchmarks/network_gpu.py --database FILE [--device h200] [--dtype bf16] [--layers 8]

A Llama-3-8B-shaped model of random weights; three plans, each timed alternately with the dense
model. A tuning would have to factorize these layers first, which latencies do not depend on: here
the factors are random too, and only the table, the network model and the timing are the product's.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers

from autotune.compress.lowrank import LowRankLinear, replaced
from autotune.core.forms import DENSE, Form, Plan, low_rank
from autotune.core.layers import Site
from autotune.devices.detect import require_device
from autotune.devices.roofline import Roofline
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.network.model import NetworkAnchor, PhaseModel
from autotune.profiler.backends import require_backend
from autotune.profiler.backends.torch_cudagraph import captured
from autotune.profiler.backends.torch_layers import TORCH_DTYPES
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import fingerprint_of
from autotune.profiler.measure.timing import TimingPolicy, time_interleaved

BATCHES = ((1, 1), (1, 128), (1, 512), (4, 2048))


def main() -> None:
    """Predict, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--device", default="h200")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    device = require_device(options.device)
    backend = require_backend("torch-cudagraph", device.spec.kind)
    with LatencyDatabase(options.database) as database:
        fingerprint = fingerprint_of(device, backend, dtype=options.dtype, threads=1)
        rows = database.measurements(fingerprint.id)
    table = LatencyTable(rows, Roofline.of(device.spec, 1), cliff=device.spec.cliff(options.dtype))
    model = llama(options.layers, options.dtype)
    results = []
    for batch, length in BATCHES:
        sites = sites_of(model, batch * length)
        for row in compare(
            model, sites, table=table, dtype=options.dtype, batch=batch, length=length
        ):
            results.append({"device": device.spec.name, "batch": batch, "length": length, **row})
            print(json.dumps(results[-1]), flush=True)
    errors = sorted(abs(row["predicted_ratio"] / row["measured_ratio"] - 1) for row in results)
    print(f"median {errors[len(errors) // 2]:.3f}, worst {errors[-1]:.3f}")
    print(json.dumps(results))


def llama(layers: int, dtype: str, *, place: str = "cuda") -> Any:
    """Llama-3-8B with fewer layers, random weights."""
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    with torch.device(place):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=TORCH_DTYPES[dtype])
    return model.eval().requires_grad_(False)


def sites_of(model: Any, tokens: int) -> list[Site]:
    """The layers inside the decoder blocks."""
    return [
        Site(name=name, in_features=m.in_features, out_features=m.out_features, tokens=tokens)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and ".layers." in name
    ]


def plans(sites: list[Site]) -> dict[str, Plan]:
    """Uniform ones, and one of mixed ranks as a solver makes them."""
    draw = random.Random(0)

    def form(site: Site, keep: float) -> Form:
        wanted = keep * site.in_features * site.out_features
        return low_rank(64 * max(1, round(wanted / (site.in_features + site.out_features) / 64)))

    mixed = {s.name: form(s, draw.choice([0.2, 0.35, 0.5, 0.7])) for s in sites}
    mixed = {name: one if draw.random() < 0.75 else DENSE for name, one in mixed.items()}
    return {
        "keep 0.8": {s.name: form(s, 0.8) for s in sites},
        "keep 0.5": {s.name: form(s, 0.5) for s in sites},
        "mixed": mixed,
    }


def compare(
    model: Any, sites: list[Site], *, table: LatencyTable, dtype: str, batch: int, length: int
) -> list[dict[str, Any]]:
    """One row a plan."""
    inputs = torch.randint(0, 128256, (batch, length), device="cuda")

    def run() -> None:
        with torch.inference_mode():
            model(input_ids=inputs, use_cache=False)

    rows = []
    policy = TimingPolicy(max_seconds=6.0, target_relative_ci=0.005, rounds_per_window=3)
    dense = captured(run)
    for name, plan in plans(sites).items():
        with replaced(model, low_rank_layers(model, plan, dtype=dtype)):
            compressed = captured(run)
        timing = time_interleaved([dense, compressed], policy)
        latency_s = timing.latencies_s[0]
        network = network_of(sites, table, dtype=dtype, latency_s=latency_s)
        shares, guess = network.anchor.layer_shares, network.predict(plan)
        rows.append(
            {
                "plan": name,
                "dense_latency_s": latency_s,
                "measured_ratio": timing.ratios[1],
                "predicted_ratio": guess.ratio,
                "low": guess.low_s / latency_s,
                "high": guess.high_s / latency_s,
                "linear_share": sum(shares[site.shape(DENSE, dtype)] for site in sites),
            }
        )
    return rows


def network_of(
    sites: list[Site], table: LatencyPredictor, *, dtype: str, latency_s: float
) -> PhaseModel:
    """The model of a dense network of these seconds, its layers as the table has them."""
    shapes = {site.shape(DENSE, dtype) for site in sites}
    shares = {shape: table.estimate(shape).latency_s / latency_s for shape in shapes}
    anchor = NetworkAnchor(latency_s=latency_s, layer_shares=shares)
    return PhaseModel(anchor=anchor, predictor=table, sites=sites, dtype=dtype)


def low_rank_layers(model: Any, plan: Plan, *, dtype: str) -> dict[str, Any]:
    """Random factors at the chosen ranks."""
    layers = {}
    for name, form in plan.items():
        if not form.is_dense:
            dense = model.get_submodule(name)
            layer = LowRankLinear(
                dense.in_features,
                dense.out_features,
                rank=form.rank,
                bias=False,
                device="cuda",
                dtype=TORCH_DTYPES[dtype],
            ).eval()
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            layers[name] = layer.requires_grad_(False)
    return layers


if __name__ == "__main__":
    main()
