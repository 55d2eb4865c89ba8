"""The measuring stages of a run: layers, the dense network, whole networks in turn."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from autotune.errors import MeasurementError
from autotune.predictor.network import NetworkAnchor, NetworkModel
from autotune.predictor.roofline import Roofline
from autotune.predictor.table import LatencyTable
from autotune.profiler.database import LatencyDatabase
from autotune.profiler.nodes import profile_sites
from autotune.profiler.profile import measure_points, missing_points, plan_ranks
from autotune.profiler.shard import ShardRunner
from autotune.profiler.tasks import Subject, TimingTask
from autotune.profiler.timing import PairedTiming, TimingPolicy
from autotune.progress import Advance
from autotune.stages import DTYPE, Context, artefact_key
from autotune.types import LayerShape

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


def network_inputs(context: Context) -> Path:
    """The workload's random inputs as a safetensors file."""
    values = context.task.example_inputs(context.loaded.model, context.request.workload)
    key = {**context.model_key, "workload": dataclasses.asdict(context.request.workload)}
    return context.folder.stage(
        "inputs", key, ".safetensors", lambda path: save_file(values, path)
    )[0]


def network_subject(artefact: Path, inputs: Path) -> Subject:
    """A whole model as something to time."""
    return Subject(network=str(artefact), inputs=str(inputs), loader=LOADER)


def time_subjects(
    runner: ShardRunner, subjects: list[Subject], policy: TimingPolicy, advance: Advance
) -> PairedTiming:
    """Time `subjects` in turn in a fresh process; again, at most twice, while the result is wide.

    A neighbour that keeps the machine busy for the whole of a measurement disturbs every window
    alike, which only the width of the intervals shows. The narrowest of the attempts counts.

    Raises:
        MeasurementError: the backend failed or hung.
    """
    task = TimingTask(subjects=tuple(subjects), policy=policy)
    attempts: list[PairedTiming] = []
    for outcome in runner.run([task] * _ATTEMPTS, lambda used: advance(round(100 * used), 100)):
        if outcome.timing is None:
            raise MeasurementError(f"the measurement failed: {outcome.error}")
        attempts.append(outcome.timing)
        if outcome.timing.half_width <= _WIDE:
            break
    return min(attempts, key=lambda timing: timing.half_width)


def profile_layers(context: Context, database: LatencyDatabase) -> LatencyTable:
    """Measure what the database lacks of this model's layers; the table over all it has."""
    shapes = {unit.shape(None, DTYPE) for unit in context.units}
    wanted: list[LayerShape] = []
    for shape in shapes:
        ranks = plan_ranks(context.device, shape)
        wanted += [shape, *(dataclasses.replace(shape, rank=rank) for rank in ranks)]
    points = missing_points(database, context.fingerprint, wanted)
    if points:
        with context.reporter.stage("measure layers") as advance:
            failed = measure_points(
                database,
                context.fingerprint,
                points,
                context.runner,
                layer_policy(context.request.measure_seconds),
                advance,
            )
        for row in failed[:3]:
            context.reporter.note(f"failed: {row.shape}: {row.error}")
    rows = database.measurements(context.fingerprint.id)
    roofline = Roofline.of(context.device.spec, context.threads)
    return LatencyTable(rows, roofline)


def anchor_network(context: Context, dense: Path) -> NetworkAnchor:
    """Time the dense network, and what part of it each dense layer shape takes.

    The shares come from the network's own nodes where the backend tells them, else from layers
    timed in turn with the network.
    """
    shapes = sorted({unit.shape(None, DTYPE) for unit in context.units})
    inputs = network_inputs(context)
    network = network_subject(dense, inputs)
    policy = network_policy(context.request.measure_seconds)

    def compute() -> dict[str, Any]:
        inside = context.backend.profiles_nodes
        beside = [] if inside else [Subject(layer=shape) for shape in shapes]
        with context.reporter.stage("measure the dense network") as advance:
            timing = time_subjects(context.runner, [network, *beside], policy, advance)
            shares = _node_shares(context, dense, inputs, shapes) if inside else timing.ratios[1:]
        return {"latency_s": timing.latencies_s[0], "shares": list(shares)}

    anchor = context.folder.json_stage(
        "anchor",
        {
            "dense": artefact_key(context, dense),
            **context.model_key,
            "fingerprint": context.fingerprint.id,
            "workload": dataclasses.asdict(context.request.workload),
            "shapes": [dataclasses.asdict(shape) for shape in shapes],
        },
        compute,
    )
    return NetworkAnchor(
        latency_s=anchor["latency_s"],
        layer_shares=dict(zip(shapes, anchor["shares"], strict=True)),
    )


def _node_shares(
    context: Context, dense: Path, inputs: Path, shapes: list[LayerShape]
) -> list[float]:
    """Share of the network that a layer, or layers with one input, take by dense shape."""
    names = [site.name for site in context.sites.sites]
    profile = profile_sites(dense, inputs, context.threads, names)
    seconds: dict[LayerShape, list[float]] = {shape: [] for shape in shapes}
    for unit in context.units:
        seconds[unit.shape(None, DTYPE)].append(sum(profile.sites_s[n] for n in unit.layers))
    return [statistics.median(seconds[shape]) / profile.total_s for shape in shapes]


def network_model(context: Context, anchor: NetworkAnchor, table: LatencyTable) -> NetworkModel:
    """The whole-network latency model before anything was built."""
    return NetworkModel(anchor=anchor, predictor=table, units=context.units, dtype=DTYPE)
