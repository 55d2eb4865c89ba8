"""The latency model of a network on a device that is not here.

Layers are priced by the device's table, the rest by a trace of the model (predictor/network).
"""

from __future__ import annotations

import math
from collections import defaultdict

from autotune.compress.decode import decode_step
from autotune.compress.operations import fuse, trace_operations
from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import LayerShape, Site
from autotune.devices.alignment import saving_ranks
from autotune.predictor.network.model import NetworkAnchor, NetworkModel, PhaseModel
from autotune.predictor.network.rest import RestLatency, rest_latency
from autotune.profiler.backends.torch_layers import DTYPES
from autotune.tune.context import Context


def predicted_network(context: Context) -> NetworkModel:
    """A pass for each of the workload, nothing of it measured on this machine.

    Raises:
        MeasurementError: a layer whose sizes the table cannot price.
    """
    with context.reporter.stage("predict the dense network"):
        context.target.table.predictor.prepare(_wanted(context))
        passes = [
            PhaseModel(
                name=run,
                count=count,
                anchor=_anchor(context, run),
                predictor=context.target.table.predictor,
                sites=context.units_in(run),
                dtype=context.dtype,
            )
            for run, count in context.request.workload.passes.items()
        ]
    return NetworkModel(phases=tuple(passes))


def _wanted(context: Context) -> list[LayerShape]:
    """Every shape that a plan may hold."""
    units = [unit for run in context.request.workload.passes for unit in context.units_in(run)]
    dense = {unit.shape(DENSE, context.dtype) for unit in units}
    step = context.target.rank_multiple
    return [
        shape.with_form(form)
        for shape in sorted(dense)
        for form in (
            DENSE,
            *map(low_rank, saving_ranks(step, shape.in_features, shape.out_features)),
        )
    ]


def prediction_sources(context: Context) -> list[str]:
    """Whose numbers a predicted network is made of, to print beside it."""
    table = context.target.table
    rest = f"rest of the network modelled: {table.attention.source}, memory-bound kernels"
    return [*table.sources, rest]


def _anchor(context: Context, run: str) -> NetworkAnchor:
    """Σ dense layers + rest, and what part of it each dense shape is."""
    units = context.units_in(run)
    by_name = {unit.name: unit for unit in units}
    predictor = context.target.table.predictor
    layer_s: dict[LayerShape, float] = {}
    spread: dict[LayerShape, float] = defaultdict(float)
    total = 0.0
    for unit in units:
        members = [by_name[name] for name in unit.layers]
        found = [predictor.estimate(member.shape(DENSE, context.dtype)) for member in members]
        layer_s[unit.shape(DENSE, context.dtype)] = sum(estimate.latency_s for estimate in found)
        if not unit.members:
            total += found[0].latency_s
            half = (found[0].high_s - found[0].low_s) / 2
            spread[unit.shape(DENSE, context.dtype)] += half
    rest = _rest(context, run, units)
    rest_error = rest.latency_s * math.expm1(rest.half_width)
    latency_s = total + rest.latency_s
    error = math.sqrt(sum(half**2 for half in (*spread.values(), rest_error)))
    return NetworkAnchor(
        latency_s=latency_s,
        layer_shares={shape: seconds / latency_s for shape, seconds in layer_s.items()},
        relative_error=error / latency_s,
    )


def _rest(context: Context, run: str, units: tuple[Site, ...]) -> RestLatency:
    table = context.target.table
    operations = trace_operations(
        context.loaded.model, [unit for unit in units if not unit.members],
        context.example_inputs(run), DTYPES[context.dtype],
        causal=context.loaded.task == "causal-lm",
        call=decode_step if run == "decode" else None,
    )  # fmt: skip
    kernels = fuse(operations) if table.fuses else operations
    return rest_latency(kernels, context.dtype, table.memory, table.attention, table.predictor)
