"""`autotune profile`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.job_options import ProfileOptions
from autotune.cli.main import emit, format_option
from autotune.cli.options import database_option, parse_shape, token_option
from autotune.cli.schema import schema_options, values
from autotune.core.types import Address, LayerShape

if TYPE_CHECKING:
    from autotune.core.progress import Advance
    from autotune.layers.profile import Profiled
    from autotune.profiler.database.latency import LatencyDatabase
    from autotune.tune.place import Place


@click.command(
    "profile", epilog="Example: autotune profile --tokens 128 --shape 384x1536 --rank 96"
)
@schema_options(ProfileOptions, filled=True)
@click.option(
    "--farm", envvar="AUTOTUNE_FARM",
    help="Measure on the workers of the farm at IP:PORT (default: $AUTOTUNE_FARM, else here).",
)  # fmt: skip
@token_option
@database_option
@format_option
def command(database: Address, output_format: str, **options: Any) -> int:
    """Measure layers, dense and low-rank, and keep what was measured in the database."""
    from autotune.cli.reporting import make_reporter
    from autotune.profiler.database.latency import LatencyDatabase

    _check(options)
    with (
        _place(options) as place,
        LatencyDatabase(database) as store,
        make_reporter().stage("measure layers") as advance,
    ):
        found = _profile(options, place, store, advance)
    record = {
        "fingerprint": place.fingerprint.id, **dataclasses.asdict(found), "database": str(database)
    }  # fmt: skip
    known = found.wanted - found.measured - len(found.failed)
    lines = [
        f"{found.measured} measured, {known} already known, {len(found.failed)} failed; "
        f"fingerprint {place.fingerprint.id} in {database}"
    ]
    emit(output_format, record, [*lines, *found.failed[:5]])
    return 1 if found.failed else 0


def _check(options: Mapping[str, Any]) -> None:
    from autotune.core.errors import UsageError

    given = (options["model"], options["plan"], options["tokens"] and options["shapes"])
    if sum(map(bool, given)) != 1:
        raise UsageError("give --tokens and --shape, or --for MODEL, or --plan quick")
    values(ProfileOptions, options)


@contextmanager
def _place(options: Mapping[str, Any]) -> Iterator[Place]:
    """Here, or on a farm."""
    kind = (options["device"], options["backend"], options["dtype"])
    if not options["farm"]:
        from autotune.devices.detect import check_threads
        from autotune.tune.place import place_here
        from autotune.tune.target import target_here

        yield place_here(target_here(*kind), check_threads(options["threads"]))
        return
    from autotune.farm.processes import read_token
    from autotune.farm.ray_executor import RayExecutor
    from autotune.tune.place import place_on

    with RayExecutor(options["farm"], read_token(options["token_file"])) as executor:
        yield place_on(executor, *kind, options["threads"])


def _profile(
    options: Mapping[str, Any], place: Place, store: LatencyDatabase, advance: Advance
) -> Profiled:
    from autotune.core.paths import default_measure_seconds
    from autotune.layers.profile import profile_full, profile_points, profile_quick
    from autotune.profiler.measure.points import plan_ranks
    from autotune.profiler.measure.timing import TimingPolicy

    policy = TimingPolicy(max_seconds=default_measure_seconds() / 10)
    if options["plan"]:
        whole = {"quick": profile_quick, "full": profile_full}[options["plan"]]
        return whole(place, store, policy, advance)
    target, wanted = place.target, []
    for shape in _dense(options, target.dtype):
        ranks = list(options["ranks"]) or plan_ranks(
            target.device, shape, target.backend.ranks_per_shape
        )
        wanted += [shape, *(dataclasses.replace(shape, rank=rank) for rank in ranks)]
    return profile_points(place, store, wanted, policy, advance)


def _dense(options: Mapping[str, Any], dtype: str) -> list[LayerShape]:
    if options["model"]:
        sizes = (options["batch_size"], options["isl"], options["osl"])
        return _layers_of(options["model"], *sizes, dtype)
    found = [parse_shape(shape, m) for shape in options["shapes"] for m in options["tokens"]]
    return [dataclasses.replace(shape, dtype=dtype) for shape in found]


def _layers_of(model: str, batch_size: int, isl: int, osl: int, dtype: str) -> list[LayerShape]:
    """The layers that a tuning of the model under this workload would measure."""
    from autotune.core.types import Workload
    from autotune.tune.context import model_shapes

    phase = "request" if osl else "prefill"
    workload = Workload(batch_size=batch_size, sequence_length=isl, output_length=osl, phase=phase)
    return model_shapes(model, workload, dtype)
