"""Errors of the HTTP interface and of its jobs name options as requests do."""

import sys
import threading

import pytest

from autotune.service import job_process
from autotune.service.runner import Runner
from tests.autotune.service.conftest import TUNE
from tests.autotune.service.test_http import message, submit

LAYER = {"tokens": 16, "in_features": 64, "out_features": 96}
NESTED = {"budget": {"latency": "0.9x"}}


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("tune", {**NESTED, "machine": {"backend": "nope"}}, "spec.machine.backend: unknown"),
        ("tune", {**NESTED, "machine": {"device": "nope"}}, "spec.machine.device: unknown"),
        ("tune", {**TUNE, "backend": "nope"}, "backend: unknown backend 'nope'"),
        ("profile", {"plan": "quick", "device": "nope"}, "spec.device: unknown device 'nope'"),
        ("drift", {"backend": "nope"}, "spec.backend: unknown backend 'nope'"),
    ],
)
def test_a_refused_job_names_the_field(client, kind, spec, said):
    answer = submit(client, kind, spec)
    assert answer.status_code == 422
    assert message(answer).startswith(said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"device": "nope", "shapes": [LAYER]}, "device: unknown device 'nope'"),
        ({"backend": "nope", "shapes": [LAYER]}, "backend: unknown backend 'nope'"),
        ({"shapes": [LAYER]}, "allow a roofline guess with allow_extrapolation"),
        ({"device": "t4", "shapes": [LAYER]}, "set allow_extrapolation to predict it"),
    ],
)
def test_a_refused_prediction_names_the_field(client, body, said):
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 422
    assert said in message(answer)


def test_the_question_is_derived_and_takes_what_it_took(client):
    body = {
        "device": "h200",
        "backend": None,
        "dtype": "bf16",
        "allow_extrapolation": True,
        "shapes": [LAYER, {**LAYER, "rank": 16, "form": None}, {**LAYER, "form": "rank=16"}],
    }
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 200, answer.text
    _, one, other = answer.json()["estimates"]
    assert one == other
    for extra in ("threads", "shape", "tokens", "database"):
        assert client.post("/v1/predict", json={**body, extra: 1}).status_code == 422
    assert client.post("/v1/predict", json={"shapes": [{"tokens": 1}]}).status_code == 422
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    prediction = schemas["PredictionRequest"]
    assert prediction["required"] == ["shapes"]
    assert schemas["Shape"]["required"] == ["tokens", "in_features", "out_features"]
    assert prediction["properties"]["device"]["description"].startswith("Target device")


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("tune", TUNE, "spec.workload.sequence_length is too long"),
        ("profile", {"plan": "quick"}, "spec.isl is too long"),
    ],
)
def test_the_error_of_a_job_names_fields_of_its_spec(
    client, settings, database, monkeypatch, kind, spec, said
):
    """The process is the command line, which shows flags in its own log."""
    code = (
        "from autotune.cli import main\n"
        "from autotune.core.errors import ModelError, option_name\n"
        "def fail(**_):\n"
        "    raise ModelError(option_name('workload.sequence_length') + ' is too long')\n"
        "main.cli.main = fail\n"
        "main.main()"
    )
    monkeypatch.setattr(job_process, "COMMAND", (sys.executable, "-c", code))
    job_id = submit(client, kind, spec).json()["id"]
    Runner(settings, database, name="r", stopping=threading.Event()).run(database.claim("r"))
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["error"]) == ("failed", said)
    log = client.get(f"/v1/jobs/{job_id}/logs").json()["text"]
    assert "autotune: --isl is too long" in log
