"""The measuring stages of a run: layers, the dense network, whole networks in turn."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from autotune.core.errors import MeasurementError
from autotune.core.progress import Advance
from autotune.core.types import LayerShape, Site
from autotune.devices.roofline import Roofline
from autotune.predictor.layers.table import LatencyTable
from autotune.predictor.network.model import NetworkAnchor, NetworkModel, PassModel
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.nodes import profile_sites
from autotune.profiler.measure.points import measure_points, missing_points, plan_ranks
from autotune.profiler.measure.shard import ShardRunner
from autotune.profiler.measure.tasks import Subject, TimingTask
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy
from autotune.results.measured import MeasuredPass
from autotune.tune.builds import artefact_key, dense_artefact
from autotune.tune.context import Context

LOADER = "autotune.compress.checkpoint:load_for_timing"
_ATTEMPTS = 3
_WIDE = 0.02


def network_policy(measure_seconds: float, *, final: bool = False) -> TimingPolicy:
    """How a whole network is timed; the figure that is handed out gets twice the time."""
    return TimingPolicy(
        rounds_per_window=3,
        min_windows=6,
        max_seconds=measure_seconds * (2.0 if final else 1.0),
        target_relative_ci=0.004,
    )


def layer_policy(measure_seconds: float) -> TimingPolicy:
    """How a layer and a few of its ranks are timed: in a tenth of a network's time."""
    return TimingPolicy(max_seconds=measure_seconds / 10)


def network_inputs(context: Context, run: str = "prefill") -> Path:
    """Random inputs of one pass of the workload, as a safetensors file."""
    key = {**context.model_key, "workload": _shape_key(context, run)}
    return context.folder.stage(
        "inputs", key, ".safetensors", lambda path: save_file(context.example_inputs(run), path)
    )[0]


def _shape_key(context: Context, run: str) -> dict[str, Any]:
    """What the shapes of one pass depend on."""
    workload = context.request.workload
    if run == "prefill":
        return {"batch_size": workload.batch_size, "sequence_length": workload.sequence_length}
    return {"batch_size": workload.batch_size, "past_length": workload.past_length}


def network_subject(artefact: Path, inputs: Path) -> Subject:
    """A whole model as something to time."""
    return Subject(network=str(artefact), inputs=str(inputs), loader=LOADER)


def time_subjects(
    runner: ShardRunner, subjects: list[Subject], policy: TimingPolicy, advance: Advance
) -> PairedTiming:
    """Time `subjects` in turn in a fresh process; again, at most twice, while the result is wide.

    A neighbour that keeps the machine busy for the whole of a measurement disturbs every window
    alike, which only the width of the intervals shows. The narrowest of the attempts counts. A
    process that was killed is an attempt too, and no reason to lose what came before.

    Raises:
        MeasurementError: the backend failed or hung, or every process died.
    """
    task = TimingTask(subjects=tuple(subjects), policy=policy)
    attempts: list[PairedTiming] = []
    error: str | None = None
    for outcome in runner.run([task] * _ATTEMPTS, lambda used: advance(round(100 * used), 100)):
        error = outcome.error
        if outcome.timing is not None:
            attempts.append(outcome.timing)
            if outcome.timing.half_width <= _WIDE:
                break
        elif not outcome.died:
            attempts.clear()
            break
    if not attempts:
        raise MeasurementError(f"the measurement failed: {error}")
    return min(attempts, key=lambda timing: timing.half_width)


def measure_pass(
    runner: ShardRunner, name: str, paths: Sequence[Path], inputs: Path, policy: TimingPolicy,
    advance: Advance,
) -> MeasuredPass:  # fmt: skip
    """Time the dense and the compressed network of one pass in turn.

    Raises:
        MeasurementError: the backend failed or hung.
    """
    subjects = [network_subject(path, inputs) for path in paths]
    timing = time_subjects(runner, subjects, policy, advance)
    return MeasuredPass(
        name=name, count=1, dense_latency_s=timing.latencies_s[0], latency_s=timing.latencies_s[1],
        ratio=timing.ratios[1], ratio_low=timing.ratio_lows[1], ratio_high=timing.ratio_highs[1],
    )  # fmt: skip


