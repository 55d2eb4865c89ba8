"""Latency of the whole network: what was measured, minus dense sites, plus chosen ones."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autotune.core.forms import DENSE, Form, Plan
from autotune.core.layers import LayerShape, Site, chosen_sites
from autotune.core.types import Estimate
from autotune.predictor.base import LatencyPredictor


@dataclass(frozen=True, kw_only=True)
class NetworkAnchor:
    """The dense network timed alternately with its dense layers.

    `latency_s` of the network; `layer_shares`: seconds of one dense layer / seconds of the
    network, by dense shape, as medians of paired rounds. `relative_error`: by how much the network
    itself may be off at 90 % where it was not measured but added up. `ratio` is 1, or where the
    network is run in another dtype than the model's own, its latency / that of the dense network in
    the model's dtype, which all ratios of plans refer to; `ratio_error` is the half width of its
    90 % interval.
    """

    latency_s: float
    layer_shares: Mapping[LayerShape, float] = field(default_factory=dict)
    relative_error: float = 0.0
    ratio: float = 1.0
    ratio_error: float = 0.0

    @property
    def reference_s(self) -> float:
        """Seconds of the dense network in the model's own dtype."""
        return self.latency_s / self.ratio


@dataclass(frozen=True, kw_only=True)
class PhaseModel:
    """One phase of the network in `dtype`: rest + sites; only what the sites change is predicted.

    latency(plan) = dense · (1 + c · Σ_i (share_i · ratio_i(form_i) − dense_i)), with c the
    correction learned from measured compressed networks (1 before any was measured), share_i of
    one dense layer of the site's shape, and dense_i of what the site replaces: the layer itself,
    or the members of a joint site, which run one by one in the dense network. `sites` are the sites
    on this phase's tokens, and joint sites of them that may stand in for their members. One
    workload runs the phase `count` times. `weight_dtype` is the dtype of the stored weights where
    that is another than the one that the network is run in.
    """

    name: str = "prefill"
    anchor: NetworkAnchor
    predictor: LatencyPredictor
    sites: Sequence[Site]
    dtype: str = "fp32"
    weight_dtype: str | None = None
    correction: float = 1.0
    count: int = 1

    @functools.cached_property
    def _shapes(self) -> dict[str, LayerShape]:
        return {site.name: site.shape(DENSE, self.dtype) for site in self.sites}

    @functools.cached_property
    def _dense_shares(self) -> dict[str, float]:
        """Share of the dense network of the layers that each site stands for."""
        shares = self.anchor.layer_shares
        return {
            site.name: sum(shares[self._shapes[name]] for name in site.layers)
            for site in self.sites
        }

    def shape(self, name: str, form: Form) -> LayerShape:
        """The shape of the site `name` in this phase."""
        return self._shapes[name].with_form(form)

    def site_latency_s(self, name: str, form: Form) -> float:
        """Seconds that the site adds to the phase in `form`, at the anchor's conditions."""
        added = 0.0 if form.is_unchanged else self._added(name, self._estimate(name, form))
        return self.anchor.latency_s * (self._dense_shares[name] + added)

    def _estimate(self, name: str, form: Form) -> Estimate:
        return self.predictor.estimate(self.shape(name, form))

    def _added(self, name: str, estimate: Estimate) -> float:
        """Share of the dense network that the site adds in the estimated form; saved: below 0."""
        share = self.anchor.layer_shares[self._shapes[name]] * estimate.ratio
        return self.correction * (share - self._dense_shares[name])

    def predict(self, plan: Plan) -> Estimate:
        """Seconds of the phase under `plan`, and their 90 % interval."""
        ratio, half = self.ratio(plan)
        error = self.anchor.relative_error
        return _around(self.anchor.reference_s, ratio, half=math.hypot(half, ratio * error))

    def ratio_interval(self, plan: Plan) -> tuple[float, float]:
        """Low and high end of latency / dense latency: an error of both cancels."""
        ratio, half = self.ratio(plan)
        return max(ratio - half, 0.0), ratio + half

    def ratio(self, plan: Plan) -> tuple[float, float]:
        """Latency / that of the dense network in the model's own dtype, and half its interval."""
        kept, half = self._ratio(plan)
        anchor = self.anchor
        return kept * anchor.ratio, math.hypot(half * anchor.ratio, kept * anchor.ratio_error)

    def _ratio(self, plan: Plan) -> tuple[float, float]:
        """Latency / that of the dense network in this dtype, and the half width of its interval.

        Layers of one shape share their error, so it adds up linearly among them; different shapes
        are taken as independent. An error of the dense network is one of every layer's share.
        """
        saved = 0.0
        spread: dict[LayerShape, float] = {}
        for site, form in chosen_sites(self.sites, plan):
            if form.is_unchanged:
                continue
            estimate = self._estimate(site.name, form)
            saved -= self._added(site.name, estimate)
            dense = self._shapes[site.name]
            share = self.correction * self.anchor.layer_shares[dense] * estimate.ratio
            relative = (estimate.ratio_high - estimate.ratio_low) / (2 * estimate.ratio)
            spread[dense] = spread.get(dense, 0.0) + share * relative
        share_error = saved * self.anchor.relative_error
        half = math.sqrt(sum(value**2 for value in (*spread.values(), share_error)))
        return 1.0 - saved, half


