"""The request of a tuning: every option, declared once, and checked once.

The command line, the HTTP interface, the Python API and a job's stored specification are derived
from the dataclasses here; `docs/options.md` is their reference and `docs/extending.md` shows what a
further option takes.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.factorizers import FACTORIZERS
from autotune.compress.locate import is_local, model_folder
from autotune.compress.metrics import METRICS
from autotune.compress.precisions import PRECISIONS
from autotune.core.errors import CalibrationError, UsageError, option_name
from autotune.core.forms import NATIVE, PLAIN
from autotune.core.option_names import about
from autotune.core.options import (
    EFFORTS,
    OptionError,
    by_effort,
    check_options,
    option,
)
from autotune.core.paths import (
    MEASURE_SECONDS,
    default_measure_seconds,
    default_output,
)
from autotune.core.registry import check_spec
from autotune.core.types import LARGEST_INTEGER, Budget, Workload
from autotune.search.allocators import ALLOCATORS
from autotune.tuning.options import (
    NETWORK_DTYPES,
    STRUCTURES_OF,
    MachineOptions,
    MethodOptions,
    SearchOptions,
    check_cores,
)

_MIN_SEQUENCES = 8
_UNCHANGED = ("activation_bytes", "kv_cache_bytes")  # by factorizing, at any rank


_EFFORT_HELP = (
    "How much time to spend: sets --trials, --rounds, --sensitivity-rounds, --measure-seconds and "
    "--calibration-samples where they are not given."
)


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """Tune a model: measure, choose ranks under the budget, factorize, export, verify.

    Values that are not given are filled in here: by `effort` (`docs/options.md` has the table), the
    output folder from the model's name, and the seed of the calibration from `seed`.

    Raises:
        OptionError: a value that cannot be used; it names the option.
    """

    model: str | None = option(
        flag="--model",
        short="-m",
        common=True,
        group="Output",
        metavar="FOLDER|ID",
        default_text="the embedded all-MiniLM-L6-v2",
        help="Model: a folder or a hub id.",
    )
    output: Path = option(
        flag="--output",
        short="-o",
        common=True,
        group="Output",
        metavar="FOLDER",
        local=True,
        default_text="autotune-out/MODEL",
        help="Output folder; rerunning the command resumes an interrupted tuning.",
    )
    machine: MachineOptions = field(default_factory=MachineOptions)
    budget: Budget = field(default_factory=Budget)
    workload: Workload = field(default_factory=Workload)
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    method: MethodOptions = field(default_factory=MethodOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    seed: int = option(
        0,
        flag="--seed",
        group="Search",
        ge=0,
        le=LARGEST_INTEGER,
        metavar="N",
        help="Random seed.",
    )
    allow_quality_loss: bool = option(
        False,
        flag="--allow-quality-loss",
        group="Budgets",
        help="Treat a result whose quality is lost as a success (exit code 0 if the budget is "
        "met).",
    )
    effort: str = option(
        "normal", flag="--effort", common=True, group="Search", choices=EFFORTS, help=_EFFORT_HELP
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.output is None:
            object.__setattr__(self, "output", default_output(self.model))
        for path, value in effort_defaults(self.effort, self.workload.sequence_length).items():
            self._fill(path, value)
        self._fill("calibration.seed", self.seed)

    def _fill(self, path: str, value: Any) -> None:
        """Set a value that was not given."""
        part, _, name = path.partition(".")
        below = getattr(self, part)
        if value is not None and getattr(below, name) is None:
            object.__setattr__(self, part, dataclasses.replace(below, **{name: value}))

    @property
    def chosen_allocator(self) -> str:
        """The requested one; else exact, with Optuna around it when there are trials."""
        return self.method.allocator or ("exact+optuna" if self.search.trials else "exact")

    @property
    def goes_by_table(self) -> bool:
        """Whether ranks are chosen by the error table: papers' rules have their own criteria."""
        return self.chosen_allocator in ("exact", "exact+optuna")

    @property
    def sensitivity_turns(self) -> int:
        """Rounds of the sensitivity pass, which rescales the error table."""
        return self.search.sensitivity_rounds if self.goes_by_table else 0

    @property
    def structures(self) -> tuple[str, ...]:
        """Structures of factors that are offered: plain ones alone where these are packed.

        Papers' rules choose among plain pairs only.
        """
        plain = self.method.storage != "fp32" or not self.goes_by_table
        return (PLAIN,) if plain else STRUCTURES_OF[self.method.factors]

    @property
    def seeks_latency(self) -> bool:
        """Whether the least latency is asked for, as there is a floor and no latency budget."""
        return self.budget.quality is not None and self.budget.latency is None

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that layers are offered, native first; it alone without a choice by table.

        Rounding saves time and bytes. Where neither is limited or sought, `auto` is native.
        """
        saves = self.budget.latency or self.budget.weight_bytes or self.seeks_latency
        names = self._named_precisions if saves or self.method.precision != "auto" else ()
        return (NATIVE, *(name for name in names if name not in (NATIVE, *NETWORK_DTYPES)))

    @property
    def network_dtypes(self) -> tuple[str, ...]:
        """Dtypes that the network may be run in; `native` stands for the model's own.

        A dtype that is asked for without `native` is the only one. Where latency is neither limited
        nor sought there is nothing to gain by another.
        """
        named = tuple(name for name in self._named_precisions if name in NETWORK_DTYPES)
        if self.method.precision == "auto":
            gains = self.budget.latency or self.seeks_latency
            return (NATIVE, *(named if gains else ()))
        if NATIVE in self._named_precisions or not named:
            return (NATIVE, *named)
        return named

    @property
    def _named_precisions(self) -> tuple[str, ...]:
        if self.method.storage != "fp32" or not self.goes_by_table:
            return (NATIVE,)
        text = self.method.precision
        if text == "auto":
            return (*PRECISIONS, *NETWORK_DTYPES)
        return tuple(map(str.strip, text.split(",")))

    @property
    def offers_joint(self) -> bool:
        """Whether shared down factors are candidates: plain truncated factors, chosen by table."""
        plain = self.method.factorizer == "svd" and self.method.storage == "fp32"
        return self.method.joint and plain and self.goes_by_table

    def check(self) -> None:
        """Refuse what cannot be used before a model or a heavy library is loaded.

        Raises:
            UsageError: device, backend, threads, metric, model or calibration file cannot be used.
            DeviceMissingError: the device or backend is not on this machine.
        """
        from autotune.tuning.machines import AUTO, check_machine

        check_cores(self.machine.threads, "machine.threads", schema=TuneRequest)
        check_machine(self.machine)
        if self.machine.farm and self.machine.backend == AUTO:
            problem = (
                "{machine.backend} auto compares backends of this machine; name one with a farm"
            )
            raise OptionError("", problem, schema=TuneRequest)
        self._check_parts()
        self._check_combination()
        if is_local(self.model):
            with about("model"):
                model_folder(self.model)
        for name in ("calibration", "evaluation"):
            path = getattr(self.calibration, name)
            if path is not None and not Path(path).expanduser().is_file():
                raise CalibrationError(
                    f"{option_name(f'calibration.{name}')} {path} cannot be read: No such file; "
                    "give a text file with one document per line, or a .safetensors file of input "
                    "tensors"
                )

    def _check_parts(self) -> None:
        """Refuse names that no registry knows, and options that a part does not take.

        A part is imported only where options of it are given.
        """
        for registry in (METRICS, FACTORIZERS, ALLOCATORS):
            spec = getattr(self.method, registry.what)
            if spec is None:
                continue
            try:
                check_spec(spec, registry)
            except UsageError as error:
                rule = f"cannot be used: {error}"
                raise OptionError(f"method.{registry.what}", rule, schema=TuneRequest) from error
        known = (*PRECISIONS, *NETWORK_DTYPES)
        unknown = [name for name in self._named_precisions if name not in known]
        if unknown:
            rule = f"must be auto or some of {', '.join(known)}, got {unknown[0]!r}"
            raise OptionError("method.precision", rule, schema=TuneRequest)

    def _check_combination(self) -> None:
        """Refuse parts that contradict each other."""
        problem = ""
        name = self.method.factorizer.partition(":")[0]
        metric = (self.method.metric or "").partition(":")[0]
        if set(self.budget.limits()) <= set(_UNCHANGED) and not self.budget.quality:
            problem = (
                "no rank lowers activation or KV-cache bytes, so such a budget alone leaves "
                "nothing to choose; add {budget.latency}, {budget.parameters}, "
                "{budget.weight_bytes} or {budget.flops}"
            )
        elif name == "output-subspace" and metric != "activation":
            problem = (
                "{method.factorizer} output-subspace minimizes the error of the activation "
                f"metric, not that of {metric or 'the default metric'}; set "
                "{method.metric} activation as well"
            )
        elif self.method.factors not in ("auto", *self.structures):
            problem = (
                f"{{method.factors}} {self.method.factors} needs {{method.allocator}} exact or "
                "exact+optuna and {method.storage} fp32: papers' rules and packed storages know "
                "plain factors only"
            )
        elif self.method.precision not in ("auto", NATIVE) and (
            self._named_precisions == (NATIVE,)
        ):
            problem = (
                f"{{method.precision}} {self.method.precision} needs {{method.allocator}} exact or "
                "exact+optuna and {method.storage} fp32: papers' rules and packed storages know "
                "the native precision only"
            )
        elif self.budget.quality and not self.goes_by_table:
            problem = (
                "{budget.quality} needs {method.allocator} exact or exact+optuna: papers' rules "
                "choose ranks by their own criteria"
            )
        elif self.method.allocator == "exact+optuna" and self.search.trials == 0:
            problem = (
                "{method.allocator} exact+optuna needs {search.trials} of 1 or more, got 0; or set "
                "{method.allocator} exact"
            )
        if problem:
            raise OptionError("", problem, schema=TuneRequest)


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The options of `autotune.tune` that are seldom set, by subject."""

    machine: MachineOptions = field(default_factory=MachineOptions)
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    method: MethodOptions = field(default_factory=MethodOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    seed: int = 0
    allow_quality_loss: bool = False


def effort_defaults(effort: str, sequence_length: int = 128) -> dict[str, Any]:
    """What an effort sets where nothing is given, by path; None leaves it to the task.

    Calibration samples are counted in tokens, as a sequence may be of any length.
    `$AUTOTUNE_MEASURE_SECONDS` goes before the effort.
    """
    found = dict(by_effort(TuneRequest, effort))
    tokens = found["calibration.statistics_samples"]
    if tokens is not None:
        samples = max(_MIN_SEQUENCES, tokens // sequence_length)
        found["calibration.statistics_samples"] = samples
    if os.environ.get(MEASURE_SECONDS):
        found["machine.measure_seconds"] = default_measure_seconds()
    return found
