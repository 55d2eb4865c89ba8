"""The dense network where it cannot be timed: the sum of its layers and of all else it runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autotune.core.forms import DENSE, NATIVE
from autotune.core.layers import LayerShape
from autotune.core.operation import fuse
from autotune.core.outline import Pass
from autotune.core.types import Fingerprint
from autotune.devices.roofline import Roofline
from autotune.devices.specs import DeviceSpec
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.model import NetworkAnchor
from autotune.predictor.network.rest import MemoryModel, RestLatency, rest_latency
from autotune.profiler.database.records import Measurement

if TYPE_CHECKING:
    from autotune.predictor.network.attention import AttentionLatency

# Backends that run neighbouring memory operations as one kernel.
FUSING = ("torch-compile", "tensorrt", "onnxruntime-cpu", "openvino-cpu")


@dataclass(frozen=True, kw_only=True)
class NetworkPrices:
    """What prices every operation of a network on a device in `dtype`.

    `fuses`: neighbouring memory operations are one kernel there. `precisions`: those in which
    `layers` may know dense layers. `products` prices products that are no layers, such as a head;
    `layers` does unless given.
    """

    dtype: str
    layers: LatencyPredictor
    memory: MemoryModel
    attention: AttentionLatency
    fuses: bool
    precisions: tuple[str, ...] = ()
    products: LatencyPredictor | None = None

    @staticmethod
    def of_points(
        layers: LatencyPredictor,
        rows: Sequence[Measurement],
        *,
        spec: DeviceSpec,
        fingerprint: Fingerprint,
        products: LatencyPredictor,
    ) -> NetworkPrices:
        """Of a machine whose layers this profiler measured, and nothing else."""
        # Brings pandas along.
        from autotune.predictor.network.attention import AttentionLatency

        roofline, dtype = Roofline.of(spec, fingerprint.threads), fingerprint.dtype
        used = replace(spec, peak_flops={**roofline.peak_flops, dtype: roofline.peak(dtype)})
        return NetworkPrices(
            dtype=dtype,
            layers=layers,
            memory=MemoryModel.of_points(used, rows),
            attention=AttentionLatency(used, dtype),
            fuses=fingerprint.backend in FUSING,
            products=products,
            precisions=tuple(sorted({row.shape.form.precision for row in rows} - {NATIVE})),
        )

    def rest(self, one: Pass) -> RestLatency:
        """All that is no layer."""
        operations = fuse(one.operations) if self.fuses else one.operations
        return rest_latency(
            operations,
            self.dtype,
            memory=self.memory,
            attention=self.attention,
            products=self.products or self.layers,
        )


def added_up(one: Pass, prices: NetworkPrices, *, more: RestLatency | None = None) -> NetworkAnchor:
    """Σ dense layers + rest (+ `more`), and the share of it that each dense shape takes.

    Raises:
        MeasurementError: a layer has no price.
    """
    by_name = {site.name: site for site in one.sites}
    layer_s: dict[LayerShape, float] = {}
    spread: dict[LayerShape, float] = defaultdict(float)
    total = 0.0
    for site in one.sites:
        shape = site.shape(DENSE, prices.dtype)
        members = [by_name[name].shape(DENSE, prices.dtype) for name in site.layers]
        found = [prices.layers.estimate(member) for member in members]
        layer_s[shape] = sum(estimate.latency_s for estimate in found)
        if not site.members:
            total += found[0].latency_s
            spread[shape] += (found[0].high_s - found[0].low_s) / 2
    rests = [prices.rest(one), *([more] if more else [])]
    latency_s = total + sum(rest.latency_s for rest in rests)
    errors = [rest.latency_s * math.expm1(rest.half_width) for rest in rests]
    error = math.sqrt(sum(half**2 for half in (*spread.values(), *errors)))
    return NetworkAnchor(
        latency_s=latency_s,
        layer_shares={shape: seconds / latency_s for shape, seconds in layer_s.items()},
        relative_error=error / latency_s,
    )
