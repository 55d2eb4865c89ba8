"""Every factorization of a Llama-3-8B-shaped model of random weights, in the kfac metric, on a GPU.

    python benchmarks/factorize_gpu.py [--blocks 32]

Statistics are random Grams of the right sizes (made outside the clock). The last line is one JSON
document.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from autotune.compress.factorizers.truncated import factorize
from autotune.compress.metrics import make_metric
from autotune.compress.statistics import Statistics
from autotune.core.layers import Site, break_even_rank

HIDDEN, KV, MLP = 4096, 1024, 14336
SHAPES = {
    "q_proj": (HIDDEN, HIDDEN), "k_proj": (HIDDEN, KV), "v_proj": (HIDDEN, KV),
    "o_proj": (HIDDEN, HIDDEN), "gate_proj": (HIDDEN, MLP), "up_proj": (HIDDEN, MLP),
    "down_proj": (MLP, HIDDEN),
}  # fmt: skip
INPUT_OF = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


def random_gram(size: int) -> torch.Tensor:
    """A full-rank Gram with a decaying spectrum, fp64."""
    x = torch.randn(size, size + 256, device="cuda", dtype=torch.float64)
    x *= torch.logspace(0, -3, size, device="cuda", dtype=torch.float64)[:, None]
    return x @ x.T / x.shape[1]


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=32)
    options = parser.parse_args()
    metric = make_metric("kfac")
    grams = {size: random_gram(size) for size in (HIDDEN, KV, MLP)}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds, count, worst = 0.0, 0, 0.0
    for block in range(options.blocks):
        for name, (k, n) in SHAPES.items():
            site = Site(name=f"{block}.{name}", in_features=k, out_features=n, tokens=1)
            statistics = Statistics(
                moments={f"gram:{site.name}": grams[k], f"grad:{site.name}": grams[n]},
                input_group={site.name: site.name},
                rows={site.name: 1},
                rows_per_item={site.name: 1.0},
            )
            weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / k**0.5
            torch.cuda.synchronize()
            started = time.perf_counter()
            limit = break_even_rank(k, n)
            found = factorize(weight, metric.whitening(site, statistics), max_rank=limit)
            factors = found.up.to(weight.dtype), found.down.to(weight.dtype)
            torch.cuda.synchronize()
            seconds += time.perf_counter() - started
            count += 1
            if block == 0:
                whitening = metric.whitening(site, statistics)
                rank = limit // 2
                up, down = found.factors(rank)
                true = (
                    whitening.scale * whitening.whiten(weight.double() - up @ down).square().sum()
                )
                worst = max(worst, abs(float(true / found.errors[rank]) - 1.0))
            del found, factors
    peak = torch.cuda.max_memory_allocated()
    row = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "factorizations": count,
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "worst_relative_error_of_the_table": worst,
    }
    print(f"{count} factorizations in {seconds:.1f} s, {peak / 1e9:.1f} GB peak")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
