"""A network on a device by its latency table: dense, at uniform ranks, and in other precisions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autotune.core.errors import NotPricedError
from autotune.core.forms import DENSE, Form, Plan, low_rank
from autotune.core.layers import LayerShape, Site
from autotune.core.outline import ModelOutline
from autotune.devices.alignment import saving_ranks
from autotune.devices.specs import HALF_PRECISION
from autotune.layers.network_records import Change
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.added_up import NetworkPrices, added_up
from autotune.predictor.network.all_reduce import AllReduceLatency
from autotune.predictor.network.model import PhaseModel
from autotune.predictor.network.rest import RestLatency
from autotune.predictor.remembered import Remembered

# Shares of the parameters of each layer that uniform ranks keep.
KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
# The whole workload, beside its phases by name.
WHOLE = ""

Changes = Mapping[str, Change]


@dataclass(frozen=True, kw_only=True)
class PricedNetwork:
    """The phases of an outlined model, each with a price for every operation.

    Ranks are multiples of `multiple`.
    """

    prices: NetworkPrices
    phases: tuple[PhaseModel, ...]
    multiple: int

    @staticmethod
    def of(
        outline: ModelOutline,
        counts: Mapping[str, int],
        *,
        prices: NetworkPrices,
        multiple: int,
        sums: AllReduceLatency | None = None,
    ) -> PricedNetwork:
        """A model whose workload runs each phase so many times.

        `sums` prices what several devices that share the model add up.

        Raises:
            MeasurementError: a dense layer has no price.
        """
        phases = tuple(
            PhaseModel(
                name=name,
                count=counts[name],
                anchor=added_up(one, prices, more=_exchanged(sums, one.summed) if sums else None),
                predictor=prices.layers,
                sites=[site for site in one.sites if not site.members],
                dtype=prices.dtype,
            )
            for name, one in outline.passes.items()
        )
        return PricedNetwork(prices=prices, phases=phases, multiple=multiple)

    def on(self, predictor: LatencyPredictor) -> PricedNetwork:
        """The same network with other latencies of changed layers."""
        phases = tuple(replace(one, predictor=predictor) for one in self.phases)
        return replace(self, phases=phases)

    def ranks(self, *, in_features: int, out_features: int) -> list[int]:
        """Aligned ranks whose pairs hold fewer parameters than the layer."""
        return saving_ranks(self.multiple, in_features=in_features, out_features=out_features)

    def uniform(self, keep: float) -> dict[str, Form]:
        """See `uniform_plan`."""
        return uniform_plan(self.phases[0].sites, keep, multiple=self.multiple)

    def in_precision(self, precision: str) -> dict[str, Form]:
        """The plan with every layer dense in a precision."""
        return {site.name: Form(precision=precision) for site in self.phases[0].sites}

    def changed(self, change: Change, plan: Plan) -> Changes:
        """`change` with its ratios under a plan, by phase and of the whole workload.

        Raises:
            NotPricedError: a layer under the plan has no price.
        """
        found = {one.name: _with_ratio(change, one, plan=plan) for one in self.phases}
        return {**found, WHOLE: self._whole(change, found)}

    def _whole(self, change: Change, found: Changes) -> Change:
        """What is wrong with one phase is taken to be wrong with the others too."""
        seconds = [one.count * one.anchor.latency_s for one in self.phases]

        def mean(ratios: Sequence[float]) -> float:
            return sum(s * ratio for s, ratio in zip(seconds, ratios, strict=True)) / sum(seconds)

        parts = [found[one.name] for one in self.phases]
        return replace(
            change,
            ratio=mean([part.ratio for part in parts]),
            ratio_low=mean([part.ratio_low for part in parts]),
            ratio_high=mean([part.ratio_high for part in parts]),
        )


@dataclass(kw_only=True)
class ChangedNetwork:
    """Changes of a network, and why others have none."""

    found: list[Changes] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(network: PricedNetwork, device: str) -> ChangedNetwork:
        """At uniform ranks, and in each precision of the device's table, else of others' tables."""
        every = ChangedNetwork()
        for keep in KEEPS:
            if plan := network.uniform(keep):
                every.add(network, _change(f"keep {keep:g}", keep=keep), plan=plan)
        own = ChangedNetwork()
        for precision in network.prices.precisions:
            own.add(network, _change(precision), plan=network.in_precision(precision))
        if not own.found and network.prices.dtype in HALF_PRECISION:
            own = _by_others(network, device)
        return ChangedNetwork(found=every.found + own.found, refused=every.refused | own.refused)

    def add(self, network: PricedNetwork, change: Change, *, plan: Plan) -> None:
        """Price one more."""
        try:
            self.found.append(network.changed(change, plan))
        except NotPricedError as error:
            self.refused[change.name] = str(error)


def uniform_plan(sites: Iterable[Site], keep: float, *, multiple: int) -> dict[str, Form]:
    """The plan with the largest multiples as ranks that keep at most this share of each layer.

    Layers where even the smallest rank keeps more are left dense.
    """
    plan = {}
    for site in sites:
        k, n = site.in_features, site.out_features
        ranks = saving_ranks(multiple, in_features=k, out_features=n)
        if kept := [rank for rank in ranks if rank * (k + n) <= keep * k * n]:
            plan[site.name] = low_rank(kept[-1])
    return plan


def asked(network: PricedNetwork) -> Iterator[LayerShape]:
    """Layers in native precision that will be asked for, so that they are learned together."""
    shapes = {one.shape(site.name, DENSE) for one in network.phases for site in one.sites}
    for dense in sorted(shapes):
        yield dense
        ranks = network.ranks(in_features=dense.in_features, out_features=dense.out_features)
        yield from (dense.with_form(low_rank(rank)) for rank in ranks)


def _by_others(network: PricedNetwork, device: str) -> ChangedNetwork:
    """All layers dense in each precision that serving stacks timed on the device."""
    # Brings pandas along, which a table of this profiler does without.
    from autotune.predictor.layers.precisions import PricedPrecision, stacks_of
    from autotune.predictor.layers.transfer import Transfer

    every, transfer = ChangedNetwork(), Transfer.of(device)
    for precision, stacks in stacks_of(device).items():
        one, plan = ChangedNetwork(), network.in_precision(precision)
        for ratios in stacks:
            change = _change(precision, stacks=(ratios.stack,))
            priced = PricedPrecision(network.prices.layers, ratios, transfer=transfer)
            one.add(network.on(Remembered(priced)), change, plan=plan)
        if one.found:
            every.found.append(_over_stacks(one.found))
        else:
            every.refused |= one.refused
    return every


def _over_stacks(found: Sequence[Changes]) -> Changes:
    """One change as several serving stacks run it: their median, from the lowest to the highest."""
    stacks = tuple(sorted(name for each in found for name in each[WHOLE].stacks))
    return {
        phase: replace(
            first,
            ratio=statistics.median(each[phase].ratio for each in found),
            ratio_low=min(each[phase].ratio_low for each in found),
            ratio_high=max(each[phase].ratio_high for each in found),
            stacks=stacks,
        )
        for phase, first in found[0].items()
    }


def _change(name: str, *, keep: float | None = None, stacks: tuple[str, ...] = ()) -> Change:
    """A change that is not priced yet."""
    return Change(
        name=name,
        kind="precision" if keep is None else "rank",
        ratio=1.0,
        ratio_low=1.0,
        ratio_high=1.0,
        keep=keep,
        stacks=stacks,
    )


def _exchanged(sums: AllReduceLatency, summed: Sequence[int]) -> RestLatency:
    """All sums of a pass; what is wrong with one is taken to be wrong with all."""
    found = [sums.seconds(values) for values in summed]
    total = sum(seconds for seconds, _ in found)
    width = max((width for _, width in found), default=0.0)
    return RestLatency(latency_s=total, half_width=width)


def _with_ratio(change: Change, phase: PhaseModel, *, plan: Plan) -> Change:
    ratio, half = phase.ratio(plan)
    return replace(change, ratio=ratio, ratio_low=max(ratio - half, 0.0), ratio_high=ratio + half)
