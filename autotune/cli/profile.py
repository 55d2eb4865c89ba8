"""The command `autotune profile`: time layers and store them in the latency database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.forms import chosen_forms
from autotune.cli.job_options import ProfileOptions, check_forms
from autotune.cli.main import emit, format_option
from autotune.cli.options import parse_shape, token_option
from autotune.cli.schema import schema_options, values
from autotune.core.layers import LayerShape
from autotune.core.types import Address

if TYPE_CHECKING:
    from autotune.core.forms import Form
    from autotune.core.progress import Advance
    from autotune.layers.profile import Profiled
    from autotune.profiler.backends.base import Backend
    from autotune.profiler.database.latency import LatencyDatabase
    from autotune.tuning.measuring import MeasuringMachine


@click.command(
    "profile", epilog="Example: autotune profile --tokens 128 --shape 384x1536 --rank 96"
)
@schema_options(ProfileOptions, filled=True)
@token_option
@format_option
def command(database: Address, output_format: str, **options: Any) -> int:
    """Measure dense and low-rank layers and store the results in the database."""
    from autotune.cli.reporting import make_reporter
    from autotune.profiler.database.latency import LatencyDatabase

    values(ProfileOptions, options).check()  # refused before anything is measured
    with (
        _machine(options, database) as machine,
        LatencyDatabase(database) as store,
        make_reporter().stage("measure layers") as advance,
    ):
        found = _profile(options, machine, store=store, advance=advance)
    record = {
        "fingerprint": machine.fingerprint.id,
        **dataclasses.asdict(found),
        "database": str(database),
    }
    known = found.wanted - found.measured - len(found.failed)
    lines = [
        f"{found.measured} measured, {known} already known, {len(found.failed)} failed; "
        f"fingerprint {machine.fingerprint.id} in {database}",
        f"{found.settled} of {found.wanted} timings settled",
    ]
    emit(output_format, record, lines=[*lines, *found.failed[:5]])
    return 1 if found.failed else 0


def _machine(options: Mapping[str, Any], database: Address) -> MeasuringMachine:
    """Here, or on a farm."""
    from autotune.tuning.machines import farm_machine, local_machine
    from autotune.tuning.options import MachineOptions

    names = ("device", "backend", "dtype", "threads", "remeasure", "farm")
    chosen = {name: options[name] for name in names}
    if not options["farm"]:
        return local_machine(MachineOptions(**chosen, database=database))
    from autotune.farm.processes import read_token

    token = read_token(options["token_file"])
    return farm_machine(MachineOptions(**chosen, database=database, farm_token=token))


def _profile(
    options: Mapping[str, Any],
    machine: MeasuringMachine,
    *,
    store: LatencyDatabase,
    advance: Advance,
) -> Profiled:
    from autotune.layers.profile import profile_full, profile_points, profile_quick
    from autotune.profiler.measure.points import plan_forms
    from autotune.tuning.network_timing import layer_policy

    policy = layer_policy(machine.spec.kind, machine.measure_seconds)
    if options["plan"]:
        whole = {"quick": profile_quick, "full": profile_full}[options["plan"]]
        return whole(machine, store, policy=policy, advance=advance)
    chosen, wanted = _forms(options, machine.backend), []
    for shape in _dense(options, machine.dtype):
        forms = chosen or plan_forms(machine.spec, shape, points=machine.backend.ranks_per_shape)
        wanted += [shape, *map(shape.with_form, forms)]
    return profile_points(machine, store, wanted=wanted, policy=policy, advance=advance)


def _forms(options: Mapping[str, Any], backend: Backend) -> list[Form]:
    """The requested forms, which the backend must be able to run."""
    forms = chosen_forms(options["ranks"], options["forms"])
    check_forms(forms, backend, schema=ProfileOptions)
    return forms


def _dense(options: Mapping[str, Any], dtype: str) -> list[LayerShape]:
    if options["model"]:
        sizes = {name: options[name] for name in ("batch_size", "isl", "osl")}
        return _layers_of(options["model"], **sizes, dtype=dtype)
    found = [parse_shape(shape, m) for shape in options["shapes"] for m in options["tokens"]]
    return [dataclasses.replace(shape, dtype=dtype) for shape in found]


def _layers_of(model: str, *, batch_size: int, isl: int, osl: int, dtype: str) -> list[LayerShape]:
    """The layers that a tuning of the model under this workload would measure."""
    from autotune.core.types import Workload
    from autotune.tuning.model import model_shapes

    phase = "request" if osl else "prefill"
    workload = Workload(batch_size=batch_size, sequence_length=isl, output_length=osl, phase=phase)
    return model_shapes(model, workload, dtype=dtype)
