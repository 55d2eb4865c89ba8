"""Predictions are made from what the database holds now."""

import pytest
from starlette.testclient import TestClient

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.profiler.database.audit import Suspect, quarantine
from autotune.profiler.database.latency import LatencyDatabase
from autotune.service.app import create_app
from autotune.service.latencies import Latencies
from autotune.service.prediction_records import Question
from autotune.service.predictions import Predictions
from autotune.tuning.machines import local_machine
from autotune.tuning.options import MachineOptions
from tests.profiler.points import point

ROW = point(16, tokens=128, in_features=64, out_features=96)
SHAPE = LayerShape(tokens=128, in_features=64, out_features=96, form=low_rank(16), dtype="fp32")


@pytest.fixture
def predictions(settings):
    with Latencies(settings.latency_database) as latencies:
        yield Predictions(latencies, threads=settings.threads)


@pytest.fixture
def opened(monkeypatch):
    """What was opened: the address of each database, in order."""
    found, whole = [], LatencyDatabase._bring_up_to_date

    def bring(store):
        found.append(store.address)
        whole(store)

    monkeypatch.setattr(LatencyDatabase, "_bring_up_to_date", bring)
    return found


@pytest.fixture
def stored(settings):
    """A database with one measured point of this machine, and its fingerprint."""
    fingerprint = local_machine(MachineOptions(threads=settings.threads)).fingerprint
    with LatencyDatabase(settings.latency_database) as database:
        database.add(database.start_run(fingerprint, "test"), [ROW])
        yield database, fingerprint


def source_of(predictions, shape=SHAPE):
    question = Question(device="cpu", shapes=(shape,), allow_extrapolation=True)
    (estimate,) = predictions.answer(question).estimates
    return estimate.source


def test_a_point_put_into_quarantine_is_not_predicted_from(predictions, stored):
    database, fingerprint = stored
    assert source_of(predictions) == "measured"
    quarantine(database, [Suspect(fingerprint_id=fingerprint.id, row=ROW, reason="impossible")])
    assert source_of(predictions) != "measured"


def test_a_failed_point_that_is_measured_later_is_predicted_from(predictions, stored):
    """The row is replaced in place, by a run that was registered before: no count changes."""
    database, fingerprint = stored
    larger = {"tokens": 128, "in_features": 64, "out_features": 128}
    run_id = database.start_run(fingerprint, "test")
    database.add(run_id, [point(16, error="out of memory", **larger)])
    shape = LayerShape(**larger, form=low_rank(16), dtype="fp32")
    before = source_of(predictions, shape)
    database.add(run_id, [point(16, **larger)])
    after = source_of(predictions, shape)
    assert (before == "measured", after) == (False, "measured")


def test_a_prediction_opens_nothing_that_is_open(predictions, stored, opened):
    assert source_of(predictions) == "measured"
    first = len(opened)
    for _ in range(3):
        assert source_of(predictions) == "measured"
    assert len(opened) == first


def test_a_database_that_was_replaced_is_opened_again(predictions, settings, stored):
    assert source_of(predictions) == "measured"
    database, _ = stored
    database.close()
    path = settings.latency_database
    for file in path.parent.glob(f"{path.name}*"):
        file.rename(file.with_name(f"old-{file.name}"))
    assert source_of(predictions) != "measured"


def test_the_service_closes_what_it_kept_open(settings, database, monkeypatch):
    closed = []
    monkeypatch.setattr(LatencyDatabase, "close", lambda store: closed.append(store))
    app = create_app(settings, database)
    with TestClient(app) as client:
        assert client.get("/v1/databases").json() == []
        store = app.state.parts.latencies.store()
        assert closed == []
    assert closed == [store]
    monkeypatch.undo()
    store.close()


def test_a_table_is_read_again_when_its_database_has_grown(client, settings):
    body = {"shapes": [{"tokens": 128, "in_features": 64, "out_features": 96, "rank": 16}]}
    first = client.post("/v1/predict", json={**body, "allow_extrapolation": True})
    mark = local_machine(MachineOptions(threads=settings.threads)).fingerprint
    with LatencyDatabase(settings.latency_database) as store:
        store.add(store.start_run(mark, "test"), [ROW])
    again = client.post("/v1/predict", json=body).json()
    assert again["estimates"][0]["source"] == "measured"
    assert first.json()["estimates"][0]["source"] != "measured"
