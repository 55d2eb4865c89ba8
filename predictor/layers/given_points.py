"""Seconds of layers that a program gives: they correct what is known, as its database would."""

from __future__ import annotations

from collections.abc import Mapping

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.devices.roofline import Roofline
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.layers.extrapolated import ExtrapolatedLatency
from autotune.predictor.layers.own_points import OwnPoints
from autotune.profiler.database.points import point_measurement
from autotune.profiler.database.records import Measurement

Seen = Mapping[LayerShape, float]


def with_points(predictor: LatencyPredictor, seen: Seen, *, roofline: Roofline) -> OwnPoints:
    """The predictor, corrected by the seconds of layers; these are answered as they are."""
    rows = _measurements(predictor, seen, roofline=roofline)
    if not isinstance(predictor, ExtrapolatedLatency):
        return OwnPoints(predictor, rows, roofline=roofline)
    adapted = predictor.adapted(rows)
    return OwnPoints(adapted, rows, roofline=roofline, known=adapted.adaptation)


def _measurements(
    predictor: LatencyPredictor, seen: Seen, *, roofline: Roofline
) -> list[Measurement]:
    """One for each layer.

    A pair without its dense layer among them keeps the ratio that is known, so that it says how
    much slower or faster the device is as a whole.
    """
    alone = [shape for shape in seen if shape.dense not in seen]
    known = dict(zip(alone, predictor.answers(alone), strict=True))
    rows = []
    for shape, seconds in seen.items():
        dense_s = seen.get(shape.dense)
        if dense_s is None:
            answer = known[shape]
            limits = roofline.latency_s(shape), roofline.latency_s(shape.dense)
            ratio = answer.ratio if isinstance(answer, Estimate) else limits[0] / limits[1]
            dense_s = seconds / ratio
        rows.append(point_measurement(shape, latency_s=seconds, dense_latency_s=dense_s))
    return rows
