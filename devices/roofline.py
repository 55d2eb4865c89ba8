"""The least time a layer can take: arithmetic over peak rate or bytes over bandwidth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.core.layers import LayerShape
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Peak FLOP/s by dtype, bandwidth in bytes/s and compute units, of the threads in use."""

    peak_flops: dict[str, float]
    bandwidth_bytes_s: float
    compute_units: int = 1

    @staticmethod
    def of(spec: DeviceSpec, threads: int) -> Roofline:
        """A CPU's peak is per core, a GPU's is whole."""
        scale = threads if spec.kind == "cpu" else 1
        peaks = {dtype: rate * scale for dtype, rate in spec.peak_flops.items()}
        return Roofline(
            peak_flops=peaks,
            bandwidth_bytes_s=spec.bandwidth_bytes_s,
            compute_units=scale * spec.compute_units,
        )

    def peak(self, dtype: str) -> float:
        """FLOP/s in `dtype`, or in the fastest dtype where the sheet does not name it."""
        return self.peak_flops.get(dtype) or max(self.peak_flops.values())

    def latency_s(self, shape: LayerShape) -> float:
        """Seconds of a layer; a pair is the sum of its two products."""
        size, peak = DTYPE_BYTES[shape.dtype], self.peak(shape.dtype)
        bandwidth, total_s = self.bandwidth_bytes_s, 0.0
        for m, k, n in products(shape):
            total_s += max(
                limits_s(m, k, n, element_bytes=size, peak_flops=peak, bandwidth_bytes_s=bandwidth)
            )
        return total_s


def limits_s(
    m: Any, k: Any, n: Any, *, element_bytes: Any, peak_flops: Any, bandwidth_bytes_s: float
) -> tuple[Any, Any]:
    """Arithmetic and memory seconds of (M × K)·(K × N); of one product, or of arrays of them."""
    moved = element_bytes * (m * k + k * n + m * n)
    return 2 * m * k * n / peak_flops, moved / bandwidth_bytes_s


def products(shape: LayerShape) -> list[tuple[int, int, int]]:
    """The matrix products (M, K, N) that the layer is made of."""
    m, k, rank = shape.tokens, shape.in_features, shape.rank
    if not rank:
        return [(m, k, n) for n in shape.widths]
    return [(m, k, rank), *((m, rank, n) for n in shape.widths)]
