"""The options of a tuning by subject: the machine, the method and the search."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from autotune.compress.factorizers import FACTORIZERS
from autotune.compress.metrics import METRICS
from autotune.compress.precisions import PRECISIONS
from autotune.compress.storage_layouts import STORAGES
from autotune.core.errors import UsageError
from autotune.core.forms import STRUCTURES
from autotune.core.options import OptionError, check_options, option
from autotune.core.paths import MEASURE_SECONDS, database_address, default_database
from autotune.core.patterns import SearchTime, check_pattern
from autotune.core.types import Address
from autotune.devices.detect import cpu_threads
from autotune.devices.specs import DTYPE_BYTES, device_names
from autotune.profiler.backends import BACKENDS
from autotune.search.allocators import ALLOCATORS

_USUAL = "onnxruntime-cpu on a CPU, torch-cudagraph on a GPU"
# What differs where a backend has to be named, as layers have no network to compare them by.
NAMED_BACKEND: Mapping[str, Any] = {"choices": lambda: BACKENDS, "default_text": _USUAL}


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where the budget must hold, and how latencies are measured there.

    `backend` and `dtype` None are the device's usual ones (autotune/tuning/machines.py).
    `measure_seconds` caps one measurement of a network; the final one gets twice that.
    """

    PATH: ClassVar[str] = "machine"

    device: str = option(
        "cpu",
        flag="--device",
        common=True,
        group="Machine",
        metavar="NAME",
        complete=device_names,
        help="Target device; `autotune devices` lists them.",
    )
    backend: str | None = option(
        flag="--backend",
        group="Machine",
        choices=lambda: ("auto", *BACKENDS),
        part="backend",
        default_text=f"{_USUAL}; auto: the fastest of those that are installed",
        help="What executes the model.",
    )
    dtype: str | None = option(
        flag="--dtype",
        group="Machine",
        choices=tuple(DTYPE_BYTES),
        default_text="fp32 on a CPU, bf16 on a GPU",
        help="Number format of weights and activations.",
    )
    threads: int | None = option(
        flag="--threads",
        group="Machine",
        ge=1,
        default_text="$AUTOTUNE_THREADS, else all cores",
        metavar="N",
        help="Threads of the backend.",
    )
    database: Address = option(
        default_factory=default_database,
        flag="--db",
        flat="database",
        group="Machine",
        metavar="PATH|URL",
        parse=database_address,
        local=True,
        default_text="$AUTOTUNE_DB, else the user's own",
        help="Latency database: a SQLite file or postgresql://…",
    )
    allow_extrapolation: bool = option(
        False,
        flag="--allow-extrapolation",
        group="Machine",
        help="Predict a GPU that has no measurements from its specification sheet and from other "
        "devices' tables.",
    )
    measure_seconds: float = option(
        flag="--measure-seconds",
        group="Machine",
        ge=0.1,
        le=3600,
        metavar="SECONDS",
        by_effort=(5.0, 20.0, 60.0),
        default_text=f"${MEASURE_SECONDS}, else by --effort",
        help="Time limit of one measurement of a network.",
    )
    remeasure: bool = option(
        False,
        flag="--remeasure",
        group="Machine",
        help="Measure layers again even if their latencies are known.",
    )
    farm: str | None = option(
        flag="--farm",
        group="Machine",
        metavar="IP:PORT",
        env="AUTOTUNE_FARM",
        local=True,
        default_text="$AUTOTUNE_FARM, else none",
        help="Address of the farm to measure on.",
    )
    farm_token: str | None = option(local=True, secret=True, help="Token of the farm.")

    def __post_init__(self) -> None:
        check_options(self)

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown.pop("farm_token")
        return f"MachineOptions({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


