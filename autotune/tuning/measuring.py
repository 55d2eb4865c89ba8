"""A machine that measures: layers into the latency database, networks in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from autotune.core.errors import UsageError
from autotune.core.forms import NATIVE
from autotune.core.layers import LayerShape
from autotune.core.progress import Advance
from autotune.core.types import Address, Fingerprint
from autotune.devices.detect import cpu_features
from autotune.devices.health import CpuReading, disturbances
from autotune.devices.roofline import Roofline
from autotune.devices.specs import DeviceSpec
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.edges import WithinEdges, edges_of
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.network.added_up import NetworkPrices
from autotune.predictor.network.model import NetworkModel, PhaseModel
from autotune.profiler.backends.base import Backend
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.records import Measurement
from autotune.profiler.measure.nodes import SiteProfile
from autotune.profiler.measure.settling import Settled, measure_wanted
from autotune.profiler.measure.tasks import TaskRunner
from autotune.profiler.measure.timing import PairedTiming
from autotune.results.layer_timings import LayerTimings
from autotune.tuning.anchors import measure_anchor
from autotune.tuning.machine import Machine
from autotune.tuning.model import TracedModel, dense_layers
from autotune.tuning.network_timing import (
    brief_policy,
    layer_looks,
    layer_policy,
    network_policy,
    network_subject,
    product_sd_s,
    time_subjects,
)
from autotune.tuning.planned_layers import planned_layers

if TYPE_CHECKING:
    from autotune.tuning.builders import Builder
    from autotune.tuning.workspace import Workspace

_SHOWN_FAILURES = 3
# Native and one more: to look at the other beforehand saves nothing.
_FEW_PRECISIONS = 2


class SiteProfiler(Protocol):
    """Profiles the sites of a running network (`profiler.measure.nodes.profile_sites`)."""

    def __call__(
        self, build: Path, inputs: Path, *, sites: Sequence[str], advance: Advance
    ) -> SiteProfile | None:
        """Seconds of every site, and of the whole network; None where sites are not told apart."""


class MeasuringMachine(Machine):
    """A device that `runner` reaches, on this host or elsewhere, and the database of its layers."""

    verified = True

    def __init__(
        self,
        *,
        spec: DeviceSpec,
        fingerprint: Fingerprint,
        backend: Backend,
        runner: TaskRunner,
        database: Address,
        measure_seconds: float,
        profile_sites: SiteProfiler | None = None,
        read_host: Callable[[], CpuReading] | None = None,
        remeasure: bool = False,
    ) -> None:
        """Without `profile_sites`, shares are timed beside the network instead of inside it.

        `read_host` reads the processor where the device is this host's. With `remeasure`, layers
        are measured once more by this machine even if their timings are known and settled.
        """
        super().__init__(
            spec=spec,
            device_name=fingerprint.device_name,
            backend=backend,
            dtype=fingerprint.dtype,
            threads=fingerprint.threads,
            measure_seconds=measure_seconds,
        )
        self.runner = runner
        self.database_address = database
        self._fingerprint = fingerprint
        self._profile_sites = profile_sites
        self._read_host = read_host
        self._host: CpuReading | None = None
        self._remeasure = remeasure
        self._timed: set[LayerShape] = set()
        self._wanted: set[LayerShape] = set()
        self._resources = ExitStack()

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the device that the runner reaches."""
        return self._fingerprint

    def inference_dtypes(self) -> tuple[str, ...]:
        """Those of the backend."""
        return self.backend.inference_dtypes(self.dtype)

    def in_dtype(self, dtype: str) -> MeasuringMachine:
        """With the same runner and database, and what is known of layers in `dtype`.

        Raises:
            UsageError: it is not one of `inference_dtypes`.
        """
        if dtype not in self.inference_dtypes():
            raise UsageError(f"networks run in {self.dtype} on {self.device_name}, not in {dtype}")
        _ = self.database  # opened once, for both
        other = copy.copy(self)
        other.dtype = dtype
        other._fingerprint = replace(self._fingerprint, dtype=dtype)
        other._timed, other._wanted = set(), set()
        return other

    @property
    def product_sd_s(self) -> float:
        """That of the device's kind, with so many threads."""
        return product_sd_s(self.spec.kind, self.threads)

    @property
    def rank_multiple(self) -> int:
        """That of the device's sheet."""
        return self.spec.rank_multiple(self.dtype)

    @cached_property
    def database(self) -> LatencyDatabase:
        """The latency database, opened when first needed."""
        return self._resources.enter_context(LatencyDatabase(self.database_address))

    def prepare(self) -> None:
        """Open the latency database, so that a bad address fails early; look at the host."""
        _ = self.database
        self._host = self._read_host() if self._read_host else None

    def after(self, other: Machine) -> Self:
        """With the other's reading of the host."""
        super().after(other)
        if isinstance(other, MeasuringMachine):
            self._host = other._host
        return self

    def disturbances(self) -> list[str]:
        """What would disturb a measurement on this host, before anything of ours ran."""
        return disturbances(self.spec.kind, self._host) if self._host else []

    def cpu_features(self) -> tuple[str, ...]:
        """Those of this host's processor, if that is the device."""
        return cpu_features() if self.spec.kind == "cpu" else ()

    def layer_timings(self) -> LayerTimings:
        """How many of the layers that were asked for settled, and the load before."""
        rows = self.database.measurements(self.fingerprint.id)
        found, host = Settled.of(rows, self._wanted), self._host
        return LayerTimings(
            settled=found.settled,
            total=found.total,
            load=host.load if host else None,
            cores=host.threads if host else None,
        )

    def own(self, resource: AbstractContextManager[object]) -> None:
        """Close `resource`, which was entered already, together with the machine."""
        self._resources.push(resource)

    def close(self) -> None:
        """Close the database and leave the farm, if there is one."""
        self._resources.close()

    def known_layers(self, *, allow_extrapolation: bool) -> tuple[LatencyPredictor, list[str]]:
        """The table of what the database holds of this machine."""
        table, rows = self._table(allow_extrapolation=allow_extrapolation), self._known()
        if not rows:
            return table, [f"the specification sheet of {self.spec.name} alone"]
        roofline = Roofline.of(self.spec, self.threads)
        within = WithinEdges(table, edges_of(rows, roofline, dtype=self.dtype), roofline=roofline)
        return within, [f"measurements of {self.fingerprint.id} in {self.database_address}"]

    def network_prices(self, *, allow_extrapolation: bool) -> tuple[NetworkPrices, list[str]]:
        """Layers as the database has them, and the rest by what these show of the machine."""
        layers, sources = self.known_layers(allow_extrapolation=allow_extrapolation)
        rows = self._known()
        # A head or a pooler is no layer that was measured: its sheet says what it may take.
        products = self.known_layers(allow_extrapolation=True)[0] if rows else layers
        prices = NetworkPrices.of_points(
            layers, rows, spec=self.spec, fingerprint=self.fingerprint, products=products
        )
        return prices, sources

    def _known(self) -> list[Measurement]:
        """What the database holds of this machine; to ask makes none."""
        address = self.database_address
        if isinstance(address, Path) and not address.exists():
            return []
        return self.database.measurements(self.fingerprint.id)

    def _table(self, *, allow_extrapolation: bool = False) -> LatencyTable:
        return LatencyTable(
            self._known(),
            Roofline.of(self.spec, self.threads),
            allow_extrapolation=allow_extrapolation,
            cliff=self.spec.cliff(self.dtype),
        )

    def measure_layers(
        self, shapes: Collection[LayerShape], workspace: Workspace, *, stage: str
    ) -> LatencyTable:
        """Measure those of `shapes` that are missing or in doubt; the table over all points."""
        wanted = set(shapes)
        self._wanted |= wanted
        found = measure_wanted(
            self.database,
            self.fingerprint,
            wanted=wanted,
            doubtful=self.doubtful(wanted),
            runner=self.runner,
            policy=layer_policy(self.spec.kind, self.measure_seconds),
            looks=layer_looks(self.spec.kind, self.threads),
            stage=lambda again: workspace.stage(f"{stage} again" if again else stage),
        )
        self.has_measured |= found.measured > 0
        self._timed |= wanted
        for row in found.failed[:_SHOWN_FAILURES]:
            workspace.note(f"failed: {row.shape}: {row.error}")
        return self._table()

    def doubtful(self, shapes: Collection[LayerShape]) -> set[LayerShape]:
        """Those of `shapes` that were measured and do not stand so, or shall be measured again."""
        again = set(shapes) - self._timed if self._remeasure else set()
        if self.keeps_timings:
            return again
        rows = self.database.measurements(self.fingerprint.id)
        known = {row.shape for row in rows} & set(shapes)
        table = self._table()
        return {s for s in known if s in again or table.estimate(s).source != "measured"}

    def promising_precisions(self, model: TracedModel, workspace: Workspace) -> tuple[str, ...]:
        """By a measurement of every dense layer in each, where there are several beside native."""
        if len(model.precisions) <= _FEW_PRECISIONS:
            return model.precisions
        table = self._measure_dense(model, workspace)

        def promises(precision: str) -> bool:
            shapes = dense_layers(model, precision, dtype=self.dtype)
            return precision == NATIVE or any(table.estimate(s).ratio < 1.0 for s in shapes)

        found = tuple(filter(promises, model.precisions))
        for precision in sorted(set(model.precisions) - set(found)):
            workspace.note(f"{precision} is left out: every layer is slower in it")
        return found

    def _measure_dense(self, model: TracedModel, workspace: Workspace) -> LatencyTable:
        """Every dense layer in every precision."""
        shapes = [
            shape
            for precision in model.precisions
            for shape in dense_layers(model, precision, dtype=self.dtype)
        ]
        return self.measure_layers(shapes, workspace, stage="measure dense layers")

    def network(self, builder: Builder, *, all_pairs: bool = False) -> NetworkModel:
        """From the measured layers, and one measurement of the dense network per phase.

        Dense layers in every precision come first: pairs are measured in those that may pay.
        """
        model = builder.model
        table = self._measure_dense(model, builder.workspace)
        phases = tuple(
            PhaseModel(
                name=phase,
                count=count,
                anchor=measure_anchor(self, builder, phase=phase),
                predictor=table,
                sites=model.choices_in(phase),
                dtype=self.dtype,
            )
            for phase, count in model.workload.passes.items()
        )
        network = NetworkModel(phases=phases)
        unpriced = frozenset(
            (site.name, precision)
            for site in model.choices
            for precision in model.precisions
            if not (all_pairs or network.pairs_may_pay(site, precision))
        )
        network = replace(network, unpriced=unpriced)
        wanted = planned_layers(network, model, spec=self.spec, points=self.backend.ranks_per_shape)
        table = self.measure_layers(wanted, builder.workspace, stage="measure layers")
        warning = self.layer_timings().warning
        if warning:
            builder.workspace.note(f"warning: {warning}")
        return network.on(table)

    def site_latencies(
        self, build: Path, inputs: Path, *, sites: Sequence[str], advance: Advance
    ) -> SiteProfile | None:
        """From the backend's own profile of the running network, where it has one."""
        if self._profile_sites is None or not self.backend.profiles_nodes:
            return None
        return self._profile_sites(build, inputs, sites=sites, advance=advance)

    def compare(
        self, builds: Sequence[Path], inputs: Path, *, final: bool, advance: Advance
    ) -> PairedTiming:
        """In a fresh process, more often while the result is wide (`time_subjects`)."""
        self.has_measured = True
        subjects = [network_subject(build, inputs) for build in builds]
        policy = network_policy(self.spec.kind, self.measure_seconds, final=final)
        return time_subjects(self.runner, subjects, policy=policy, advance=advance)

    def compare_briefly(
        self, builds: Sequence[Path], inputs: Path, *, streams: int = 1, advance: Advance
    ) -> PairedTiming | None:
        """In one fresh process."""
        self.has_measured = True
        subjects = [network_subject(build, inputs, streams=streams) for build in builds]
        policy = brief_policy(self.spec.kind, self.measure_seconds)
        return time_subjects(self.runner, subjects, policy=policy, advance=advance, times=1)
