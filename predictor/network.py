"""Latency of the whole network: what was measured, minus dense sites, plus chosen ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autotune.predictor.base import LatencyPredictor
from autotune.types import Estimate, LayerShape, Site, chosen_units


@dataclass(frozen=True, kw_only=True)
class NetworkAnchor:
    """The dense network timed in turn with its dense layers.

    `latency_s` of the network; `layer_shares`: seconds of one dense layer / seconds of the
    network, by dense shape, as medians of paired rounds.
    """

    latency_s: float
    layer_shares: Mapping[LayerShape, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NetworkModel:
    """network = rest + sites; only what the sites change is predicted.

    latency(ranks) = dense · (1 + c · Σ_i share_i · (ratio_i(rank_i) − 1)), with c the correction
    learned from measured compressed networks (1 before any was measured). `units` are the layers,
    and joint sites of them that may stand in for their members.
    """

    anchor: NetworkAnchor
    predictor: LatencyPredictor
    units: Sequence[Site]
    dtype: str = "fp32"
    correction: float = 1.0

    def site_latency_s(self, site: Site, rank: int | None) -> float:
        """Seconds that the site adds to the network at `rank`, at the anchor's conditions."""
        shape = site.shape(rank, self.dtype)
        dense_s = self.anchor.latency_s * self.anchor.layer_shares[shape.dense]
        return dense_s * (1.0 + self.correction * (self._ratio(shape) - 1.0))

    def _ratio(self, shape: LayerShape) -> float:
        return 1.0 if shape.rank is None else self.predictor.estimate(shape).ratio

    @property
    def rest_s(self) -> float:
        """Seconds that no choice of ranks changes; below zero when layers overlap."""
        layers = (unit for unit in self.units if not unit.members)
        dense_s = sum(self.site_latency_s(layer, None) for layer in layers)
        return self.anchor.latency_s - dense_s

    def predict(self, ranks: Mapping[str, int | None]) -> Estimate:
        """Seconds of the network with `ranks` (missing = dense), and its interval.

        Layers of one shape share their error, so it adds up linearly among them; different shapes
        are taken as independent.
        """
        saved = 0.0
        spread: dict[LayerShape, float] = {}
        for site, rank in chosen_units(self.units, ranks):
            if rank is None:
                continue
            estimate = self.predictor.estimate(site.shape(rank, self.dtype))
            dense = site.shape(None, self.dtype)
            share = self.correction * self.anchor.layer_shares[dense]
            saved += share * (1.0 - estimate.ratio)
            relative = (estimate.high_s - estimate.low_s) / (2 * estimate.latency_s)
            spread[dense] = spread.get(dense, 0.0) + share * estimate.ratio * relative
        ratio = 1.0 - saved
        half = math.sqrt(sum(value**2 for value in spread.values()))
        dense_s = self.anchor.latency_s
        return Estimate(
            latency_s=dense_s * ratio,
            low_s=dense_s * max(ratio - half, 0.0),
            high_s=dense_s * (ratio + half),
            ratio=ratio,
            source="predicted",
        )
