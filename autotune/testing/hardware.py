"""Simulated hardware: the true latency of layers and of whole networks, to test tuning against."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotune.core.errors import UsageError
from autotune.core.forms import Plan
from autotune.core.layers import LayerShape, Site
from autotune.core.types import digest
from autotune.devices.detect import PresentDevice
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.testing.kernels import Kernel, Tile, cliff, compute_seconds, tile_count
from autotune.testing.networks import network_seconds
from autotune.testing.presets import PRESETS
from autotune.testing.shapes import chosen_forms, is_dense, rank_of, shape_in

_SOURCE = "simulated (autotune/testing/hardware.py)"


class Hardware(ABC):
    """What truly takes how long on one simulated device.

    Contract (`autotune.testing.suites.hardware` checks it):
    - Latencies are deterministic: the same settings give the same seconds, in every process.
    - `kernels` prices the products of one layer; everything else follows from them.
    - Nothing here is noisy. `autotune.testing.disturbance` adds what disturbs a measurement.
    - Instances are immutable and may be shared between threads.
    """

    settings: SimulatedHardware

    @abstractmethod
    def kernels(self, shape: LayerShape) -> tuple[Kernel, ...]:
        """The kernels that run one layer, in order.

        Raises:
            UsageError: a dtype that the device does not know.
        """

    @property
    @abstractmethod
    def identity(self) -> str:
        """A short hash of everything that the latencies depend on."""

    def layer_latency_s(self, shape: LayerShape) -> float:
        """Seconds of one call of the layer by itself, with weights that are not in a cache."""
        kernels = self.kernels(shape)
        started = kernels[0].overhead_s
        # The start of a further kernel hides behind the one before it, as far as that is busy.
        for before, kernel in itertools.pairwise(kernels):
            hidden = self.settings.hidden_start * before.busy_s
            started += max(0.1 * kernel.overhead_s, kernel.overhead_s - hidden)
        return started + sum(kernel.busy_s for kernel in kernels)

    def network_latency_s(
        self,
        sites: Sequence[Site],
        plan: Plan,
        *,
        phase: str = "prefill",
        dtype: str | None = None,
    ) -> float:
        """Seconds of one pass of the network of `sites` under `plan`.

        `sites` are on the tokens of `phase`, in the order of the model, and may hold joint sites.
        The sum of the layers is not the network: see `autotune.testing.networks`.
        """
        dtype = dtype or self.settings.default_dtype
        layers = [
            (site, self.kernels(shape_in(site, form, dtype=dtype)))
            for site, form in chosen_forms(sites, plan)
        ]
        dense = [
            (site, self.kernels(shape_in(site, form, dtype=dtype)))
            for site, form in chosen_forms(sites, {})
        ]
        return network_seconds(layers, dense, phase=phase, settings=self.settings)


@dataclass(frozen=True, kw_only=True)
class SimulatedHardware(Hardware):
    """One device, described by settings; `seed` makes devices of one kind differ.

    `kind` is "cpu" or "cuda". `peak_flops` (FLOP/s by dtype, of all cores) and `bandwidth_bytes_s`
    are what its data sheet promises; how much of them is reached, and how well layers overlap,
    depends on the seed. Activations and intermediate results that fit in half of `cache_bytes` move
    `cache_speedup` times as fast. A rank that is no multiple of `cliff_multiple` costs up to
    `cliff_factor` as much. `overhead_s` is the time to start one kernel, of which a busy
    predecessor hides `hidden_start` of its own seconds; `fill` are the extra steps of a pipeline.
    In a network, `overlap` of a block's work runs beside other work of it, clocks fall by up to
    `throttle` where arithmetic runs at its peak, and `rest_share` of the dense network (by phase)
    is no linear layer. `texture` is how much single shapes deviate from
    the model (logarithm), and `noise` how much single calls do.

    Raises:
        UsageError: a kind that is unknown, or a setting that must be positive and is not.
    """

    name: str
    seed: int = 0
    kind: str = "cpu"
    peak_flops: Mapping[str, float]
    bandwidth_bytes_s: float
    cores: int
    cache_bytes: float
    cache_speedup: float = 4.0
    overhead_s: float = 5e-6
    hidden_start: float = 0.1
    tiles: tuple[Tile, ...]
    fill: int = 16
    cliff_multiple: int = 16
    cliff_factor: float = 1.3
    overlap: float = 0.3
    throttle: float = 0.3
    rest_share: Mapping[str, float] = field(default_factory=lambda: {"prefill": 0.2, "decode": 0.3})
    texture: float = 0.01
    noise: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in ("cpu", "cuda"):
            raise UsageError(f"kind must be cpu or cuda, got {self.kind!r}")
        rates = {f"peak_flops[{dtype}]": rate for dtype, rate in self.peak_flops.items()}
        positive = {
            **rates,
            "bandwidth_bytes_s": self.bandwidth_bytes_s,
            "cores": self.cores,
            "cache_bytes": self.cache_bytes,
            "cliff_multiple": self.cliff_multiple,
            "tiles": len(self.tiles),
            "peak_flops": len(rates),
        }
        for name, value in positive.items():
            if value <= 0:
                raise UsageError(f"{name} must be above 0, got {value}")

    @property
    def settings(self) -> SimulatedHardware:  # type: ignore[override]
        """These settings: a recording has those of the hardware it corrects."""
        return self

    @property
    def default_dtype(self) -> str:
        """The first dtype of `peak_flops`."""
        return next(iter(self.peak_flops))

    @functools.cached_property
    def identity(self) -> str:
        """A short hash of the settings."""
        return digest(dataclasses.asdict(self))[:16]

    @functools.cached_property
    def _character(self) -> tuple[float, float]:
        """Shares of the peak rate and of the bandwidth that this device reaches."""
        draw = random.Random(f"{self.name}:{self.seed}")
        return draw.uniform(0.6, 0.9), draw.uniform(0.6, 0.9)

    @property
    def spec(self) -> DeviceSpec:
        """The data sheet: what a predictor may know of the device."""
        per_core = self.cores if self.kind == "cpu" else 1
        names = ("peak_flops", "bandwidth_bytes_s", "compute_units", "cache_bytes", "memory_bytes")
        return DeviceSpec(
            name=f"simulated-{self.name}",
            title=f"simulated {self.name}",
            kind=self.kind,
            peak_flops={dtype: rate / per_core for dtype, rate in self.peak_flops.items()},
            bandwidth_bytes_s=self.bandwidth_bytes_s,
            compute_units=1 if self.kind == "cpu" else self.cores,
            cache_bytes=self.cache_bytes,
            memory_bytes=64e9,
            alignment_bytes=self.cliff_multiple * DTYPE_BYTES[self.default_dtype],
            sources=dict.fromkeys(names, _SOURCE),
        )

    @property
    def present(self) -> PresentDevice:
        """The device as one that is on this machine."""
        return PresentDevice(spec=self.spec, reported_name=f"simulated {self.name} {self.seed}")

    def kernels(self, shape: LayerShape) -> tuple[Kernel, ...]:
        """One kernel for a dense layer, two for a pair; parts with one input run as one kernel."""
        m, k, n = shape.tokens, shape.in_features, shape.out_features
        rank = rank_of(shape)
        if is_dense(shape):
            return (self._kernel(m, k, n, dtype=shape.dtype),)
        between = m * rank * DTYPE_BYTES[shape.dtype]
        cached = between <= self.cache_bytes / 2
        return (
            self._kernel(m, k, rank, dtype=shape.dtype, output_cached=cached),
            self._kernel(m, rank, n, dtype=shape.dtype, input_cached=cached),
        )

    def _kernel(
        self,
        m: int,
        k: int,
        n: int,
        *,
        dtype: str,
        input_cached: bool = False,
        output_cached: bool = False,
    ) -> Kernel:
        peak, size = self._peak(dtype), DTYPE_BYTES[dtype]
        compute, memory = self._character
        best = min(self.tiles, key=lambda tile: self._compute_s(m, k, n, tile=tile, peak=peak))
        drawing = min(1.0, 2.0 * tile_count(m, n, tile=best) * max(1, k // 256) / self.cores)
        rate = self.bandwidth_bytes_s * memory * (0.25 + 0.75 * drawing)
        weight_bytes = float(size * k * n)
        moved = self._activation_bytes(size * m * k, input_cached)
        moved += self._activation_bytes(size * m * n, output_cached)
        slow = cliff((k, n), self.cliff_multiple, factor=self.cliff_factor)
        slow *= math.exp(self.texture * self._deviation(m, k, n))
        # Misaligned reads waste less than misaligned arithmetic does.
        return Kernel(
            ideal_s=2.0 * m * k * n / peak,
            compute_s=self._compute_s(m, k, n, tile=best, peak=peak) / compute * slow,
            memory_s=(weight_bytes + moved) / rate * math.sqrt(slow),
            weight_s=weight_bytes / rate * math.sqrt(slow),
            weight_bytes=weight_bytes,
            overhead_s=self.overhead_s,
        )

    def _compute_s(self, m: int, k: int, n: int, *, tile: Tile, peak: float) -> float:
        return compute_seconds(
            m, k, n, tile=tile, cores=self.cores, peak_flops=peak, fill=self.fill
        )

    def _activation_bytes(self, count: float, cached: bool) -> float:
        """Bytes as memory sees them: what fits in the cache moves faster."""
        room = self.cache_bytes / 2
        served = count if cached else min(count, room * room / max(count, room))
        return served / self.cache_speedup + (count - served)

    def _peak(self, dtype: str) -> float:
        if dtype not in self.peak_flops:
            known = ", ".join(self.peak_flops)
            raise UsageError(f"simulated {self.name} has no {dtype}; it knows {known}")
        return self.peak_flops[dtype]

    def _deviation(self, m: int, k: int, n: int) -> float:
        """Between -1 and 1, drawn once for every product."""
        return 2.0 * random.Random(f"{self.name}:{self.seed}:{m}:{k}:{n}").random() - 1.0


def simulated_hardware(preset: str, *, seed: int = 0, **changes: Any) -> SimulatedHardware:
    """The hardware of a preset ("cpu-like" or "h200-like"), with some settings changed.

    Raises:
        UsageError: an unknown preset or setting.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    known = {each.name for each in dataclasses.fields(SimulatedHardware)}
    unknown = sorted(set(changes) - known)
    if unknown:
        allowed = ", ".join(sorted(known))
        raise UsageError(f"unknown setting {unknown[0]!r} of {preset}; known are {allowed}")
    return SimulatedHardware(**{"name": preset, **PRESETS[preset], **changes, "seed": seed})
