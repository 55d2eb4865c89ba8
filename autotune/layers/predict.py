"""Latencies of single layers on a machine, from what is known without measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autotune.core.errors import AutotuneError, NotPricedError
from autotune.core.forms import DENSE, Form
from autotune.core.layers import LayerShape
from autotune.core.option_names import spell
from autotune.core.options import Style
from autotune.core.paths import check_database_exists
from autotune.core.types import Estimate
from autotune.layers.options import (
    PredictOptions,
    check_forms,
    chosen_forms,
    from_keywords,
    named_as_keywords,
    no_such_rank,
    parse_shape,
    require_rank,
)
from autotune.tuning.machine import Machine
from autotune.tuning.machines import nearest_machine
from autotune.tuning.options import MachineOptions


@dataclass(frozen=True, kw_only=True)
class LayerPredictions:
    """Estimates of `shapes`, in the device's `dtype` and in their order, and their sources.

    `backend` is what runs the layers in the table that answers. `refused` has the forms without an
    estimate, and why.
    """

    device: str
    backend: str
    dtype: str
    shapes: tuple[LayerShape, ...]
    estimates: tuple[Estimate, ...]
    sources: tuple[str, ...]
    refused: Mapping[Form, NotPricedError] = field(default_factory=dict)


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
        self._backend = machine.fingerprint.backend

    def predict(self, shapes: Sequence[LayerShape]) -> LayerPredictions:
        """The latency of every shape with its interval and source.

        Raises:
            MeasurementError: nothing near a shape was measured, and extrapolation is not allowed.
        """
        typed = self._typed(shapes)
        self._predictor.prepare(typed)
        return self._found(typed, [self._predictor.estimate(shape) for shape in typed])

    def predict_forms(self, dense: LayerShape, forms: Sequence[Form]) -> LayerPredictions:
        """The dense layer and it in each form; forms without a price are refused by themselves.

        Raises:
            MeasurementError: the dense layer, or each of the forms, has no price.
        """
        typed = self._typed([dense, *map(dense.with_form, forms)])
        possible = [shape for shape in typed if _too_large(shape) is None]
        answers = dict(zip(possible, self._predictor.answers(possible), strict=True))
        found: dict[LayerShape, Estimate] = {}
        refused: dict[Form, NotPricedError] = {}
        for shape in typed:
            answer = _too_large(shape) or answers[shape]
            if isinstance(answer, Estimate):
                found[shape] = answer
            elif shape.form == DENSE:
                raise answer
            else:
                refused[shape.form] = answer
        if refused and len(refused) == len(forms):
            raise next(iter(refused.values()))
        return replace(self._found([*found], [*found.values()]), refused=refused)

    def answers(self, shapes: Sequence[LayerShape]) -> Sequence[Estimate | AutotuneError]:
        """The estimate of every shape in the device's dtype, or why it has none."""
        return self._predictor.answers(self._typed(shapes))

    def _typed(self, shapes: Sequence[LayerShape]) -> tuple[LayerShape, ...]:
        return tuple(replace(shape, dtype=self._dtype) for shape in shapes)

    def _found(
        self, shapes: Sequence[LayerShape], estimates: Sequence[Estimate]
    ) -> LayerPredictions:
        return LayerPredictions(
            device=self._device,
            backend=self._backend,
            dtype=self._dtype,
            shapes=tuple(shapes),
            estimates=tuple(estimates),
            sources=tuple(self._sources),
        )


def _too_large(shape: LayerShape) -> NotPricedError | None:
    """Why no layer of this size has the rank, where it has not."""
    problem = no_such_rank(shape)
    return None if problem is None else NotPricedError(problem)


def predict_layers(options: PredictOptions) -> LayerPredictions:
    """The layer that the options describe, dense and in each of their forms.

    Raises:
        UsageError: a shape or form that is none, or nothing is known of a device that is not here.
        DeviceMissingError: the device is neither here nor known.
        MeasurementError: nothing near a shape was measured, and extrapolation is not allowed.
    """
    wanted = [form for form in chosen_forms(options.ranks, options.forms) if form != DENSE]
    tokens, shape = options.layer()
    dense = parse_shape(shape, tokens)
    require_rank([dense.with_form(form) for form in wanted])
    with nearest_machine(machine_options(options, dtype=options.dtype)) as machine:
        check_forms(wanted, machine.backend, schema=PredictOptions)
        layers = KnownLayers(machine, allow_extrapolation=options.allow_extrapolation)
        return layers.predict_forms(dense, wanted)


def machine_options(options: PredictOptions, *, dtype: str | None) -> MachineOptions:
    """The machine that layers are asked of, in a dtype.

    Raises:
        UsageError: a database that does not exist.
    """
    check_database_exists(options.database)
    names = ("device", "backend", "threads", "database", "allow_extrapolation")
    return MachineOptions(dtype=dtype, **{name: getattr(options, name) for name in names})


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
        found = predict_layers(from_keywords(PredictOptions, options, of="predict"))
    return replace(found, refused=spelled_refusals(found, "flat"))


def spelled_refusals(found: LayerPredictions, style: Style) -> dict[Form, NotPricedError]:
    """Why forms were refused, with options named as the caller spells them."""
    return {form: spell(error, style, PredictOptions) for form, error in found.refused.items()}
