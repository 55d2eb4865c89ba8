"""What low rank and other precisions could bring to a model on a device, before it is loaded.

The model is known by its configuration (tuning/outlines.py), the device by its latency table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from autotune.compress.locate import configuration_folder
from autotune.core.errors import NotPricedError
from autotune.core.forms import DENSE, low_rank
from autotune.core.garbage import collection_paused
from autotune.core.layers import LayerShape, Site
from autotune.core.quantities import format_bytes
from autotune.core.types import Estimate
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.layers.network_changes import WHOLE, ChangedNetwork, PricedNetwork, asked
from autotune.layers.network_options import NetworkOptions
from autotune.layers.network_records import LayerKind, NetworkPrediction, PhasePrediction
from autotune.layers.options import from_keywords, named_as_keywords
from autotune.layers.predict import beyond, machine_options
from autotune.predictor.network.all_reduce import AllReduceLatency
from autotune.predictor.network.model import PhaseModel
from autotune.predictor.remembered import Remembered
from autotune.tuning.machines import nearest_machine
from autotune.tuning.outlines import begin_outline

_BLOCK = re.compile(r"(?<=\.)\d+(?=\.)")


@collection_paused()
def predict_network(options: NetworkOptions) -> NetworkPrediction:
    """The latency of a model on a device and what changes of all its layers would make of it.

    Raises:
        UsageError: a model, workload or device that cannot be used, or nothing is known of it.
        DeviceMissingError: the device is neither here nor known.
        MeasurementError: a dense layer has no price.
    """
    folder, workload = configuration_folder(options.named_model()), options.workload
    parallel, sums = options.tensor_parallel, None
    with nearest_machine(machine_options(options, dtype=options.dtype)) as machine:
        device = machine.spec.name
        if parallel > 1:
            sums = AllReduceLatency(device, parallel)
        with begin_outline(
            folder, workload, dtype=machine.dtype, tensor_parallel=parallel
        ) as coming:
            prices, sources = machine.network_prices(
                allow_extrapolation=options.allow_extrapolation
            )
            outline = coming.result()
        with _advised(options.named_model(), measurable=machine.verified):
            network = PricedNetwork.of(
                outline,
                workload.passes,
                prices=replace(prices, layers=Remembered(prices.layers)),
                multiple=machine.rank_multiple,
                sums=sums,
            )
        weight_bytes = outline.parameters * DTYPE_BYTES[machine.dtype]
        return NetworkPrediction(
            model=options.named_model(),
            task=outline.task,
            device=device,
            backend=machine.fingerprint.backend,
            dtype=machine.dtype,
            workload=workload.text,
            tensor_parallel=parallel,
            parameters=outline.parameters,
            interval=prices.layers.interval,
            sources=tuple(sources),
            notes=tuple(_notes(weight_bytes, machine.spec, count=parallel)),
            **_predicted(network, device, options=options),
        )


def predict_model(**options: Any) -> NetworkPrediction:
    """Predict what low rank and other precisions could bring to a model on a device.

    Args:
        **options: Those of `autotune predict --model` (docs/options.md): ``model`` (a folder, a hub
            id, or a config.json), ``batch_size``, ``isl``, ``osl``, ``tensor_parallel``,
            ``device="a100"``, ``backend``, ``dtype``, ``threads``, ``database`` and
            ``allow_extrapolation=True``.

    Returns:
        Seconds of the dense model by phase and kind of layer, and ratios to them with intervals.

    Raises:
        UsageError: an option that cannot be used.
        DeviceMissingError: the device is neither here nor known.
        MeasurementError: a dense layer has no price.
        TypeError: a keyword that is not an option.
    """
    with named_as_keywords(NetworkOptions):
        return predict_network(from_keywords(NetworkOptions, options, of="predict_model"))


@contextmanager
def _advised(model: str, *, measurable: bool) -> Iterator[None]:
    """What was not measured here can be: all layers of the model at once."""
    try:
        yield
    except NotPricedError as error:
        if not measurable:
            raise
        advice = f"to measure all layers of the model: `autotune profile --for {model}`"
        raise NotPricedError(f"{error.template}; {advice}") from error


def _notes(weight_bytes: int, spec: DeviceSpec, *, count: int) -> Iterator[str]:
    """That the dense model does not fit into the memory of so many devices."""
    if spec.kind == "cuda" and weight_bytes > count * spec.memory_bytes:
        yield (
            f"the dense weights, {format_bytes(weight_bytes)}, do not fit into the "
            f"{format_bytes(count * spec.memory_bytes)} of {count} {spec.name}"
        )


def _predicted(network: PricedNetwork, device: str, *, options: NetworkOptions) -> dict[str, Any]:
    """Phases, changes and what was refused, as NetworkPrediction has them."""
    network.prices.layers.prepare([*asked(network)])
    _require_known(network, allowed=options.allow_extrapolation)
    changed = ChangedNetwork.of(network, device)
    return {
        "phases": tuple(_phase(one, network, changed=changed) for one in network.phases),
        "changes": tuple(each[WHOLE] for each in changed.found),
        "refused": changed.refused,
    }


def _require_known(network: PricedNetwork, *, allowed: bool) -> None:
    """Refuse layers beyond the table, unless a guess is allowed.

    Raises:
        NotPricedError: the first of them.
    """
    shapes = {one.shape(site.name, DENSE) for one in network.phases for site in one.sites}
    for shape in sorted(shapes):
        if network.prices.layers.estimate(shape).source == "extrapolated" and not allowed:
            raise beyond(shape)


def _phase(
    phase: PhaseModel, network: PricedNetwork, *, changed: ChangedNetwork
) -> PhasePrediction:
    kinds: dict[tuple[str, LayerShape], list[Site]] = {}
    for site in phase.sites:
        key = (_BLOCK.sub("*", site.name), phase.shape(site.name, DENSE))
        kinds.setdefault(key, []).append(site)
    layers = tuple(
        _kind(name, shape, phase=phase, network=network, count=len(sites))
        for (name, shape), sites in kinds.items()
    )
    dense = phase.predict({})
    return PhasePrediction(
        name=phase.name,
        count=phase.count,
        tokens=max(kind.shape.tokens for kind in layers),
        latency_s=dense.latency_s,
        low_s=dense.low_s,
        high_s=dense.high_s,
        rest_s=dense.latency_s * (1 - sum(kind.share for kind in layers)),
        layers=layers,
        changes=tuple(each[phase.name] for each in changed.found),
    )


def _kind(
    name: str, shape: LayerShape, *, phase: PhaseModel, network: PricedNetwork, count: int
) -> LayerKind:
    ranks = network.ranks(in_features=shape.in_features, out_features=shape.out_features)
    pairs = [shape.with_form(low_rank(rank)) for rank in ranks]
    dense, *answers = phase.predictor.answers([shape, *pairs])
    assert isinstance(dense, Estimate), "priced when the network was added up"
    known = [
        (rank, answer)
        for rank, answer in zip(ranks, answers, strict=True)
        if isinstance(answer, Estimate)
    ]
    return LayerKind(
        name=name,
        count=count,
        shape=shape,
        dense=dense,
        share=count * phase.anchor.layer_shares[shape],
        faster_rank=max((rank for rank, each in known if each.ratio_high < 1), default=None),
        likely_rank=max((rank for rank, each in known if each.ratio < 1), default=None),
    )
