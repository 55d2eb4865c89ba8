"""Predictions are made from what the database holds now."""

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.profiler.database.audit import Suspect, quarantine
from autotune.profiler.database.latency import LatencyDatabase
from autotune.service.predictions import Predictions
from autotune.tuning.machines import local_machine
from autotune.tuning.options import MachineOptions
from tests.profiler.points import point

ROW = point(16, tokens=128, in_features=64, out_features=96)
SHAPE = LayerShape(tokens=128, in_features=64, out_features=96, form=low_rank(16), dtype="fp32")


@pytest.fixture
def stored(settings):
    """A database with one measured point of this machine, and its fingerprint."""
    fingerprint = local_machine(MachineOptions(threads=settings.threads)).fingerprint
    with LatencyDatabase(settings.latency_database) as database:
        database.add(database.start_run(fingerprint, "test"), [ROW])
        yield database, fingerprint


def source_of(predictions, shape=SHAPE):
    _, found = predictions.answer("cpu", None, None, [shape], allow_extrapolation=True)
    (estimate,) = found.estimates
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
    shape = LayerShape(**larger, form=low_rank(16), dtype="fp32")
    before = source_of(predictions, shape)
    database.add(run_id, [point(16, **larger)])
    after = source_of(predictions, shape)
    assert (before == "measured", after) == (False, "measured")
