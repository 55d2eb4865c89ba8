"""Measure the ranks whose guessed latency could change the plan, before anything is built.

A solver picks the guesses that flatter most. So the plan is solved as if every guess were at the
low end of its interval: where the intervals hold, a rank that is not chosen even so would not be
chosen if it were measured.
The guessed ranks that are chosen are measured, and the plan is solved again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from autotune.core.forms import Plan
from autotune.core.layers import LayerShape, chosen_sites
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.model import NetworkModel

TURNS = 3


class Optimistic(LatencyPredictor):
    """Another predictor's guesses at the low ends of their intervals; measurements as they are."""

    def __init__(self, predictor: LatencyPredictor) -> None:
        self._predictor = predictor

    def prepare(self, shapes: Sequence[LayerShape]) -> None:
        """Prepare the predictor whose estimates are lowered."""
        self._predictor.prepare(shapes)

    def estimate(self, shape: LayerShape) -> Estimate:
        """The low end as the value."""
        found = self._predictor.estimate(shape)
        if found.source == "measured":
            return found
        ratio = found.ratio * found.low_s / found.latency_s
        return dataclasses.replace(found, latency_s=found.low_s, ratio=ratio)


def measure_decisions(
    network: NetworkModel,
    solve: Callable[[NetworkModel], Plan],
    *,
    measure: Callable[[list[LayerShape]], LatencyPredictor],
    turns: int = TURNS,
) -> NetworkModel:
    """`network` with what was measured of the plans that `solve` hopes for.

    `measure` times layers and returns the table with them; at most `turns` times.
    """
    for _ in range(turns):
        predictor = network.phases[0].predictor
        plan = solve(network.on(Optimistic(predictor)))
        doubtful = guessed(network, plan)
        if not doubtful:
            break
        network = network.on(measure(doubtful))
    return network


def guessed(network: NetworkModel, plan: Plan) -> list[LayerShape]:
    """The chosen shapes, in any pass, that were not measured."""
    chosen = {
        one.shape(site.name, form): one.predictor
        for one in network.phases
        for site, form in chosen_sites(one.sites, plan)
        if not form.is_unchanged
    }
    return sorted(s for s, table in chosen.items() if table.estimate(s).source != "measured")
