"""Predictions are made from what the database holds now."""

import pytest
from autotune.tune.target import target_here

from autotune.core.layers import LayerShape
from autotune.devices.detect import check_threads
from autotune.profiler.database.audit import Suspect, quarantine
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import fingerprint_of
from autotune.service.predictions import Predictions
from tests.forms import form_of
from tests.profiler.points import point

ROW = point(16, tokens=128, in_features=64, out_features=96)
SHAPE = LayerShape(tokens=128, in_features=64, out_features=96, form=form_of(16), dtype="fp32")


@pytest.fixture
def stored(settings):
    """A database with one measured point of this machine, and its fingerprint."""
    target = target_here("cpu")
    fingerprint = fingerprint_of(target.device, target.backend, target.dtype, check_threads(1))
    with LatencyDatabase(settings.latency_database) as database:
        database.add(database.start_run(fingerprint, "test"), [ROW])
        yield database, fingerprint


def source_of(predictions):
    _, _, [estimate] = predictions.answer("cpu", None, None, [SHAPE], guess=True)
    return estimate.source


def test_a_point_put_into_quarantine_is_not_predicted_from(settings, stored):
    database, fingerprint = stored
    predictions = Predictions(settings)
    assert source_of(predictions) == "measured"
    quarantine(database, [Suspect(fingerprint_id=fingerprint.id, row=ROW, reason="impossible")])
    assert source_of(predictions) != "measured"


def test_a_failed_point_that_is_measured_later_is_predicted_from(settings, stored):
    """The row is replaced in place, by a run that was registered before: no count changes."""
    database, fingerprint = stored
    larger = {"tokens": 128, "in_features": 64, "out_features": 128}
    run_id = database.start_run(fingerprint, "test")
    database.add(run_id, [point(16, error="out of memory", **larger)])
    predictions = Predictions(settings)
    shape = LayerShape(**larger, form=form_of(16), dtype="fp32")
    _, _, [before] = predictions.answer("cpu", None, None, [shape], guess=True)
    database.add(run_id, [point(16, **larger)])
    _, _, [after] = predictions.answer("cpu", None, None, [shape], guess=True)
    assert (before.source == "measured", after.source) == (False, "measured")
