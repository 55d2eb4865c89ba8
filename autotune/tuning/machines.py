"""Choosing a machine: this host, a device known by tables, or a device on a farm."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.errors import DeviceMissingError, UsageError, option_name
from autotune.core.option_names import about
from autotune.core.paths import default_measure_seconds
from autotune.core.progress import Advance
from autotune.devices.detect import check_threads, require_device
from autotune.devices.specs import DeviceSpec, find_device
from autotune.profiler.backends import Backend, make_backend, needed_device, require_backend
from autotune.tuning.machine import Machine
from autotune.tuning.predicted import PredictedMachine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.farm.base import Executor
    from autotune.profiler.measure.nodes import SiteProfile
    from autotune.tuning.measuring import MeasuringMachine
    from autotune.tuning.options import MachineOptions

# Stands for the backend that runs the model fastest (fastest_backend.py).
AUTO = "auto"
DEFAULT_BACKENDS = {"cpu": "onnxruntime-cpu", "cuda": "torch-cudagraph"}


def find_machine(options: MachineOptions) -> Machine:
    """The machine that the options ask for: on the farm if one is given, else here, else predicted.

    A device that is here is measured; a backend that is not installed is then an error, and no
    reason to predict.

    Raises:
        UsageError: an unknown device, backend or dtype, or ones that do not go together.
        DeviceMissingError: the device is not here and nothing is known of it, or no worker of the
            farm has it, or it is here and its backend is not installed.
        FarmUnreachableError: the farm does not answer.
    """
    if options.farm:
        return farm_machine(options)
    return nearest_machine(options)


def check_machine(options: MachineOptions) -> None:
    """Check what can be checked at once: names, combinations, presence; farms are not asked.

    Raises:
        UsageError, DeviceMissingError: as `find_machine`.
    """
    if options.farm:
        _check_farm(options)
        return
    nearest_machine(options).close()


def check_measurable(options: MachineOptions) -> Backend:
    """Check as `check_machine`, and that layers would be measured; the backend that measures them.

    Raises:
        UsageError, DeviceMissingError: as `local_machine`, or what a farm cannot be asked for.
    """
    if options.farm:
        check_machine(options)
        return _backend_and_dtype(find_device(options.device), options)[0]
    with local_machine(options) as machine:
        return machine.backend


def nearest_machine(options: MachineOptions) -> Machine:
    """The device on this host if it is here, else as its table predicts it.

    Raises:
        UsageError, DeviceMissingError: as `find_machine`.
    """
    spec = _device(options)
    try:
        require_device(options.device)
    except DeviceMissingError as error:
        if not _has_table(spec, options):
            text = f"{error}, and no latencies of it are known here"
            raise DeviceMissingError(f"{text}; {_advice(spec)}") from None
        backend, dtype = _backend_and_dtype(spec, options)
        return PredictedMachine(
            spec=spec,
            backend=backend,
            dtype=dtype,
            database=options.database,
            extrapolate=options.allow_extrapolation,
            any_backend=options.backend in (None, AUTO),
            measure_seconds=options.measure_seconds or default_measure_seconds(),
        )
    return local_machine(options)


def local_machine(options: MachineOptions) -> MeasuringMachine:
    """The device on this host.

    Raises:
        UsageError: an unknown device or backend, ones that do not go together, or too many threads.
        DeviceMissingError: the device is not here, or its backend is not installed.
    """
    # What measures brings torch and SQLAlchemy along, which a device elsewhere does without.
    from autotune.devices.health import read_cpu
    from autotune.farm.local import runner_here
    from autotune.profiler.measure.points import fingerprint_of
    from autotune.tuning.measuring import MeasuringMachine

    with about("machine.device"):
        present = require_device(options.device)
    spec = present.spec
    backend, dtype = _backend_and_dtype(spec, options)
    require_backend(backend.name, spec.kind)
    threads = check_threads(options.threads)
    return MeasuringMachine(
        spec=spec,
        fingerprint=fingerprint_of(present, backend, dtype=dtype, threads=threads),
        backend=backend,
        runner=runner_here(present, backend, threads=threads),
        database=options.database,
        measure_seconds=options.measure_seconds or default_measure_seconds(),
        profile_sites=partial(_profile_sites, threads=threads, backend=backend.name),
        read_host=read_cpu,
        remeasure=options.remeasure,
    )


def _profile_sites(
    build: Path, inputs: Path, *, sites: Sequence[str], advance: Advance, threads: int, backend: str
) -> SiteProfile | None:
    from autotune.profiler.measure.nodes import profile_sites

    return profile_sites(
        build, inputs, threads=threads, sites=sites, backend=backend, progress=advance
    )


def farm_machine(options: MachineOptions) -> MeasuringMachine:
    """A device of a farm: layers and networks are timed by the worker that has it.

    Raises:
        UsageError: as `local_machine`; no token was given.
        DeviceMissingError: no worker has the device.
        FarmUnreachableError: the farm does not answer.
    """
    from autotune.farm.ray_executor import RayExecutor

    _check_farm(options)
    with ExitStack() as stack:  # leaves the farm again if the machine cannot be had
        executor = stack.enter_context(RayExecutor(options.farm or "", options.farm_token or ""))
        machine = executor_machine(executor, options)
        machine.own(stack.pop_all())
        return machine


def executor_machine(executor: Executor, options: MachineOptions) -> MeasuringMachine:
    """A device that `executor` reaches; the executor stays the caller's.

    Raises:
        UsageError, DeviceMissingError: as `farm_machine`.
    """
    from autotune.tuning.on_farm import FarmMachine

    spec = _device(options)
    backend, dtype = _backend_and_dtype(spec, options)
    return FarmMachine(
        executor,
        spec=spec,
        backend=backend,
        dtype=dtype,
        threads=options.threads,
        database=options.database,
        measure_seconds=options.measure_seconds or default_measure_seconds(),
        remeasure=options.remeasure,
    )


def _device(options: MachineOptions) -> DeviceSpec:
    with about("machine.device"):
        return find_device(options.device)


def _check_farm(options: MachineOptions) -> None:
    """Refuse an address, device, backend or dtype that no farm can have; none is asked."""
    from autotune.farm.address import split_address

    with about("machine.farm"):
        split_address(options.farm or "")
    _backend_and_dtype(_device(options), options)


def _backend_and_dtype(spec: DeviceSpec, options: MachineOptions) -> tuple[Backend, str]:
    """The backend and dtype asked for, or the usual ones of the device.

    Raises:
        UsageError: they do not go together.
    """
    with about("machine.backend"):
        named = options.backend if options.backend != AUTO else None
        backend = make_backend(named or DEFAULT_BACKENDS[spec.kind], spec.kind)
        if spec.kind not in backend.device_kinds:
            raise UsageError(
                f"{backend.name} needs {needed_device(backend)}, and "
                f"{option_name('machine.device')} is {options.device}"
            )
    usual = spec.default_dtype if spec.default_dtype in backend.dtypes else backend.dtypes[0]
    dtype = options.dtype or usual
    if dtype not in backend.dtypes:
        raise UsageError(
            f"{option_name('machine.dtype')}: backend {backend.name} runs "
            f"{'/'.join(backend.dtypes)}, not {dtype}"
        )
    return backend, dtype


def _has_table(spec: DeviceSpec, options: MachineOptions) -> bool:
    if options.allow_extrapolation and spec.kind == "cuda":
        return True
    from autotune.predictor.layers.device_table import own_tables
    from autotune.profiler.sources.known import table_owners

    return spec.name in table_owners() or bool(own_tables(spec, options.database))


def _advice(spec: DeviceSpec) -> str:
    profile = "run `autotune profile` there and `autotune db merge` its database here"
    if spec.kind != "cuda":
        return profile
    name = option_name("machine.allow_extrapolation")
    return f"{profile}, or set {name} to predict it from its sheet and other devices"
