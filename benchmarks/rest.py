"""A dense network added up from parts, without a measurement of it, against the measured one.

    python benchmarks/rest.py --measured benchmarks/results/2026-11-22-network-h200.log
    python benchmarks/rest.py --measure        # on the GPU itself, with its kernels by kind

An 8-layer Llama-3-8B shape: layers and heads from the shipped table, attention and what only moves
memory from predictor/network/rest.py, as `tune --device NAME` does for a device elsewhere. The last
line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from network_gpu import BATCHES, llama, sites_of
from torch import nn

from autotune.compress.operations import trace_operations
from autotune.core.forms import DENSE
from autotune.core.operation import Operation, fuse
from autotune.devices.specs import find_device
from autotune.predictor.layers.device_table import DeviceTable, device_table
from autotune.predictor.network.rest import rest_latency
from autotune.profiler.backends.torch_cudagraph import captured
from autotune.profiler.backends.torch_layers import TORCH_DTYPES

_LAYERS = 8
_PRODUCTS, _ATTENTION = ("nvjet", "gemm", "splitK", "cutlass"), ("sdpa", "flash")


def main() -> None:
    """Add up, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="h200")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--measured", type=Path, help="what benchmarks/network_gpu.py printed")
    parser.add_argument("--measure", action="store_true", help="measure on the GPU that is here")
    options = parser.parse_args()
    table = device_table(find_device(options.device), options.dtype, backend="torch-cudagraph")
    # Shapes are enough to trace: the memory is never written.
    model = llama(_LAYERS, options.dtype, place="meta").to_empty(device="cpu")
    rows: list[dict[str, Any]] = []
    for batch, length in BATCHES:
        row: dict[str, Any] = {
            "batch": batch,
            "length": length,
            **added_up(model, table, batch=batch, length=length),
        }
        if options.measured:
            row["measured_s"] = _logged(options.measured, batch, length=length)
        rows.append(row)
    if options.measure:
        real = llama(_LAYERS, options.dtype, place="cuda")
        for row in rows:
            row |= measured(real, row["batch"], length=row["length"])
    for row in rows:
        print(" ".join(f"{key} {_text(value)}" for key, value in row.items()))
    print(json.dumps(rows))


def added_up(model: nn.Module, table: DeviceTable, *, batch: int, length: int) -> dict[str, float]:
    """Seconds of a pass and of its parts; `fused_memory_s` is what a serving stack would move."""
    dtype = table.fingerprint.dtype
    sites = sites_of(model, batch * length)
    operations = trace_operations(
        model,
        sites,
        inputs={"input_ids": torch.zeros(batch, length, dtype=torch.long)},
        dtype=TORCH_DTYPES[dtype],
        causal=True,
        call=_forward,
    )
    layers_s = sum(table.predictor.estimate(s.shape(DENSE, dtype)).latency_s for s in sites)
    parts = {kind: [o for o in operations if o.kind == kind] for kind in ("memory", "attention")}
    rest = rest_latency(
        operations, dtype, memory=table.memory, attention=table.attention, products=table.predictor
    )
    memory_s, attention_s = _moved(parts["memory"], table), _attention(parts["attention"], table)
    return {
        "added_up_s": layers_s + rest.latency_s,
        "layers_s": layers_s,
        "memory_s": memory_s,
        "attention_s": attention_s,
        "head_s": rest.latency_s - memory_s - attention_s,
        "fused_memory_s": _moved([o for o in fuse(operations) if o.kind == "memory"], table),
    }


def _forward(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs, use_cache=False)


def _moved(kernels: list[Operation], table: DeviceTable) -> float:
    return sum(table.memory.latency_s(kernel.moved_bytes) for kernel in kernels)


def _attention(kernels: list[Operation], table: DeviceTable) -> float:
    return float(table.attention.seconds(kernels).sum())


def measured(model: nn.Module, batch: int, *, length: int) -> dict[str, float]:
    """The pass as a CUDA graph, replayed without a pause, and its kernels alone, by kind."""
    inputs = {"input_ids": torch.randint(0, 128256, (batch, length), device="cuda")}

    def run() -> None:
        with torch.inference_mode():
            _forward(model, inputs)

    graph = captured(run)
    replays = [graph() for _ in range(60)]
    row = {"measured_s": statistics.median(seconds for seconds in replays if seconds)}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
    kinds = {"products": 0.0, "attention": 0.0, "memory": 0.0}
    for event in profile.key_averages():
        kinds[_kind(event.key)] += event.self_device_time_total * 1e-6 / 5
    return row | {f"kernels_{kind}_s": seconds for kind, seconds in kinds.items()}


def _kind(kernel: str) -> str:
    if any(name in kernel for name in _ATTENTION):
        return "attention"
    return "products" if any(name in kernel for name in _PRODUCTS) else "memory"


def _logged(path: Path, batch: int, *, length: int) -> float:
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    found = [row for row in lines if (row["batch"], row["length"]) == (batch, length)]
    return float(statistics.median(row["dense_latency_s"] for row in found))


def _text(value: float) -> str:
    return f"{value * 1e3:.3f} ms" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
