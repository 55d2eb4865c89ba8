"""Latencies of single layers on a machine, from what is known without measuring."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotune.core.forms import DENSE
from autotune.core.layers import LayerShape
from autotune.core.paths import check_database_exists
from autotune.core.types import Estimate
from autotune.layers.options import (
    PredictOptions,
    check_forms,
    chosen_forms,
    from_keywords,
    named_as_keywords,
    parse_shape,
)
from autotune.tuning.machine import Machine
from autotune.tuning.machines import nearest_machine
from autotune.tuning.options import MachineOptions


@dataclass(frozen=True, kw_only=True)
class LayerPredictions:
    """Estimates of `shapes`, in the device's `dtype` and in their order, and their sources."""

    device: str
    dtype: str
    shapes: tuple[LayerShape, ...]
    estimates: tuple[Estimate, ...]
    sources: tuple[str, ...]


class KnownLayers:
    """What is known of layers on a machine, ready to be asked; nothing is measured.

    Raises:
        UsageError: nothing is known of a device that is not here.
    """

    def __init__(self, machine: Machine, *, allow_extrapolation: bool = False) -> None:
        self._device, self._dtype = machine.spec.name, machine.dtype
        self._predictor, self._sources = machine.known_layers(
            allow_extrapolation=allow_extrapolation
        )

    def predict(self, shapes: Sequence[LayerShape]) -> LayerPredictions:
        """The latency of every shape with its interval and source.

        Raises:
            MeasurementError: nothing near a shape was measured, and extrapolation is not allowed.
        """
        typed = tuple(dataclasses.replace(shape, dtype=self._dtype) for shape in shapes)
        self._predictor.prepare(typed)
        return LayerPredictions(
            device=self._device,
            dtype=self._dtype,
            shapes=typed,
            estimates=tuple(self._predictor.estimate(shape) for shape in typed),
            sources=tuple(self._sources),
        )


def predict_layers(options: PredictOptions) -> LayerPredictions:
    """The layer that the options describe, dense and in each of their forms.

    Raises:
        UsageError: a shape or form that is none, or nothing is known of a device that is not here.
        DeviceMissingError: the device is neither here nor known.
        MeasurementError: nothing near a shape was measured, and extrapolation is not allowed.
    """
    wanted = [form for form in chosen_forms(options.ranks, options.forms) if form != DENSE]
    names = ("device", "backend", "dtype", "threads", "database", "allow_extrapolation")
    dense = parse_shape(options.shape, options.tokens)
    check_database_exists(options.database)
    with nearest_machine(MachineOptions(**{n: getattr(options, n) for n in names})) as machine:
        check_forms(wanted, machine.backend, schema=PredictOptions)
        layers = KnownLayers(machine, allow_extrapolation=options.allow_extrapolation)
        return layers.predict([dense.with_form(form) for form in (DENSE, *wanted)])


def predict(**options: Any) -> LayerPredictions:
    """Predict the latency of a layer on a device, whether or not it is on this machine.

    Args:
        **options: Those of `autotune predict` (docs/options.md): ``tokens=128`` (rows),
            ``shape="384x1536"`` (columns of the input and of the output), ``ranks=(96,)``,
            ``forms=("rank=96",)``, ``device="h200"``, ``backend``, ``dtype``, ``threads``,
            ``database`` and ``allow_extrapolation=True``.

    Returns:
        Estimates in seconds of the dense layer and of each form, with intervals and sources.

    Raises:
        UsageError: an option that cannot be used.
        DeviceMissingError: the device is neither here nor known.
        MeasurementError: nothing near a shape was measured, and extrapolation is not allowed.
        TypeError: a keyword that is not an option.
    """
    with named_as_keywords(PredictOptions):
        return predict_layers(from_keywords(PredictOptions, options, of="predict"))
