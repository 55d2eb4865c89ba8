"""A machine that is known by tables only: every latency is predicted, nothing is verified.

Layers are priced by the device's table, the rest of the network by a trace of the model
(predictor/network).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.errors import MeasurementError, UsageError, option_name
from autotune.core.forms import Form
from autotune.core.layers import LayerShape
from autotune.core.outline import Pass
from autotune.core.progress import Advance
from autotune.core.types import Address, Fingerprint
from autotune.devices.alignment import saving_ranks
from autotune.devices.specs import DeviceSpec
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.added_up import NetworkPrices, added_up
from autotune.predictor.network.model import NetworkAnchor, NetworkModel, PhaseModel
from autotune.profiler.backends.base import Backend
from autotune.profiler.measure.timing import PairedTiming
from autotune.tuning.machine import Machine

if TYPE_CHECKING:
    from autotune.predictor.layers.device_table import DeviceTable
    from autotune.tuning.builders import Builder
    from autotune.tuning.model import TracedModel
    from autotune.tuning.workspace import Workspace


class PredictedMachine(Machine):
    """A device elsewhere, known by a table: of the user, of this package, or of others."""

    verified = False

    def __init__(
        self,
        *,
        spec: DeviceSpec,
        backend: Backend,
        dtype: str,
        database: Address | None,
        extrapolate: bool,
        measure_seconds: float,
        any_backend: bool = True,
    ) -> None:
        """`database` is the user's own; `extrapolate` allows a table made from other devices'.

        Measurements of another backend serve where `any_backend`.
        """
        super().__init__(
            spec=spec,
            device_name=spec.title,
            backend=backend,
            dtype=dtype,
            threads=1,
            measure_seconds=measure_seconds,
        )
        self._database = database
        self._extrapolate = extrapolate
        self._any_backend = any_backend

    @cached_property
    def table(self) -> DeviceTable:
        """What is known of the device, read when first needed.

        Raises:
            UsageError: nothing is known in this dtype.
        """
        from autotune.predictor.layers.device_table import device_table

        return device_table(
            self.spec,
            self.dtype,
            backend=self.backend.name,
            any_backend=self._any_backend,
            database=self._database,
            extrapolate=self._extrapolate,
        )

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the table that predictions come from."""
        return self.table.fingerprint

    @property
    def rank_multiple(self) -> int:
        """Of the device, or coarser where the table knows only coarser ranks."""
        return max(self.spec.rank_multiple(self.dtype), self.table.rank_multiple)

    def prepare(self) -> None:
        """Read the device's table, so that a missing one fails early."""
        _ = self.table

    def _has_form(self, form: Form) -> bool:
        """Tables hold plain pairs in the model's own dtype."""
        return not form.suffix

    def sources(self) -> list[str]:
        """The sources of the table, and how the rest of the network is modelled."""
        rest = f"rest of the network modelled: {self.table.attention.source}, memory-bound kernels"
        return [*self.table.sources, rest]

    def known_layers(self, *, allow_extrapolation: bool) -> tuple[LatencyPredictor, list[str]]:
        """The table's predictor, and no notes."""
        del allow_extrapolation
        return self.table.predictor, list(self.table.sources)

    def network_prices(self, *, allow_extrapolation: bool) -> tuple[NetworkPrices, list[str]]:
        """Those of the device's table."""
        del allow_extrapolation
        return self.table.prices(self.dtype), self.sources()

    def measure_layers(
        self, shapes: Collection[LayerShape], workspace: Workspace, *, stage: str
    ) -> LatencyPredictor:
        """Nothing can be measured: the table as it is."""
        del shapes, workspace, stage
        return self.table.predictor

    def compare(
        self, builds: Sequence[Path], inputs: Path, *, final: bool, advance: Advance
    ) -> PairedTiming:
        """Not possible here.

        Raises:
            MeasurementError: always.
        """
        del builds, inputs, final, advance
        raise MeasurementError(
            f"{self.device_name} is not on this machine, so nothing can be timed on it; tune "
            "there, or on a farm that it has joined"
        )

    def network(self, builder: Builder, *, all_pairs: bool = False) -> NetworkModel:
        """Σ layers + rest for every phase, without any measurement."""
        del all_pairs  # in the network's own dtype, which are always priced
        model, predictor = builder.model, self.table.predictor
        with builder.workspace.stage("predict the dense network"):
            predictor.prepare(self._wanted(model))
            self._require_known(model)
            phases = [
                PhaseModel(
                    name=phase,
                    count=count,
                    anchor=self._anchor(model, phase),
                    predictor=predictor,
                    sites=model.choices_in(phase),
                    dtype=self.dtype,
                )
                for phase, count in model.workload.passes.items()
            ]
        return NetworkModel(phases=tuple(phases))

    def _require_known(self, model: TracedModel) -> None:
        """Refuse layers beyond the table, unless a guess is allowed."""
        for phase in model.workload.passes:
            for shape in model.dense_shapes(phase, self.dtype):
                beyond = self.table.predictor.estimate(shape).source == "extrapolated"
                if beyond and not self._extrapolate:
                    raise UsageError(
                        f"{shape.tokens} tokens, {shape.in_features}x{shape.out_features} lie "
                        f"beyond what is known of {self.spec.name}; give a smaller workload, or "
                        f"allow a guess with {option_name('machine.allow_extrapolation')}"
                    )

    def _wanted(self, model: TracedModel) -> list[LayerShape]:
        """Every shape that a plan may hold."""
        dense = {
            s for phase in model.workload.passes for s in model.dense_shapes(phase, self.dtype)
        }
        return [
            shape.with_form(Form(rank=rank))
            for shape in sorted(dense)
            for rank in (
                0,
                *saving_ranks(
                    self.rank_multiple,
                    in_features=shape.in_features,
                    out_features=shape.out_features,
                ),
            )
        ]

    def _anchor(self, model: TracedModel, phase: str) -> NetworkAnchor:
        from autotune.compress.decode import decode_step
        from autotune.compress.operations import trace_operations
        from autotune.profiler.backends.torch_layers import TORCH_DTYPES

        operations = trace_operations(
            model.loaded.model,
            [site for site in model.choices_in(phase) if not site.members],
            inputs=model.example_inputs(phase),
            dtype=TORCH_DTYPES[self.dtype],
            causal=model.task.has_decode,
            call=decode_step if phase == "decode" else None,
        )
        found = Pass(sites=model.choices_in(phase), operations=operations)
        return added_up(found, self.table.prices(self.dtype))
