"""What a user asks for, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.factorizers import FACTORIZERS
from autotune.compress.locate import is_local, model_folder
from autotune.compress.metrics import METRICS
from autotune.compress.precision import STORAGES
from autotune.core.errors import CalibrationError, UsageError
from autotune.core.paths import (
    check_measure_seconds,
    default_database,
    default_measure_seconds,
)
from autotune.core.registry import check_spec
from autotune.core.types import Address, Budget, Workload
from autotune.devices.detect import check_threads
from autotune.search.allocators import ALLOCATORS
from autotune.tune.machines import check_machine


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Which machine."""

    device: str = "cpu"
    backend: str | None = None
    dtype: str | None = None
    threads: int | None = None
    database: Address = field(default_factory=default_database)
    allow_extrapolation: bool = False
    measure_seconds: float = field(default_factory=default_measure_seconds)
    farm: str | None = None
    farm_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """Everything one tuning run depends on.

    `backend` and `dtype` None are the device's usual ones (autotune/tune/target.py).
    `measure_seconds` caps one measurement of a network (the final one gets twice that).
    `metric`, `factorizer`, `allocator` and `storage` go by the names of their registries
    (`NAME:option=value` sets options); `metric` None lets the task choose; `joint` lets layers with
    one input share a down factor. `trials` are Optuna's
    (0 = the exact plan as it is), `rounds` bounds the closed loop, `margin` is how far below the
    latency limit to aim. `jobs` processes judge plans side by side (None: one for every four
    threads); with `farm` (IP:PORT) its workers do.
    """

    model: str | None
    output: Path
    budget: Budget
    device: str = "cpu"
    backend: str | None = None
    dtype: str | None = None
    workload: Workload = field(default_factory=Workload)
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    metric: str | None = None
    factorizer: str = "svd"
    allocator: str | None = None
    storage: str = "fp32"
    joint: bool = True
    sensitivity_rounds: int = 1
    trials: int = 12
    rounds: int = 3
    margin: float = 0.01
    threads: int | None = None
    jobs: int | None = None
    farm: str | None = None
    farm_token: str | None = field(default=None, repr=False)
    targets: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    database: Address = field(default_factory=default_database)
    allow_extrapolation: bool = False
    measure_seconds: float = field(default_factory=default_measure_seconds)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise UsageError(f"--trials {self.trials}: 0 (no search) or more")
        if not 0 <= self.sensitivity_rounds <= 3:
            raise UsageError(f"--sensitivity-rounds {self.sensitivity_rounds}: 0 to 3")
        if not 1 <= self.rounds <= 10:
            raise UsageError(f"--rounds {self.rounds}: 1 to 10")
        if self.jobs is not None and not 1 <= self.jobs <= 256:
            raise UsageError(f"--jobs {self.jobs}: 1 to 256")
        check_measure_seconds(self.measure_seconds)
        samples = self.calibration.statistics_samples
        if samples is not None and samples < 1:
            raise UsageError(f"--calibration-samples {samples}: at least 1")

    @property
    def machine(self) -> MachineOptions:
        """The machine's part."""
        names = [f.name for f in fields(MachineOptions)]
        return MachineOptions(**{name: getattr(self, name) for name in names})

    @property
    def method(self) -> TuneRequest:
        """The method's part."""
        return self

    @property
    def search(self) -> TuneRequest:
        """The search's part."""
        return self

    @property
    def chosen_allocator(self) -> str:
        """The one asked for; else exact, with Optuna around it when there are trials."""
        return self.allocator or ("exact+optuna" if self.trials else "exact")

    @property
    def goes_by_table(self) -> bool:
        """Whether ranks are chosen by the error table: papers' rules have their own criteria."""
        return self.chosen_allocator in ("exact", "exact+optuna")

    @property
    def sensitivity_turns(self) -> int:
        """Rounds of the sensitivity pass, which rescales the error table."""
        return self.sensitivity_rounds if self.goes_by_table else 0

    @property
    def offers_joint(self) -> bool:
        """Whether shared down factors are candidates: plain truncated factors, chosen by table."""
        plain = self.factorizer == "svd" and self.storage == "fp32"
        return self.joint and plain and self.goes_by_table

    def _check_combination(self) -> None:
        """Refuse parts that contradict each other.

        Raises:
            UsageError: with the reason.
        """
        if set(self.budget.limits()) <= {"activation_bytes", "kv_cache_bytes"}:
            raise UsageError(
                "no rank lowers activation or KV-cache bytes, so such a budget alone leaves "
                "nothing to choose; add one on latency, parameters, weight bytes or FLOPs"
            )
        name, metric = self.factorizer.partition(":")[0], (self.metric or "").partition(":")[0]
        if name == "output-subspace" and metric != "activation":
            raise UsageError(
                "--factorizer output-subspace keeps the largest outputs, so its error is the "
                f"activation metric's, not that of {metric or 'the default metric'}; give "
                "--metric activation"
            )
        if self.allocator == "exact+optuna" and self.trials == 0:
            raise UsageError(
                "--allocator exact+optuna with --trials 0 leaves Optuna nothing to do; give "
                "--allocator exact, or some trials"
            )

    def check(self) -> None:
        """Refuse at once what needs no model to be refused, before anything heavy is imported.

        Raises:
            UsageError: device, backend, threads, metric, model or calibration file cannot be used.
            DeviceMissingError: the device or backend is not on this machine.
        """
        check_machine(self.machine)
        check_threads(self.threads)
        for spec, registry, what in (
            (self.metric, METRICS, "metric"),
            (self.factorizer, FACTORIZERS, "factorizer"),
            (self.allocator, ALLOCATORS, "allocator"),
        ):
            if spec is not None:
                check_spec(spec, registry, what)
        self._check_combination()
        if self.storage not in STORAGES:
            known = ", ".join(STORAGES)
            raise UsageError(f"unknown storage {self.storage!r}; known are {known}")
        if is_local(self.model):
            model_folder(self.model)
        for path in (self.calibration.calibration, self.calibration.evaluation):
            if path is not None and not Path(path).expanduser().is_file():
                raise CalibrationError(
                    f"calibration file {path} cannot be read: No such file; give a text file with "
                    "one document a line, or a .safetensors file of input tensors"
                )
