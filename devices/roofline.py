"""The least time a layer can take: arithmetic over peak rate or bytes over bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.core.layers import LayerShape
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autotune.core.layer_columns import LayerColumns


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

    def latencies_s(self, layers: LayerColumns) -> NDArray[np.float64]:
        """Seconds of many layers, (n,)."""
        import numpy as np

        rows, owner = product_columns(layers)
        dtypes = [kind.dtype for kind in layers.kinds]
        kind = layers.kind[owner]
        limits = limits_s(
            *rows.T,
            element_bytes=np.array([DTYPE_BYTES[dtype] for dtype in dtypes])[kind],
            peak_flops=np.array([self.peak(dtype) for dtype in dtypes])[kind],
            bandwidth_bytes_s=self.bandwidth_bytes_s,
        )
        seconds = np.bincount(owner, weights=np.maximum(*limits), minlength=len(layers))
        return seconds.astype(np.float64, copy=False)  # whole numbers where there are no layers


def limits_s(
    m: Any, k: Any, n: Any, *, element_bytes: Any, peak_flops: Any, bandwidth_bytes_s: float
) -> tuple[Any, Any]:
    """Arithmetic and memory seconds of (M × K)·(K × N); of one product, or of arrays of them."""
    moved = element_bytes * (m * k + k * n + m * n)
    return 2 * m * k * n / peak_flops, moved / bandwidth_bytes_s


def products(shape: LayerShape) -> list[tuple[int, int, int]]:
    """The matrix products (M, K, N) that the layer is made of."""
    return _products(shape.tokens, shape.in_features, rank=shape.rank or None, widths=shape.widths)


def product_columns(layers: LayerColumns) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The products of many layers, (p, 3), and whose each is, (p,).

    Those of one layer are in the order of `products`.
    """
    import numpy as np

    found, owners = [np.empty((0, 3))], [np.empty(0, dtype=np.intp)]
    for kind, members in layers.groups():
        for rows in (members[layers.rank[members] == 0], members[layers.rank[members] > 0]):
            rank = layers.rank[rows]
            parts = _products(
                layers.tokens[rows],
                layers.in_features[rows],
                rank=rank if rank.any() else None,
                widths=kind.parts or (layers.out_features[rows],),
            )
            for part in parts if len(rows) else ():
                found.append(np.column_stack(np.broadcast_arrays(*part)).astype(np.float64))
                owners.append(rows)
    return np.concatenate(found), np.concatenate(owners)


def _products(m: Any, k: Any, *, rank: Any, widths: Sequence[Any]) -> list[tuple[Any, Any, Any]]:
    """Of one layer, or of arrays of layers; a `rank` of None is dense."""
    if rank is None:
        return [(m, k, n) for n in widths]
    return [(m, k, rank), *((m, rank, n) for n in widths)]
