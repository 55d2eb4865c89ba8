"""Seconds of a whole network on simulated hardware, which are not the sum of its layers.

Four interactions make the difference, all of them non-linear in the plan:
- Within a block, work that waits for memory runs beside work that computes (`overlap`).
- The start of a kernel hides behind whatever ran before it, also behind another layer.
- Weights that fit in the cache together stay there from one pass to the next, so a network that
  shrinks below the cache gets faster in layers that the plan did not touch.
- The closer arithmetic comes to the peak rate over the whole pass, the lower the clocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotune.core.errors import UsageError
from autotune.core.layers import Site
from autotune.testing.kernels import Kernel, overlapped

if TYPE_CHECKING:
    from autotune.testing.hardware import SimulatedHardware

PricedLayer = tuple[Site, tuple[Kernel, ...]]


def network_seconds(
    layers: Sequence[PricedLayer],
    dense: Sequence[PricedLayer],
    *,
    phase: str,
    settings: SimulatedHardware,
) -> float:
    """Seconds of one pass over `layers`; `dense` are the same layers without a plan.

    What is no linear layer takes a fixed share of the dense network, by `phase`.

    Raises:
        UsageError: a phase that the hardware has no share for.
    """
    if phase not in settings.rest_share:
        known = ", ".join(settings.rest_share)
        raise UsageError(f"unknown phase {phase!r}; {settings.name} knows {known}")
    share = settings.rest_share[phase]
    rest_s = share / (1.0 - share) * _linear_seconds(dense, settings)
    return rest_s + _linear_seconds(layers, settings)


def _linear_seconds(layers: Sequence[PricedLayer], settings: SimulatedHardware) -> float:
    if not layers:
        return 0.0
    faster = _resident_saving(layers, settings)
    total, before_s, ideal_s = 0.0, 0.0, 0.0
    for _, group in itertools.groupby(layers, key=lambda layer: layer[0].block):
        compute, memory, alone = 0.0, 0.0, 0.0
        for kernel in itertools.chain.from_iterable(kernels for _, kernels in group):
            memory_s = kernel.memory_s - faster * kernel.weight_s
            busy_s = overlapped(kernel.compute_s, memory_s)
            hidden_s = settings.hidden_start * before_s
            total += max(0.1 * kernel.overhead_s, kernel.overhead_s - hidden_s)
            compute, memory, alone = compute + kernel.compute_s, memory + memory_s, alone + busy_s
            before_s, ideal_s = busy_s, ideal_s + kernel.ideal_s
        total += (1.0 - settings.overlap) * alone + settings.overlap * overlapped(compute, memory)
    # Power rises faster than the rate of arithmetic, and clocks fall with it.
    return total * (1.0 + settings.throttle * (ideal_s / total) ** 2)


def _resident_saving(layers: Sequence[PricedLayer], settings: SimulatedHardware) -> float:
    """The part of the time to read weights that the cache saves.

    Passes walk through the weights in the same order, so a cache that is a little too small loses
    most of them: the share that stays falls with the square of the excess.
    """
    weights = sum(kernel.weight_bytes for _, kernels in layers for kernel in kernels)
    resident = min(1.0, settings.cache_bytes / weights) ** 2
    return float(resident * (1.0 - 1.0 / settings.cache_speedup))
