"""`autotune profile`."""

from __future__ import annotations

import dataclasses

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import (
    Address,
    backend_option,
    database_option,
    device_option,
    dtype_option,
    parse_shape,
    threads_option,
)
from autotune.types import LayerShape


@click.command(
    "profile", epilog="Example: autotune profile --tokens 128 --shape 384x1536 --rank 96"
)
@click.option("--tokens", type=int, multiple=True, help="Rows M (repeatable).")
@click.option("--shape", "shapes", multiple=True, help="IN_FEATURESxOUT_FEATURES (repeatable).")
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
    tokens: tuple[int, ...], shapes: tuple[str, ...], model: str | None, batch_size: int, isl: int,
    osl: int, ranks: tuple[int, ...], dtype: str | None,
    device: str, backend: str | None, threads: int | None, database: Address, output_format: str,
) -> int:  # fmt: skip
    """Measure layers, dense and low-rank, and keep what was measured in the database."""
    from autotune.devices.detect import check_threads
    from autotune.errors import UsageError
    from autotune.paths import default_measure_seconds
    from autotune.profiler.database import LatencyDatabase
    from autotune.profiler.profile import (
        fingerprint_of,
        measure_points,
        missing_points,
        plan_ranks,
    )
    from autotune.profiler.shard import ShardRunner
    from autotune.profiler.timing import TimingPolicy
    from autotune.progress_rich import TerminalReporter
    from autotune.target import target_here

    target = target_here(device, backend, dtype)
    present, runs_on, chosen_dtype = target.device, target.backend, target.dtype
    if bool(model) == bool(tokens and shapes):
        raise UsageError("give --tokens and --shape, or --for MODEL")
    if model:
        dense = _layers_of(model, batch_size, isl, osl, chosen_dtype)
    else:
        parsed = [parse_shape(shape, m) for shape in shapes for m in tokens]
        dense = [dataclasses.replace(shape, dtype=chosen_dtype) for shape in parsed]
    if any(rank < 1 for rank in ranks):
        raise UsageError("--rank must be at least 1")
    count = check_threads(threads)
    fingerprint = fingerprint_of(present, runs_on, chosen_dtype, count)
    wanted = []
    for shape in dense:
        chosen = list(ranks) or plan_ranks(present, shape)
        wanted += [shape, *(dataclasses.replace(shape, rank=rank) for rank in chosen)]
    with LatencyDatabase(database) as store:
        points = missing_points(store, fingerprint, wanted)
        with TerminalReporter().stage("measure layers") as advance:
            runner = ShardRunner.on(present, runs_on, count)
            policy = TimingPolicy(max_seconds=default_measure_seconds() / 10)
            failed = measure_points(store, fingerprint, points, runner, policy, advance)
    record = {
        "fingerprint": fingerprint.id,
        "wanted": len(set(wanted)),
        "measured": len(points) - len(failed),
        "failed": [row.error for row in failed],
        "database": str(database),
    }
    lines = [
        f"{record['measured']} measured, {len(set(wanted)) - len(points)} already known, "
        f"{len(failed)} failed; fingerprint {fingerprint.id} in {database}"
    ]
    emit(output_format, record, [*lines, *(str(row.error) for row in failed[:5])])
    return 1 if failed else 0


def _layers_of(model: str, batch_size: int, isl: int, osl: int, dtype: str) -> list[LayerShape]:
    """The layers that a tuning of the model under this workload would measure."""
    from autotune.context import model_shapes
    from autotune.types import Workload

    phase = "request" if osl else "prefill"
    workload = Workload(batch_size=batch_size, sequence_length=isl, output_length=osl, phase=phase)
    return model_shapes(model, workload, dtype)
