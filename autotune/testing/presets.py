"""Settings of simulated devices, by name: a CPU of two cores and a data-centre GPU."""

from __future__ import annotations

from typing import Any

from autotune.testing.kernels import Tile

PRESETS: dict[str, dict[str, Any]] = {
    "cpu-like": {
        "kind": "cpu",
        "peak_flops": {"fp32": 230e9},
        "bandwidth_bytes_s": 24e9,
        "cores": 2,
        "cache_bytes": 32e6,
        "overhead_s": 6e-6,
        "hidden_start": 0.05,
        "tiles": (
            Tile(rows=8, columns=16, depth=4, efficiency=0.8),
            Tile(rows=48, columns=64, depth=8, efficiency=1.0),
        ),
        "fill": 12,
        "cliff_multiple": 16,
        "cliff_factor": 1.3,
        "overlap": 0.15,
    },
    "h200-like": {
        "kind": "cuda",
        "peak_flops": {"bf16": 989e12, "fp16": 989e12, "fp32": 67e12},
        "bandwidth_bytes_s": 4.8e12,
        "cores": 132,
        "cache_bytes": 50e6,
        "cache_speedup": 3.0,
        "overhead_s": 3e-6,
        "hidden_start": 0.2,
        "tiles": (
            Tile(rows=64, columns=64, depth=64, efficiency=0.6),
            Tile(rows=128, columns=128, depth=64, efficiency=0.85),
            Tile(rows=128, columns=256, depth=64, efficiency=1.0),
        ),
        "fill": 192,
        "cliff_multiple": 8,
        "cliff_factor": 8.0,
        "overlap": 0.4,
        "rest_share": {"prefill": 0.15, "decode": 0.25},
        "noise": 0.004,
    },
}