# What `--precision` takes for the network as a whole, beside the precisions of layers.
NETWORK_DTYPES = ("bf16",)
# What `--factors` offers for every layer.
STRUCTURES_OF = {"auto": STRUCTURES, **{name: (name,) for name in STRUCTURES}}


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """How ranks are compared and chosen, and factors computed and stored.

    `metric`, `factorizer` and `allocator` name a registered part, `NAME:key=value` sets its
    options; `metric` None lets the task choose.
    """

    PATH: ClassVar[str] = "method"

    metric: str | None = option(
        flag="--metric",
        group="Method",
        choices=lambda: METRICS,
        part="metric",
        configurable=True,
        default_text="chosen by the task: kfac or kfac-seq",
        help="Error metric used to compare ranks.",
    )
    factorizer: str = option(
        "svd",
        flag="--factorizer",
        group="Method",
        choices=lambda: FACTORIZERS,
        part="factorizer",
        configurable=True,
        help="How factors are computed at the chosen ranks.",
    )
    allocator: str | None = option(
        flag="--allocator",
        group="Method",
        choices=lambda: ALLOCATORS,
        part="allocator",
        configurable=True,
        default_text="exact+optuna, or exact with --trials 0",
        help="What chooses the ranks.",
    )
    storage: str = option(
        "fp32",
        flag="--storage",
        group="Method",
        choices=STORAGES,
        help="How factors are stored; fp32 is the model's own format.",
    )
    factors: str = option(
        "auto",
        flag="--factors",
        group="Method",
        choices=tuple(STRUCTURES_OF),
        help="Structure of the factors; pivoted: one holds an identity, which is not stored.",
    )
    precision: str = option(
        "auto",
        flag="--precision",
        group="Method",
        metavar="auto|NAME,…",
        complete=lambda: ("auto", *PRECISIONS, *NETWORK_DTYPES),
        help="Precisions that layers may have (native, int8-static, int8-dynamic, "
        "int8-weight-only, int4-weight-only) and that the network may be run in (native, bf16), "
        "or auto for all that the backend runs.",
    )
    joint: bool = option(
        True,
        flag="--joint",
        off="--no-joint",
        group="Method",
        help="Let layers with one input (q, k, v) share a down factor where that costs less.",
    )
    targets: tuple[str, ...] = option(
        (),
        flag="--targets",
        group="Method",
        metavar="REGEX",
        default_text="every linear layer",
        help="Names of layers to factorize.",
    )
    ignore: tuple[str, ...] = option(
        (),
        flag="--ignore",
        group="Method",
        metavar="REGEX",
        default_text="none",
        help="Names of layers to leave dense.",
    )

    def __post_init__(self) -> None:
        check_options(self)
        _check_patterns(self.targets, self.ignore)


@functools.lru_cache(maxsize=16)  # a job that is submitted has its options made several times
def _check_patterns(targets: tuple[str, ...], ignore: tuple[str, ...]) -> None:
    """Refuse patterns that are none, or that together take too long."""
    limit = SearchTime()
    for path, patterns in (("method.targets", targets), ("method.ignore", ignore)):
        for pattern in patterns:
            try:
                check_pattern(pattern, limit)
            except UsageError as error:
                rule = f"must be a regular expression: {error}"
                raise OptionError(path, rule, schema=MethodOptions) from None


def check_cores(threads: int | None, path: str, *, schema: type) -> None:
    """Refuse more threads than this process may use; None is all of them.

    Raises:
        OptionError: of the option at `path` in `schema`.
    """
    cores = cpu_threads()
    if threads is not None and threads > cores:
        rule = f"must be 1 to {cores}, the cores that this process may use"
        raise OptionError(path, rule, value=threads, schema=schema)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How long plans are searched for. What is None here is filled in by the request's effort."""

    PATH: ClassVar[str] = "search"

    trials: int = option(
        flag="--trials",
        group="Search",
        ge=0,
        le=100_000,
        by_effort=(0, 12, 40),
        metavar="N",
        help="Optuna trials over the outer knobs; 0: the exact plan, without a search.",
    )
    rounds: int = option(
        flag="--rounds",
        group="Search",
        ge=1,
        le=10,
        by_effort=(2, 3, 5),
        metavar="N",
        help="Maximum rounds of the closed loop (solve, build, measure, correct).",
    )
    sensitivity_rounds: int = option(
        flag="--sensitivity-rounds",
        group="Search",
        ge=0,
        le=3,
        by_effort=(0, 1, 2),
        metavar="N",
        help="Rounds of the sensitivity pass, which rescales the error table.",
    )
    references: bool = option(
        True,
        flag="--references",
        off="--no-references",
        group="Search",
        help="Build and time uniform plans too (the dense model in every precision, one rank for "
        "all), and hand one out that is better.",
    )
    other_shapes: bool = option(
        flag="--other-shapes",
        off="--no-other-shapes",
        group="Search",
        by_effort=(False, True, True),
        default_text="yes, by --effort normal and thorough",
        help="Time what is handed out at other batch sizes and lengths too, and in several "
        "streams at once.",
    )
    front: int | None = option(
        flag="--front",
        group="Search",
        ge=2,
        le=32,
        default_text="none",
        metavar="N",
        help="Build and measure so many plans between the fastest of use and the dense model; "
        "`autotune pick` hands out another one of them later.",
    )
    margin: float = option(
        0.01, ge=0, le=0.5, help="How far below the latency limit to aim, as a share of it."
    )
    jobs: int | None = option(
        flag="--jobs",
        group="Search",
        ge=1,
        le=256,
        default_text="threads / 4",
        metavar="N",
        help="Number of processes that judge plans in parallel.",
    )

    def __post_init__(self) -> None:
        check_options(self)
