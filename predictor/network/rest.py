"""The rest of a network on a device that is not here: attention, norms, embeddings, heads.

Products are priced like layers, attention by third-party tables (attention.py), and what only moves
memory by bytes over bandwidth and a kernel's least time, both learned from the same products
that price the layers: streaming a large weight shows the bandwidth, the smallest one the least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autotune.core.layers import LayerShape
from autotune.core.operation import Operation
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.products.features import LAUNCH_S
from autotune.profiler.database.records import Measurement

if TYPE_CHECKING:
    from autotune.predictor.network.attention import AttentionLatency

# Others' tables hold multiples of this only; a head is priced as the next larger one.
_MULTIPLE = 32
# A weight this many times larger than the cache comes from memory.
_STREAMED = 2.0
# Of the sheet's bandwidth, where no table shows it.
_ASSUMED_SHARE = 0.8
# How far (in log) the memory model may be off at 90 %: of four batches of a Llama shape on an H200
# the whole rest was 0.66 to 1.2 of what was measured (benchmarks/results).
_MEMORY_HALF_WIDTH = math.log(2.0)


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """Seconds of a kernel that only moves memory: bytes / bandwidth, and never less than one."""

    bandwidth_bytes_s: float
    least_s: float

    @staticmethod
    def learned(
        spec: DeviceSpec, weight_bytes: NDArray[np.float64], *, seconds: NDArray[np.float64]
    ) -> MemoryModel:
        """From products, (n,) each; from the sheet where no weight is large enough."""
        streamed = weight_bytes > _STREAMED * spec.cache_bytes
        bandwidth = _ASSUMED_SHARE * spec.bandwidth_bytes_s
        if streamed.any():
            bandwidth = float(np.quantile(weight_bytes[streamed] / seconds[streamed], 0.95))
        return MemoryModel(bandwidth_bytes_s=bandwidth, least_s=float(seconds.min()))

    @staticmethod
    def of_points(spec: DeviceSpec, rows: Sequence[Measurement]) -> MemoryModel:
        """From dense layers that this profiler measured; from the sheet where there are none."""
        dense = [row for row in rows if row.shape.form.is_unchanged and not row.shape.parts]
        if not dense:
            return MemoryModel.of_sheet(spec)
        weights = [row.shape.parameters * DTYPE_BYTES[row.shape.dtype] for row in dense]
        return MemoryModel.learned(
            spec,
            np.array(weights, dtype=np.float64),
            seconds=np.array([row.latency_s for row in dense], dtype=np.float64),
        )

    @staticmethod
    def of_sheet(spec: DeviceSpec) -> MemoryModel:
        """Of a device without any product."""
        return MemoryModel(
            bandwidth_bytes_s=_ASSUMED_SHARE * spec.bandwidth_bytes_s, least_s=LAUNCH_S
        )

    def latency_s(self, moved_bytes: float) -> float:
        """Seconds to move so many bytes."""
        return self.least_s + moved_bytes / self.bandwidth_bytes_s


@dataclass(frozen=True, kw_only=True)
class RestLatency:
    """Seconds of all that is no site, and its 90 % half width in log, kind by kind independent."""

    latency_s: float
    half_width: float


def rest_latency(
    operations: Sequence[Operation],
    dtype: str,
    *,
    memory: MemoryModel,
    attention: AttentionLatency,
    products: LatencyPredictor,
) -> RestLatency:
    """Price every operation of a pass that is not a layer."""
    kernels = [o for o in operations if o.kind == "memory"]
    memory_s = sum(memory.latency_s(o.moved_bytes) for o in kernels)
    attention_s = float(attention.seconds([o for o in operations if o.kind == "attention"]).sum())
    parts = [(memory_s, _MEMORY_HALF_WIDTH), (attention_s, attention.half_width)]
    for operation in operations:
        if operation.kind == "product":
            estimate = products.estimate(_layer(operation, dtype))
            width = estimate.log_half_width
            parts.append((operation.batch * estimate.latency_s, width))
    total = sum(seconds for seconds, _ in parts)
    half = math.sqrt(sum((seconds * math.expm1(width)) ** 2 for seconds, width in parts))
    return RestLatency(latency_s=total, half_width=math.log1p(half / total) if total else 0.0)


def _layer(operation: Operation, dtype: str) -> LayerShape:
    sizes = (operation.head_dim, operation.keys)
    k, n = (_MULTIPLE * math.ceil(size / _MULTIPLE) for size in sizes)
    return LayerShape(tokens=operation.queries, in_features=k, out_features=n, dtype=dtype)
