"""`autotune profile`."""

from __future__ import annotations

import dataclasses

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import (
    backend_option,
    database_option,
    device_option,
    dtype_option,
    parse_shape,
    threads_option,
)
from autotune.types import Address, LayerShape


@click.command(
    "profile", epilog="Example: autotune profile --tokens 128 --shape 384x1536 --rank 96"
)
@click.option("--tokens", type=int, multiple=True, help="Rows M (repeatable).")
@click.option("--shape", "shapes", multiple=True, help="IN_FEATURESxOUT_FEATURES (repeatable).")
@click.option(
    "--plan", type=click.Choice(["quick", "full"]),
    help="Instead: standard layers, 100 points chosen as they come (2 minutes), or all of them.",
)  # fmt: skip
@click.option("--for", "model", help="Instead: the layers of this model, folder or hub id.")
@click.option("--batch-size", type=int, default=8, show_default=True, help="With --for.")
@click.option("--isl", type=int, default=128, show_default=True, help="With --for: input tokens.")
@click.option("--osl", type=int, default=0, help="With --for: output tokens; adds decode steps.")
@click.option("--rank", "ranks", type=int, multiple=True, help="Ranks (default: the aligned grid).")
@dtype_option
@device_option
@backend_option
@threads_option
@database_option
@format_option
def command(
    tokens: tuple[int, ...], shapes: tuple[str, ...], plan: str | None, model: str | None,
    batch_size: int, isl: int, osl: int, ranks: tuple[int, ...], dtype: str | None, device: str,
    backend: str | None, threads: int | None, database: Address, output_format: str,
) -> int:  # fmt: skip
    """Measure layers, dense and low-rank, and keep what was measured in the database."""
    from autotune.cli.reporting import make_reporter
    from autotune.devices.detect import check_threads
    from autotune.errors import UsageError
    from autotune.paths import default_measure_seconds
    from autotune.profiler.database import LatencyDatabase
    from autotune.profiler.profile import fingerprint_of, plan_ranks
    from autotune.profiler.timing import TimingPolicy
    from autotune.profiling import profile_full, profile_points, profile_quick
    from autotune.target import target_here

    target = target_here(device, backend, dtype)
    if sum(map(bool, (model, plan, tokens and shapes))) != 1:
        raise UsageError("give --tokens and --shape, or --for MODEL, or --plan quick")
    if any(rank < 1 for rank in ranks):
        raise UsageError("--rank must be at least 1")
    dense = [parse_shape(shape, m) for shape in shapes for m in tokens]
    dense = [dataclasses.replace(shape, dtype=target.dtype) for shape in dense]
    if model:
        dense = _layers_of(model, batch_size, isl, osl, target.dtype)
    count = check_threads(threads)
    policy = TimingPolicy(max_seconds=default_measure_seconds() / 10)
    with (
        LatencyDatabase(database) as store,
        make_reporter().stage("measure layers") as advance,
    ):
        if plan:
            whole = {"quick": profile_quick, "full": profile_full}[plan]
            found = whole(target, count, store, policy, advance)
        else:
            wanted = []
            for shape in dense:
                chosen = list(ranks) or plan_ranks(
                    target.device, shape, target.backend.ranks_per_shape
                )
                wanted += [shape, *(dataclasses.replace(shape, rank=rank) for rank in chosen)]
            found = profile_points(target, count, store, wanted, policy, advance)
    fingerprint = fingerprint_of(target.device, target.backend, target.dtype, count)
    record = {
        "fingerprint": fingerprint.id, **dataclasses.asdict(found), "database": str(database)
    }  # fmt: skip
    known = found.wanted - found.measured - len(found.failed)
    lines = [
        f"{found.measured} measured, {known} already known, {len(found.failed)} failed; "
        f"fingerprint {fingerprint.id} in {database}"
    ]
    emit(output_format, record, [*lines, *found.failed[:5]])
    return 1 if found.failed else 0


def _layers_of(model: str, batch_size: int, isl: int, osl: int, dtype: str) -> list[LayerShape]:
    """The layers that a tuning of the model under this workload would measure."""
    from autotune.context import model_shapes
    from autotune.types import Workload

    phase = "request" if osl else "prefill"
    workload = Workload(batch_size=batch_size, sequence_length=isl, output_length=osl, phase=phase)
    return model_shapes(model, workload, dtype)
