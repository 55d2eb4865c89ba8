"""`profile`: measure the layers that options describe, here or on a farm, and keep the timings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from autotune.core.forms import Form
from autotune.core.layers import LayerShape
from autotune.core.paths import data_folder
from autotune.core.progress import Reporter
from autotune.core.types import Address, Workload
from autotune.layers.options import (
    ProfileOptions,
    check_forms,
    chosen_forms,
    from_keywords,
    named_as_keywords,
    no_such_rank,
    parse_shape,
)
from autotune.layers.profile import (
    Profiled,
    profile_full,
    profile_next,
    profile_points,
    profile_quick,
)
from autotune.profiler.backends.base import Backend
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import plan_forms
from autotune.tuning import machines
from autotune.tuning.measuring import MeasuringMachine
from autotune.tuning.model import model_shapes
from autotune.tuning.network_timing import layer_policy
from autotune.tuning.options import MachineOptions


@dataclass(frozen=True, kw_only=True)
class Profile(Profiled):
    """What was measured, under which fingerprint, and the database that holds it."""

    fingerprint: str
    database: Address


def profile(
    *, reporter: Reporter | None = None, farm_token: str | None = None, **options: Any
) -> Profile:
    """Measure dense and low-rank layers and store the results in the latency database.

    Args:
        reporter: Receives progress.
        farm_token: The token of the farm; that of the data folder unless given.
        **options: Those of `autotune profile` (docs/options.md): ``tokens=(128,)`` (rows) and
            ``shapes=("384x1536",)`` (columns of the input and of the output), or ``model`` with
            ``batch_size``, ``isl`` and ``osl``, or ``plan="quick"``, or ``next_points=25``;
            ``ranks``, ``forms``, ``device``, ``backend``, ``dtype``, ``threads``, ``remeasure``,
            ``farm``, ``database``.

    Returns:
        How many points were wanted, measured now and settled, and the errors of those that failed.

    Raises:
        UsageError: an option that cannot be used.
        DeviceMissingError: the device or its backend is not there.
        FarmUnreachableError: the farm does not answer.
        MeasurementError: the device failed.
        TypeError: a keyword that is not an option.
    """
    with named_as_keywords(ProfileOptions):
        found: ProfileOptions = from_keywords(ProfileOptions, options, of="profile")
        if found.farm and farm_token is None:
            from autotune.farm.processes import read_token

            farm_token = read_token(data_folder() / "farm-token")
        return profile_layers(found, reporter or Reporter(), farm_token=farm_token)


def profile_layers(
    options: ProfileOptions, reporter: Reporter, *, farm_token: str | None = None
) -> Profile:
    """Measure what the options describe; see `profile` for what is raised."""
    options.check()  # refused before anything is measured
    with (
        _machine(options, farm_token) as machine,
        LatencyDatabase(options.database) as database,
    ):
        found = _measured(options, machine, database=database, reporter=reporter)
        return Profile(**vars(found), fingerprint=machine.fingerprint.id, database=options.database)


def _machine(options: ProfileOptions, farm_token: str | None) -> MeasuringMachine:
    """Here, or on a farm."""
    names = ("device", "backend", "dtype", "threads", "remeasure", "farm", "database")
    chosen = MachineOptions(**{name: getattr(options, name) for name in names})
    if not options.farm:
        return machines.local_machine(chosen)
    return machines.farm_machine(dataclasses.replace(chosen, farm_token=farm_token))


def _measured(
    options: ProfileOptions,
    machine: MeasuringMachine,
    *,
    database: LatencyDatabase,
    reporter: Reporter,
) -> Profiled:
    policy = layer_policy(machine.spec.kind, machine.measure_seconds)
    if options.next_points:
        with reporter.stage("measure layers") as advance:
            return profile_next(
                machine, database, count=options.next_points, policy=policy, advance=advance
            )
    if options.plan:
        whole = {"quick": profile_quick, "full": profile_full}[options.plan]
        with reporter.stage("measure layers") as advance:
            return whole(machine, database, policy=policy, advance=advance)
    chosen, wanted = _forms(options, machine.backend), []
    for shape in _dense(options, machine.dtype):
        forms = chosen or plan_forms(machine.spec, shape, points=machine.backend.ranks_per_shape)
        pairs = [shape.with_form(form) for form in forms]
        wanted += [shape, *(pair for pair in pairs if no_such_rank(pair) is None)]
    with reporter.stage("measure layers") as advance:
        return profile_points(machine, database, wanted=wanted, policy=policy, advance=advance)


def _forms(options: ProfileOptions, backend: Backend) -> list[Form]:
    """The requested forms, which the backend must be able to run."""
    forms = chosen_forms(options.ranks, options.forms)
    check_forms(forms, backend, schema=ProfileOptions)
    return forms


def _dense(options: ProfileOptions, dtype: str) -> list[LayerShape]:
    """The requested layers, or those that a tuning of the model would measure."""
    if options.model:
        workload = Workload(
            batch_size=options.batch_size,
            sequence_length=options.isl,
            output_length=options.osl,
            phase="request" if options.osl else "prefill",
        )
        return model_shapes(options.model, workload, dtype=dtype)
    found = [parse_shape(shape, m) for shape in options.shapes for m in options.tokens]
    return [dataclasses.replace(shape, dtype=dtype) for shape in found]
