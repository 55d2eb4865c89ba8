"""Networks timed alternately with the dense one; what was measured is kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autotune.results.measured import Measured, MeasuredPass
from autotune.tuning.builders import Builder
from autotune.tuning.machine import Machine
from autotune.tuning.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class PairedNetworks:
    """Times networks on `machine`; `reference` builds the dense one that they are compared with."""

    reference: Builder
    machine: Machine
    workspace: Workspace

    def measured(
        self, builds: Mapping[str, Path], *, label: str, final: bool = False, brief: bool = False
    ) -> Measured:
        """Every phase of a network, as it is at this time.

        Args:
            builds: The network by phase.
            label: What the measurement is for; the same network under another label is timed anew.
            final: Whether it is handed out, and gets twice the time.
            brief: Whether a quarter of the time is enough.

        Raises:
            MeasurementError: the backend failed or hung.
        """
        counts = self.reference.model.workload.passes
        return Measured(
            passes=tuple(
                replace(
                    self._phase(name, builds[name], label=label, final=final, brief=brief),
                    count=counts[name],
                )
                for name in counts
            )
        )

    def _phase(
        self, phase: str, build: Path, *, label: str, final: bool, brief: bool
    ) -> MeasuredPass:
        both, inputs = [self.reference.dense(phase), build], self.reference.inputs(phase)

        def compute() -> dict[str, Any]:
            timing = None
            with self.workspace.stage(f"{label}, {phase}") as advance:
                if brief:
                    timing = self.machine.compare_briefly(both, inputs, advance=advance)
                timing = timing or self.machine.compare(both, inputs, final=final, advance=advance)
            return asdict(MeasuredPass.of(phase, timing))

        key = {
            "label": label,
            "measure_seconds": self.machine.measure_seconds,
            "fingerprint": self.machine.fingerprint.id,
            "build": self.reference.key(build),
            "inputs": inputs.name,
            **({"brief": True} if brief else {}),
        }
        found = self.workspace.value(
            "timing",
            key,
            compute=compute,
            reuse=lambda one: bool(one["converged"]) or self.machine.keeps_timings,
        )
        return MeasuredPass(**found)
