"""A machine on a farm: layers and networks are timed by a worker that has the device."""

from __future__ import annotations

from autotune.core.forms import NATIVE, Form
from autotune.core.types import Address
from autotune.devices.specs import DeviceSpec
from autotune.farm.base import Executor, FarmRunner
from autotune.profiler.backends.base import Backend
from autotune.search.evaluator import EvaluatorSetup
from autotune.search.judges import JudgePool
from autotune.tuning.measuring import MeasuringMachine


class FarmMachine(MeasuringMachine):
    """A device that a worker of the farm has; this host needs neither it nor its backend.

    What is measured is kept in this host's database, under the worker's fingerprint. The farm's
    hosts judge plans as well.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        spec: DeviceSpec,
        backend: Backend,
        dtype: str,
        threads: int | None,
        database: Address,
        measure_seconds: float,
        remeasure: bool = False,
    ) -> None:
        """Ask a worker for its fingerprint.

        Raises:
            DeviceMissingError: no worker has the device, or its backend is not installed there.
            FarmUnreachableError: the farm does not answer.
        """
        executor.require(spec.name)
        fingerprint = executor.fingerprint(
            spec.name, backend.name, dtype=dtype, threads=threads or 0
        )
        runner = FarmRunner(
            executor=executor,
            device=spec.name,
            backend=backend.name,
            threads=fingerprint.threads,
        )
        super().__init__(
            spec=spec,
            fingerprint=fingerprint,
            backend=backend,
            runner=runner,
            database=database,
            measure_seconds=measure_seconds,
            profile_sites=runner.profile_sites,
            remeasure=remeasure,
        )
        self._executor = executor

    def _has_form(self, form: Form) -> bool:
        """In native precision: what the worker's processor multiplies well is not asked."""
        return form.precision == NATIVE and super()._has_form(form)

    def inference_dtypes(self) -> tuple[str, ...]:
        """The model's own: what the worker's processor has instructions for is not asked."""
        return (self.dtype,)

    def cpu_features(self) -> tuple[str, ...]:
        """The worker is not asked."""
        return ()

    def judges(self, setup: EvaluatorSetup) -> JudgePool | None:
        """One judge on every host of the farm."""
        return self._executor.judges(setup)
