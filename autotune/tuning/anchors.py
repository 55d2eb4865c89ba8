"""The dense network of a phase beside its layers: seconds of the one, shares of the others."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from autotune.core.forms import DENSE
from autotune.core.layers import LayerShape
from autotune.core.progress import Advance
from autotune.predictor.network.model import NetworkAnchor
from autotune.profiler.measure.tasks import Subject
from autotune.tuning.network_timing import network_policy, network_subject, time_subjects

if TYPE_CHECKING:
    from autotune.tuning.builders import Builder
    from autotune.tuning.measuring import MeasuringMachine


def measure_anchor(machine: MeasuringMachine, builder: Builder, *, phase: str) -> NetworkAnchor:
    """Time one phase of the dense network, and the share of it that each dense shape takes.

    The shares come from the network's own nodes where the backend reports them, otherwise from
    layers timed alternately with the network.
    """
    shapes = builder.model.dense_shapes(phase, machine.dtype)
    dense, inputs = builder.dense(phase), builder.inputs(phase)

    def compute() -> dict[str, Any]:
        machine.has_measured = True
        with builder.workspace.stage(f"measure the dense network, {phase}") as advance:
            shares = _node_shares(machine, builder, phase=phase, advance=advance)
            subjects = [network_subject(dense, inputs)]
            if shares is None:
                subjects += [Subject(layer=shape) for shape in shapes]
            policy = network_policy(machine.spec.kind, machine.measure_seconds)
            timing = time_subjects(machine.runner, subjects, policy=policy, advance=advance)
            shares = timing.ratios[1:] if shares is None else shares
        settled = timing.converged
        return {"latency_s": timing.latencies_s[0], "shares": list(shares), "settled": settled}

    key = {
        "measure_seconds": machine.measure_seconds,
        "dense": builder.key(dense),
        **builder.model.key,
        "fingerprint": machine.fingerprint.id,
        "workload": builder.model.shape_key(phase),
        "shapes": [shape.to_json() for shape in shapes],
    }
    found = builder.workspace.value(
        "anchor",
        key,
        compute=compute,
        reuse=lambda one: bool(one["settled"]) or machine.keeps_timings,
    )
    return NetworkAnchor(
        latency_s=found["latency_s"],
        layer_shares=dict(zip(shapes, found["shares"], strict=True)),
    )


def _node_shares(
    machine: MeasuringMachine, builder: Builder, *, phase: str, advance: Advance
) -> tuple[float, ...] | None:
    """Share of the network that each dense shape takes, sorted; None where it is not told."""
    names = [site.name for site in builder.model.single]
    profile = machine.site_latencies(
        builder.dense(phase), builder.inputs(phase), sites=names, advance=advance
    )
    if profile is None:
        return None
    seconds: dict[LayerShape, list[float]] = defaultdict(list)
    for site in builder.model.choices_in(phase):
        layers_s = sum(profile.sites_s[name] for name in site.layers)
        seconds[site.shape(DENSE, machine.dtype)].append(layers_s)
    return tuple(statistics.median(seconds[shape]) / profile.total_s for shape in sorted(seconds))