@dataclass(frozen=True, kw_only=True)
class NetworkModel:
    """What a latency budget covers: one phase, or a request, Σ count · phase.

    A request of many output tokens is its prefill once and its decode step once a token.
    `unpriced`: names of sites with the precisions whose pairs have no latency, as they cannot pay.
    """

    phases: tuple[PhaseModel, ...]
    unpriced: frozenset[tuple[str, str]] = frozenset()

    @property
    def sites(self) -> Sequence[Site]:
        """Sites and joint sites, on the tokens of the first phase."""
        return self.phases[0].sites

    @property
    def dtype(self) -> str:
        """The dtype that the network is run in."""
        return self.phases[0].dtype

    @property
    def weight_dtype(self) -> str:
        """The dtype that the weights are stored in."""
        return self.phases[0].weight_dtype or self.dtype

    @property
    def dense_latency_s(self) -> float:
        """Seconds of the dense network in the model's own dtype over all phases."""
        return sum(one.count * one.anchor.reference_s for one in self.phases)

    def corrected(self, corrections: Sequence[float]) -> NetworkModel:
        """The same model with the correction that measurements taught of each phase."""
        pairs = zip(self.phases, corrections, strict=True)
        phases = tuple(dataclasses.replace(one, correction=c) for one, c in pairs)
        return dataclasses.replace(self, phases=phases)

    def on(self, predictor: LatencyPredictor) -> NetworkModel:
        """The same model with other layer latencies."""
        phases = tuple(dataclasses.replace(one, predictor=predictor) for one in self.phases)
        return dataclasses.replace(self, phases=phases)

    def site_latency_s(self, site: Site, form: Form) -> float:
        """Seconds that the site adds to the network in `form`, at the anchors' conditions."""
        return sum(one.count * one.site_latency_s(site.name, form) for one in self.phases)

    def layer_estimate(self, site: Site, form: Form) -> Estimate:
        """Seconds of the layer measured or predicted by itself, over all phases."""
        found = [
            (one.count, one.predictor.estimate(one.shape(site.name, form))) for one in self.phases
        ]
        guesses = [estimate.source for _, estimate in found if estimate.source != "measured"]
        dense = [count * estimate.latency_s / estimate.ratio for count, estimate in found]
        latency_s = sum(count * estimate.latency_s for count, estimate in found)
        highs = (d * e.ratio_high for d, (_, e) in zip(dense, found, strict=True))
        ratio = latency_s / sum(dense)
        return Estimate(
            latency_s=latency_s,
            low_s=sum(count * estimate.low_s for count, estimate in found),
            high_s=sum(count * estimate.high_s for count, estimate in found),
            ratio=ratio,
            source=guesses[0] if guesses else "measured",
            ratio_half_width=math.log(sum(highs) / sum(dense) / ratio),
        )

    def pairs_may_pay(self, site: Site, precision: str) -> bool:
        """Whether pairs in `precision` may be faster than pairs in the network's own dtype.

        They are not where the dense layer in `precision` takes longer by the whole of its interval.
        """
        return not self.layer_estimate(site, Form(precision=precision)).is_above_dense

    def prices_pairs(self, site: Site, precision: str) -> bool:
        """Whether pairs of the site in `precision` have a latency."""
        return (site.name, precision) not in self.unpriced

    @property
    def rest_s(self) -> float:
        """Seconds that no plan changes; below zero when layers overlap."""
        alone = (site for site in self.sites if not site.members)
        whole_s = sum(one.count * one.anchor.latency_s for one in self.phases)
        return whole_s - sum(self.site_latency_s(site, DENSE) for site in alone)

    def predict(self, plan: Plan) -> Estimate:
        """Seconds of the network under `plan`, and their 90 % interval.

        The phases' tables are measured apart, so their errors are taken as independent.
        """
        found = [(one.count, one.predict(plan)) for one in self.phases]
        latency_s = sum(count * estimate.latency_s for count, estimate in found)
        half = math.hypot(*(count * (e.high_s - e.latency_s) for count, e in found))
        dense_s = self.dense_latency_s
        return _around(dense_s, latency_s / dense_s, half=half / dense_s)


def _around(dense_s: float, ratio: float, *, half: float) -> Estimate:
    return Estimate(
        latency_s=dense_s * ratio,
        low_s=dense_s * max(ratio - half, 0.0),
        high_s=dense_s * (ratio + half),
        ratio=ratio,
        source="predicted",
    )
