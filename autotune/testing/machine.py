"""A simulated machine: what a tuning asks for latencies, without a device."""

from __future__ import annotations

from pathlib import Path

from autotune.core.forms import Plan
from autotune.core.types import Workload
from autotune.testing.disturbance import CALM, Disturbance
from autotune.testing.hardware import Hardware
from autotune.testing.network_file import SimulatedNetwork
from autotune.testing.runner import SimulatedRunner
from autotune.tuning.builders import Builder
from autotune.tuning.compression import Compression
from autotune.tuning.measuring import MeasuringMachine


class SimulatedMachine(MeasuringMachine):
    """A machine whose layers and networks take what simulated hardware says.

    It measures as real machines do, in the same code, with the disturbances it is given; the
    latency database is the SQLite file `database`. `runner` knows the truth, without noise.
    `product_sd_s` is what it believes of spells; whether there are any, `disturbance` says.
    """

    def __init__(
        self,
        hardware: Hardware,
        database: Path,
        *,
        disturbance: Disturbance = CALM,
        seed: int = 0,
        dtype: str | None = None,
        measure_seconds: float = 2.0,
        remeasure: bool = False,
        product_sd_s: float = 0.0,
    ) -> None:
        self._product_sd_s = product_sd_s
        self.simulated = SimulatedRunner(hardware, disturbance, seed=seed)
        settings = hardware.settings
        super().__init__(
            spec=settings.spec,
            fingerprint=self.simulated.fingerprint(dtype or settings.default_dtype),
            backend=self.simulated.backend,
            runner=self.simulated,
            database=database,
            measure_seconds=measure_seconds,
            remeasure=remeasure,
        )

    @property
    def product_sd_s(self) -> float:
        """As it was given."""
        return self._product_sd_s


class SimulatedBuilder(Builder):
    """Builds descriptions of networks, which a `SimulatedMachine` times."""

    def dense(self, phase: str) -> Path:
        """The network as the model has it."""
        return self._describe("dense", phase, plan={})

    def compressed(self, phase: str, compression: Compression | None, *, plan: Plan) -> Path:
        """The network under `plan`; no factors are needed."""
        del compression
        return self._describe("compressed", phase, plan=plan)

    def inputs(self, phase: str, workload: Workload | None = None) -> Path:
        """An empty file: nothing is computed."""
        del workload
        return self.workspace.file(
            "inputs", phase, suffix=".safetensors", build=lambda path: path.touch()
        )

    def _describe(self, name: str, phase: str, *, plan: Plan) -> Path:
        network = SimulatedNetwork(
            sites=self.model.choices_in(phase),
            plan={name: form for name, form in plan.items() if not form.is_unchanged},
            phase=phase,
            dtype=self.machine.dtype,
        )
        return self.workspace.file(name, network.to_json(), suffix=".json", build=network.write)
