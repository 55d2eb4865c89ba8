"""A broken bound is reported like a broken rule: the field as written, and what must hold."""

import json

import pytest

from tests.autotune.service.conftest import TUNE
from tests.autotune.service.test_http import NOBODY, message, submit

NESTED = {"budget": {"latency": "1x"}}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({**NESTED, "search": {"trials": -1}}, "spec.search.trials must be 0 to 100000, got -1"),
        ({**TUNE, "trials": -1}, "trials must be 0 to 100000, got -1"),
        ({**TUNE, "isl": 2**40}, "isl must be at most 16,777,216, got 1099511627776"),
        ({**TUNE, "isl": "x"}, "isl must be a whole number, got 'x'"),
        ({**TUNE, "joint": "maybe"}, "joint must be true or false, got 'maybe'"),
        ({**TUNE, "measure_seconds": 9999}, "measure_seconds must be 0.1 to 3600, got 9999"),
        ({**TUNE, "storage": "x"}, "storage must be one of fp32, fp16, bf16, remap8, got 'x'"),
        ({**TUNE, "targets": "mlp"}, "targets must be a list, got 'mlp'"),
        ({**TUNE, "targets": ["x"] * 65}, "targets must have at most 64 entries"),
        ({**TUNE, "metric": "x" * 501}, "metric must have at most 500 characters"),
        ({**NESTED, "search": 5}, "spec.search must be an object, got 5"),
        ({**NESTED, "search": {"x": 1}}, "unknown option 'spec.search.x'; known are front, jobs"),
        (5, "spec must be an object, got 5"),
    ],
)
def test_a_bound_reads_like_a_rule(client, spec, said):
    answer = submit(client, "tune", spec)
    assert answer.status_code == 422
    assert message_of(answer).startswith(said)


def message_of(answer):
    """The message, which is that of the first field."""
    error = answer.json()["error"]
    assert error["fields"][0]["message"] == error["message"]
    return error["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "drift", "spec": {"threads": 0}}, "spec.threads must be 1 or more, got 0"),
        ({"kind": "export", "spec": {}}, "spec.run must be given"),
        (
            {"kind": "verify", "spec": {"run": NOBODY, "x": 1}},
            "unknown option 'spec.x'; known are run",
        ),
        ({"kind": "tune"}, "spec must be given"),
        ({"kind": "dance"}, "kind must be one of tune, profile, export, verify, drift"),
        ([], "body must be an object"),
    ],
)
def test_no_message_speaks_of_the_models(client, body, said):
    assert message_of(client.post("/v1/jobs", json=body)) == said


def test_other_routes_use_the_same_words(client):
    shape = {"tokens": 1, "in_features": 64, "out_features": 64, "rank": 0}
    answer = client.post("/v1/predict", json={"shapes": [shape]})
    assert message_of(answer) == "shapes.0.rank must be 1 or more, got 0"
    answer = client.get("/v1/jobs", params={"limit": 501})
    assert message_of(answer) == "limit must be at most 500, got '501'"


def test_a_rule_of_an_option_and_a_bound_differ_in_nothing_else(client):
    rule = submit(client, "tune", {**NESTED, "machine": {"threads": 9999}})
    bound = submit(client, "tune", {**NESTED, "machine": {"threads": 0}})
    assert message(rule).startswith("spec.machine.threads must be 1 to ")
    assert message(bound) == "spec.machine.threads must be 1 or more, got 0"


@pytest.mark.parametrize("key", ["\ud800", "x" * 50_000, "a.b", ""])
def test_a_name_that_the_caller_made_up_is_no_failure_of_the_server(client, key):
    content = json.dumps({"kind": "tune", "spec": {**TUNE, key: 1}})
    answer = client.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert len(message(answer)) < 2000


def test_what_stands_in_a_header_is_not_repeated(client):
    body = {"kind": "tune", "spec": TUNE}
    answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "my secret"})
    assert message_of(answer) == "Idempotency-Key must match ^[!-~]+$"
