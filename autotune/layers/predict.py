"""Latencies of single layers on a machine, from what is known without measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.core.errors import NotPricedError, option_name
from autotune.core.forms import DENSE, Form
from autotune.core.layer_columns import LayerColumns
from autotune.core.layers import LayerShape
from autotune.core.option_names import spell
from autotune.core.options import Style
from autotune.core.paths import check_database_exists
from autotune.core.quantities import format_bytes
from autotune.core.types import Estimate, Interval
from autotune.devices.roofline import Roofline
from autotune.devices.specs import DTYPE_BYTES, DeviceSpec
from autotune.layers.options import (
    PredictOptions,
    check_forms,
    chosen_forms,
    from_keywords,
    impossible_ranks,
    named_as_keywords,
    parse_shape,
    require_rank,
)
from autotune.predictor.columns import EstimateColumns
from autotune.tuning.machine import Machine
from autotune.tuning.machines import nearest_machine
from autotune.tuning.options import MachineOptions

if TYPE_CHECKING:
    from autotune.layers.network_options import NetworkOptions


@dataclass(frozen=True, kw_only=True)
class LayerPredictions:
    """Estimates of `shapes`, in the device's `dtype` and in their order, and their sources.

    `backend` is what runs the layers in the table that answers. `refused` has the forms without an
    estimate, and why. The intervals are of 90 %; `interval` states what they hold (`table`: the
    same machine and software, `transfer`: another board, driver, library and harness too).
    """

    device: str
    backend: str
    dtype: str
    shapes: tuple[LayerShape, ...]
    estimates: tuple[Estimate, ...]
    sources: tuple[str, ...]
    interval: Interval = "table"
    refused: Mapping[Form, NotPricedError] = field(default_factory=dict)


class KnownLayers:
    """What is known of layers on a machine, ready to be asked; nothing is measured.

    Raises:
        UsageError: nothing is known of a device that is not here.
    """

    def __init__(self, machine: Machine, *, allow_extrapolation: bool = False) -> None:
        self._spec, self._dtype = machine.spec, machine.dtype
        self._extrapolate = allow_extrapolation
        self._predictor, self._sources = machine.known_layers(
            allow_extrapolation=allow_extrapolation
        )
        self._backend = machine.fingerprint.backend
        self._roofline = Roofline.of(machine.spec, machine.threads)

    @property
    def sources(self) -> tuple[str, ...]:
        """Whose measurements answer."""
        return tuple(self._sources)

    def learn(self, seen: Mapping[LayerShape, float]) -> None:
        """Correct what is known by the seconds of layers, which are in the device's dtype."""
        from autotune.predictor.layers.given_points import with_points

        typed = {replace(shape, dtype=self._dtype): seconds for shape, seconds in seen.items()}
        corrected = with_points(self._predictor, typed, roofline=self._roofline)
        given = f"{corrected.points} points that were given: {corrected.changes()}"
        self._predictor, self._sources = corrected, [*self._sources, given]

    def predict(self, shapes: Sequence[LayerShape]) -> LayerPredictions:
        """The latency of every shape with its interval and source.

        Raises:
            MeasurementError: nothing near a shape was measured, and extrapolation is not allowed.
        """
        answers = dict(zip(shapes, self.answers(shapes), strict=True))
        for answer in answers.values():
            if not isinstance(answer, Estimate):
                raise answer
        found = {shape: answer for shape, answer in answers.items() if isinstance(answer, Estimate)}
        return self._found(shapes, [found[shape] for shape in shapes])

    def predict_forms(self, dense: LayerShape, forms: Sequence[Form]) -> LayerPredictions:
        """The dense layer and it in each form; forms without a price are refused by themselves.

        Raises:
            MeasurementError: the dense layer, or each of the forms, has no price.
        """
        shapes = [dense, *map(dense.with_form, forms)]
        found: dict[LayerShape, Estimate] = {}
        refused: dict[Form, NotPricedError] = {}
        for shape, answer in zip(shapes, self.answers(shapes), strict=True):
            if isinstance(answer, Estimate):
                found[shape] = answer
            elif shape.form == DENSE:
                raise answer
            else:
                refused[shape.form] = answer
        if refused and len(refused) == len(forms):
            raise next(iter(refused.values()))
        return replace(self._found([*found], [*found.values()]), refused=refused)

    def answers(self, shapes: Sequence[LayerShape]) -> Sequence[Estimate | NotPricedError]:
        """The estimate of every shape in the device's dtype, or why it has none; kept."""

        def ask(layers: LayerColumns) -> EstimateColumns:
            return EstimateColumns.of(self._predictor.answers(layers.shapes()))

        return self._possible(LayerColumns.of(shapes), ask).answers()

    def answer_columns(self, layers: LayerColumns) -> EstimateColumns:
        """The same of many layers as columns; not kept."""
        return self._possible(layers, self._predictor.answer_columns)

    def _possible(
        self, layers: LayerColumns, ask: Callable[[LayerColumns], EstimateColumns]
    ) -> EstimateColumns:
        """What `ask` answers of the layers that the device can run, in its dtype."""
        typed = layers.in_dtype(self._dtype)
        refused = _no_such_layers(typed, self._spec)
        rows = np.setdiff1d(np.arange(len(typed)), [*refused])
        parts = [(rows, ask(typed.rows(rows)))]
        found = EstimateColumns.merged(len(typed), parts, refused=refused)
        if self._extrapolate:
            return found
        # What lies beyond the table is an answer only where that is wanted.
        far = np.flatnonzero(found.source == "extrapolated").tolist()
        return found.without({row: beyond(typed.shape(row)) for row in far})

    def _found(
        self, shapes: Sequence[LayerShape], estimates: Sequence[Estimate]
    ) -> LayerPredictions:
        return LayerPredictions(
            device=self._spec.name,
            backend=self._backend,
            dtype=self._dtype,
            shapes=tuple(replace(shape, dtype=self._dtype) for shape in shapes),
            estimates=tuple(estimates),
            sources=tuple(self._sources),
            interval=self._predictor.interval,
        )


def _no_such_layers(layers: LayerColumns, spec: DeviceSpec) -> dict[int, NotPricedError]:
    """Why the device cannot run layers in their forms, by row, where it cannot."""
    found = {row: NotPricedError(text) for row, text in impossible_ranks(layers).items()}
    if spec.kind != "cuda":
        return found
    features = layers.in_features + layers.out_features + layers.rank
    element = np.array([DTYPE_BYTES[kind.dtype] for kind in layers.kinds])[layers.kind]
    needed = element * (layers.parameters + layers.tokens.astype(np.float64) * features)
    for row in np.flatnonzero(needed > spec.memory_bytes).tolist():
        if row in found:
            continue
        shape = layers.shape(row)
        found[row] = NotPricedError(
            f"{shape.tokens} tokens, {shape.in_features}x{shape.out_features}, {shape.form} "
            f"need {format_bytes(needed[row])}; {spec.name} has {format_bytes(spec.memory_bytes)}"
        )
    return found


def beyond(shape: LayerShape) -> NotPricedError:
    """That a layer lies beyond what was measured, and what to do."""
    return NotPricedError(
        f"{shape.tokens} tokens, {shape.in_features}x{shape.out_features} lie beyond what was "
        "measured; measure it on the device itself with `autotune profile`, or allow a guess with "
        f"{option_name('machine.allow_extrapolation')}"
    )


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


def machine_options(
    options: PredictOptions | NetworkOptions, *, dtype: str | None
) -> MachineOptions:
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
