"""Products in fp8 beside bf16 on a GPU, in CUDA graphs, to hold third-party ratios against.

    python benchmarks/fp8_products.py > LOG                              # on the GPU
    python benchmarks/fp8_products.py --compare LOG --device h200-sxm

`product` is the product alone (cuBLASLt by `torch._scaled_mm`, one scale a tensor), `whole` with
the rounding of its input, whose scale is known. One JSON line a shape; the last line is the list.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from autotune.predictor.layers.precisions import stacks_of
from autotune.predictor.layers.transfer import SIZE_CLASSES, Transfer
from autotune.profiler.backends.torch_cudagraph import captured
from autotune.profiler.measure.timing import TimingPolicy, time_interleaved

TOKENS = (16, 64, 256, 1024, 4096)
LAYERS = ((4096, 4096), (4096, 1024), (4096, 14336), (14336, 4096), (2048, 8192), (1024, 1024))
_BYTES = 200e6  # of weights: more than the cache holds


def main() -> None:
    """Measure, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", type=Path, metavar="LOG")
    parser.add_argument("--device", default="h200-sxm")
    options = parser.parse_args()
    if options.compare:
        compare(json.loads(options.compare.read_text().splitlines()[-1]), options.device)
    else:
        measure()


def measure() -> None:
    """Every shape."""
    policy = TimingPolicy(max_seconds=1.0, target_relative_ci=0.01)
    rows = []
    for tokens in TOKENS:
        for k, n in LAYERS:
            timing = time_interleaved(alternatives(tokens, k=k, n=n), policy)
            product, whole = timing.ratios[1:]
            sizes = {"tokens": tokens, "in_features": k, "out_features": n}
            rows.append({**sizes, "product": product, "whole": whole})
            print(json.dumps(rows[-1]), flush=True)
    print(json.dumps(rows))


def compare(rows: list[dict[str, Any]], device: str) -> None:
    """Of every stack, how far its ratios are from the measured ones (log), and what they hold."""
    transfer = Transfer.of(device)
    for precision, stacks in stacks_of(device).items():
        for stack in stacks:
            for kind in ("product", "whole"):
                errors, held = [], []
                for row in rows:
                    m, k, n = (row[name] for name in ("tokens", "in_features", "out_features"))
                    found, width = stack.log_ratio(m, in_features=k, out_features=n)
                    number = bisect.bisect_left(SIZE_CLASSES, m)
                    errors.append(found - math.log(row[kind]))
                    held.append(abs(errors[-1]) <= math.hypot(width, transfer.ratio[number]))
                middle, size = statistics.median(errors), statistics.median(map(abs, errors))
                share = sum(held) / len(held)
                name = f"{precision} {stack.stack} {kind}"
                print(f"{name:40s} median {middle:+.2f}, of its size {size:.2f}, held {share:.2f}")


def alternatives(tokens: int, *, k: int, n: int) -> list[Any]:
    """A bf16 layer, the fp8 product, and that with the rounding before it."""
    copies = max(2, int(_BYTES / (2 * k * n)))
    x = torch.randn(tokens, k, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    eights = [weight.to(torch.float8_e4m3fn) for weight in weights]
    one = torch.ones((), device="cuda")
    ready = x.to(torch.float8_e4m3fn)

    def scaled(values: torch.Tensor, weight: torch.Tensor) -> None:
        torch._scaled_mm(values, weight.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    def native() -> None:
        for weight in weights:
            torch.nn.functional.linear(x, weight)

    def product() -> None:
        for weight in eights:
            scaled(ready, weight)

    def whole() -> None:
        for weight in eights:
            scaled((x * one).clamp(-448, 448).to(torch.float8_e4m3fn), weight)

    return [captured(run) for run in (native, product, whole)]


if __name__ == "__main__":
    main()