def profile_layers(context: Context, database: LatencyDatabase) -> LatencyTable:
    """Measure what the database lacks of this model's layers; the table over all it has."""
    runs = context.request.workload.passes
    shapes = {unit.shape(None, context.dtype) for run in runs for unit in context.units_in(run)}
    wanted: list[LayerShape] = []
    for shape in shapes:
        ranks = plan_ranks(context.device, shape, context.backend.ranks_per_shape)
        wanted += [shape, *(dataclasses.replace(shape, rank=rank) for rank in ranks)]
    return measure_layers(context, database, wanted, "measure layers")


def measure_layers(
    context: Context, database: LatencyDatabase, wanted: Sequence[LayerShape], stage: str
) -> LatencyTable:
    """Measure those of `wanted` that the database lacks; the table over all it has."""
    points = missing_points(database, context.fingerprint, wanted)
    if points:
        with context.reporter.stage(stage) as advance:
            failed = measure_points(
                database,
                context.fingerprint,
                points,
                context.runner,
                layer_policy(context.request.machine.measure_seconds),
                advance,
            )
        for row in failed[:3]:
            context.reporter.note(f"failed: {row.shape}: {row.error}")
    rows = database.measurements(context.fingerprint.id)
    roofline = Roofline.of(context.device.spec, context.threads)
    return LatencyTable(rows, roofline, cliff=context.device.spec.cliff(context.dtype))


def anchor_network(context: Context, run: str = "prefill") -> NetworkAnchor:
    """Time one pass of the dense network, and what part of it each dense layer shape takes.

    The shares come from the network's own nodes where the backend tells them, else from layers
    timed in turn with the network.
    """
    units = context.units_in(run)
    shapes = sorted({unit.shape(None, context.dtype) for unit in units})
    dense, inputs = dense_artefact(context, run), network_inputs(context, run)
    network = network_subject(dense, inputs)
    policy = network_policy(context.request.machine.measure_seconds)

    def compute() -> dict[str, Any]:
        inside = context.backend.profiles_nodes
        beside = [] if inside else [Subject(layer=shape) for shape in shapes]
        with context.reporter.stage(f"measure the dense network, {run}") as advance:
            timing = time_subjects(context.runner, [network, *beside], policy, advance)
            shares = timing.ratios[1:]
            if inside:
                shares = _node_shares(context, dense, inputs, units)
        return {"latency_s": timing.latencies_s[0], "shares": list(shares)}

    anchor = context.folder.json_stage(
        "anchor",
        {
            "dense": artefact_key(context, dense),
            **context.model_key,
            "fingerprint": context.fingerprint.id,
            "workload": _shape_key(context, run),
            "shapes": [dataclasses.asdict(shape) for shape in shapes],
        },
        compute,
    )
    return NetworkAnchor(
        latency_s=anchor["latency_s"],
        layer_shares=dict(zip(shapes, anchor["shares"], strict=True)),
    )


def _node_shares(
    context: Context, dense: Path, inputs: Path, units: Sequence[Site]
) -> tuple[float, ...]:
    """Share of the network that a layer, or layers with one input, take by dense shape, sorted."""
    names = [site.name for site in context.sites.sites]
    profile = profile_sites(dense, inputs, context.threads, names)
    seconds: dict[LayerShape, list[float]] = defaultdict(list)
    for unit in units:
        shape = unit.shape(None, context.dtype)
        seconds[shape].append(sum(profile.sites_s[name] for name in unit.layers))
    return tuple(statistics.median(seconds[shape]) / profile.total_s for shape in sorted(seconds))


def network_model(context: Context, table: LatencyTable) -> NetworkModel:
    """The whole-network latency model before anything was built: a pass for each of the workload.

    Raises:
        MeasurementError: the backend failed on the dense network.
    """
    passes = [
        PassModel(
            name=run, count=count, anchor=anchor_network(context, run), predictor=table,
            units=context.units_in(run), dtype=context.dtype,
        )
        for run, count in context.request.workload.passes.items()
    ]  # fmt: skip
    return NetworkModel(passes=tuple(passes))
