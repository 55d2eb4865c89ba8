"""A machine on a farm: layers and networks are timed by a worker that has the device."""

from __future__ import annotations

from autotune.compress.precisions import PRECISIONS
from autotune.core.forms import STRUCTURES, Form, low_rank
from autotune.core.types import Address
from autotune.devices.specs import DeviceSpec
from autotune.farm.base import Executor, FarmRunner
from autotune.profiler.backends.base import Backend
from autotune.search.evaluator import EvaluatorSetup
from autotune.search.judges import JudgePool
from autotune.tuning.measuring import MeasuringMachine

# Whether a backend runs a form does not depend on the rank.
_ONE_OF_EACH = tuple(
    str(form)
    for form in (
        *(Form(precision=name) for name in PRECISIONS),
        *(low_rank(1, structure) for structure in STRUCTURES),
    )
)


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
        self._abilities = executor.abilities(
            spec.name, backend.name, dtype=dtype, forms=_ONE_OF_EACH
        )

    def _has_form(self, form: Form) -> bool:
        """Those that the worker runs well, if this host computes the same: it checks the graphs."""
        return str(form) in self._abilities.forms and super()._has_form(form)

    def _why_not(self, precision: str) -> str:
        """Of the two hosts, that which has not got it."""
        if super()._has_form(Form(precision=precision)):
            return (
                f"{self.backend.name} does not run such layers well on the worker that has joined"
            )
        return super()._why_not(precision)

    def inference_dtypes(self) -> tuple[str, ...]:
        """Those of the backend on the worker."""
        return self._abilities.dtypes

    def cpu_features(self) -> tuple[str, ...]:
        """Those of the worker's processor."""
        return self._abilities.cpu_features

    def judges(self, setup: EvaluatorSetup) -> JudgePool | None:
        """One judge on every host of the farm."""
        return self._executor.judges(setup)
