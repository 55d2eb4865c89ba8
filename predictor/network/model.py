"""Latency of the whole network: what was measured, minus dense sites, plus chosen ones."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autotune.core.types import Estimate, LayerShape, Site, chosen_units
from autotune.predictor.base import LatencyPredictor


@dataclass(frozen=True, kw_only=True)
class NetworkAnchor:
    """The dense network timed in turn with its dense layers.

    `latency_s` of the network; `layer_shares`: seconds of one dense layer / seconds of the
    network, by dense shape, as medians of paired rounds. `relative_error`: by how much the network
    itself may be off at 90 % where it was not measured but added up.
    """

    latency_s: float
    layer_shares: Mapping[LayerShape, float] = field(default_factory=dict)
    relative_error: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PassModel:
    """One pass of the network: rest + sites; only what the sites change is predicted.

    latency(ranks) = dense · (1 + c · Σ_i share_i · (ratio_i(rank_i) − 1)), with c the correction
    learned from measured compressed networks (1 before any was measured). `units` are the layers
    on this pass's tokens, and joint sites of them that may stand in for their members. One
    workload runs the pass `count` times.
    """

    name: str = "prefill"
    anchor: NetworkAnchor
    predictor: LatencyPredictor
    units: Sequence[Site]
    dtype: str = "fp32"
    correction: float = 1.0
    count: int = 1

    @functools.cached_property
    def _shapes(self) -> dict[str, LayerShape]:
        return {unit.name: unit.shape(None, self.dtype) for unit in self.units}

    def shape(self, name: str, rank: int | None) -> LayerShape:
        """The shape of the unit `name` in this pass."""
        return dataclasses.replace(self._shapes[name], rank=rank)

    def site_latency_s(self, name: str, rank: int | None) -> float:
        """Seconds that the unit adds to one pass at `rank`, at the anchor's conditions."""
        shape = self.shape(name, rank)
        dense_s = self.anchor.latency_s * self.anchor.layer_shares[shape.dense]
        ratio = 1.0 if rank is None else self.predictor.estimate(shape).ratio
        return dense_s * (1.0 + self.correction * (ratio - 1.0))

    def predict(self, ranks: Mapping[str, int | None]) -> Estimate:
        """Seconds of one pass with `ranks` (missing = dense), and its interval."""
        ratio, half = self._ratio(ranks)
        error = self.anchor.relative_error
        return _around(self.anchor.latency_s, ratio, math.hypot(half, ratio * error))

    def ratio_interval(self, ranks: Mapping[str, int | None]) -> tuple[float, float]:
        """Low and high end of latency / dense latency: an error of both cancels."""
        ratio, half = self._ratio(ranks)
        return max(ratio - half, 0.0), ratio + half

    def _ratio(self, ranks: Mapping[str, int | None]) -> tuple[float, float]:
        """Latency / dense latency, and the half width of its interval.

        Layers of one shape share their error, so it adds up linearly among them; different shapes
        are taken as independent. An error of the dense network is one of every layer's share.
        """
        saved = 0.0
        spread: dict[LayerShape, float] = {}
        for site, rank in chosen_units(self.units, ranks):
            if rank is None:
                continue
            shape = self.shape(site.name, rank)
            estimate = self.predictor.estimate(shape)
            share = self.correction * self.anchor.layer_shares[shape.dense]
            saved += share * (1.0 - estimate.ratio)
            relative = (estimate.high_s - estimate.low_s) / (2 * estimate.latency_s)
            spread[shape.dense] = spread.get(shape.dense, 0.0) + share * estimate.ratio * relative
        share_error = saved * self.anchor.relative_error
        half = math.sqrt(sum(value**2 for value in (*spread.values(), share_error)))
        return 1.0 - saved, half


@dataclass(frozen=True, kw_only=True)
class NetworkModel:
    """What a latency budget is of: one pass, or a request, Σ count · pass.

    A request of many output tokens is its prefill once and its decode step once a token.
    """

    passes: tuple[PassModel, ...]

    @property
    def units(self) -> Sequence[Site]:
        """Layers and joint sites, on the tokens of the first pass."""
        return self.passes[0].units

    @property
    def dtype(self) -> str:
        """Of the weights."""
        return self.passes[0].dtype

    @property
    def dense_latency_s(self) -> float:
        """Seconds of the dense network."""
        return sum(one.count * one.anchor.latency_s for one in self.passes)

    def corrected(self, corrections: Sequence[float]) -> NetworkModel:
        """The same model with what measured networks taught of each pass."""
        pairs = zip(self.passes, corrections, strict=True)
        return NetworkModel(
            passes=tuple(dataclasses.replace(one, correction=c) for one, c in pairs)
        )

    def on(self, predictor: LatencyPredictor) -> NetworkModel:
        """The same model with other layer latencies."""
        passes = (dataclasses.replace(one, predictor=predictor) for one in self.passes)
        return NetworkModel(passes=tuple(passes))

    def site_latency_s(self, site: Site, rank: int | None) -> float:
        """Seconds that the site adds to the network at `rank`, at the anchors' conditions."""
        return sum(one.count * one.site_latency_s(site.name, rank) for one in self.passes)

    def layer_estimate(self, site: Site, rank: int | None) -> Estimate:
        """Seconds of the layer measured or predicted by itself, over all passes."""
        found = [
            (one.count, one.predictor.estimate(one.shape(site.name, rank))) for one in self.passes
        ]
        guesses = [estimate.source for _, estimate in found if estimate.source != "measured"]
        dense_s = sum(count * estimate.latency_s / estimate.ratio for count, estimate in found)
        latency_s = sum(count * estimate.latency_s for count, estimate in found)
        return Estimate(
            latency_s=latency_s,
            low_s=sum(count * estimate.low_s for count, estimate in found),
            high_s=sum(count * estimate.high_s for count, estimate in found),
            ratio=latency_s / dense_s,
            source=guesses[0] if guesses else "measured",
        )

    @property
    def rest_s(self) -> float:
        """Seconds that no choice of ranks changes; below zero when layers overlap."""
        layers = (unit for unit in self.units if not unit.members)
        return self.dense_latency_s - sum(self.site_latency_s(layer, None) for layer in layers)

    def predict(self, ranks: Mapping[str, int | None]) -> Estimate:
        """Seconds of the network with `ranks` (missing = dense), and its interval.

        The passes' tables are measured apart, so their errors are taken as independent.
        """
        found = [(one.count, one.predict(ranks)) for one in self.passes]
        latency_s = sum(count * estimate.latency_s for count, estimate in found)
        half = math.hypot(*(count * (e.high_s - e.latency_s) for count, e in found))
        dense_s = self.dense_latency_s
        return _around(dense_s, latency_s / dense_s, half / dense_s)


def _around(dense_s: float, ratio: float, half: float) -> Estimate:
    return Estimate(
        latency_s=dense_s * ratio,
        low_s=dense_s * max(ratio - half, 0.0),
        high_s=dense_s * (ratio + half),
        ratio=ratio,
        source="predicted",
    )
