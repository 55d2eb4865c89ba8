"""The HTTP interface: what it does, and what it refuses, each with a sentence and never a 500."""

import json

import pytest

from autotune.compress.sentence import read_sentence_model
from autotune.service.job_records import Ending, Lease
from tests.autotune.service.conftest import TUNE

NOBODY = "0" * 20
LAYER = {"tokens": [128], "shapes": ["64x96"]}


def submit(client, kind="tune", spec=TUNE, **headers):
    return client.post("/v1/jobs", json={"kind": kind, "spec": spec}, headers=headers)


def finished(client, database, settings, files=()):
    """A tuning that ended, with some files."""
    job_id = submit(client).json()["id"]
    job = database.claim("r")
    lease = Lease(job_id=job.id, runner="r", attempt=1)
    database.note(lease, "stage", text="factorize")
    database.finish(lease, Ending(exit_code=0, result={"within_budget": True}))
    for name, content in files:
        path = settings.run_folder(job_id) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return job_id


def message(answer):
    assert set(answer.json()) == {"error"}
    return answer.json()["error"]["message"]


def test_submit_look_and_cancel(client):
    answer = submit(client)
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued"
    assert job["spec"]["workload"]["sequence_length"] == 64
    assert job["spec"]["seed"] == 0  # what was not given is there as it will be
    assert client.get(f"/v1/jobs/{job['id']}").json() == job
    page = client.get("/v1/jobs", params={"state": "queued"}).json()
    assert page == {"jobs": [job], "next": None, "counts": {**page["counts"], "queued": 1}}
    assert client.get("/v1/jobs", params={"state": "failed"}).json()["jobs"] == []
    assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("tune", {**TUNE, "targets": ["x" * 480] * 64, "ignore": ["x" * 480] * 64}),
        ("tune", {**TUNE, "targets": ["\U0001f680" * 120] * 40}),  # 12 characters each as JSON
        ("profile", {**LAYER, "shapes": [f"64x{'0' * 400}96"] * 64}),
    ],
)
def test_a_specification_that_would_make_every_list_long_is_refused(client, kind, spec):
    answer = submit(client, kind, spec)
    assert answer.status_code == 422
    assert "characters as JSON, more than the 20,000 allowed" in message(answer)
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_the_same_key_is_the_same_job(client):
    first, again = (submit(client, **{"Idempotency-Key": "a-1"}) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = submit(client, spec={**TUNE, "isl": 32}, **{"Idempotency-Key": "a-1"})
    assert other.status_code == 409


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("tune", {**TUNE, "latency_budget": "20 parsec"}, "limit on the latency"),
        ("tune", {**TUNE, "latency_budget": None}, "budget"),
        ("tune", {**TUNE, "model": "/etc"}, "not on the list"),
        ("tune", {**TUNE, "device": "abacus"}, "abacus"),
        ("tune", {**TUNE, "metric": "taste"}, "taste"),
        ("tune", {**TUNE, "device": "h200", "backend": "onnxruntime-cpu"}, "onnxruntime-cpu"),
        ("tune", {**TUNE, "rounds": 99}, "rounds must be 1 to 10, got 99"),
        ("tune", {**TUNE, "colour": "red"}, "colour"),
        ("tune", {**TUNE, "isl": 0}, "isl must be 1 or more, got 0"),
        ("tune", {**TUNE, "workload": {"batch_size": 2}}, "two names of one option"),
        ("tune", {**TUNE, "metric": "kfac:foo=2"}, "metric cannot be used: metric kfac: unknown"),
        ("tune", {**TUNE, "metric": "kfac:damping=x"}, "option damping must be a"),
        ("tune", {**TUNE, "targets": ["("]}, "targets must be a regular expression"),
        (
            "tune",
            {"budget": {"latency": "1x"}, "search": {"rounds": 99}},
            "spec.search.rounds must be 1 to 10, got 99",
        ),
        ("tune", {"budget": {"latency": "20 parsec"}}, "spec.budget.latency cannot be read"),
        ("tune", {**TUNE, "osl": 4, "phase": "prefill"}, "osl needs phase decode or request"),
        ("tune", {**TUNE, "allocator": "exact+optuna"}, "allocator exact+optuna needs trials"),
        ("tune", {"budget": {}}, "set at least one, such as spec.budget.latency 0.85x"),
        ("drift", {"anchors": 0}, "spec.anchors must be 1 to 1000, got 0"),
        ("drift", {"anchors": "x"}, "spec.anchors must be a whole number"),
        ("export", {"run": NOBODY}, "no such job"),
        ("export", {}, "run"),
        ("verify", {"run": "../.."}, "no such job"),
        ("drift", {"threads": 9999}, "spec.threads must be 1 to"),
        ("drift", {"device": "h200"}, "h200"),
        ("export", {"run": NOBODY, "batch_size": 1}, "spec.batch_size needs spec.form tensorrt"),
        ("profile", {}, "give spec.tokens and spec.shapes, or spec.model, or spec.plan quick"),
        (
            "profile",
            {**LAYER, "shapes": ["abc"]},
            "spec.shapes must be IN_FEATURESxOUT_FEATURES",
        ),
        ("profile", {**LAYER, "forms": ["x"]}, "spec.forms: 'x' is not a form"),
        ("profile", {**LAYER, "forms": ["rank=8:zz"]}, "has no implementation of it"),
        ("profile", {**LAYER, "threads": 9999}, "spec.threads must be 1 to"),
        ("profile", {**LAYER, "device": "h200"}, "h200"),
        ("dance", {}, "kind must be one of tune, profile"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_at_once(client, kind, spec, said):
    answer = submit(client, kind, spec)
    assert answer.status_code == 422, answer.text
    assert said in message(answer)
    assert client.get("/v1/jobs").json()["counts"]["queued"] == 0


def test_a_run_must_have_succeeded(client, database, settings):
    job_id = submit(client).json()["id"]
    answer = submit(client, "verify", {"run": job_id})
    assert "in state queued" in message(answer)
    client.post(f"/v1/jobs/{job_id}/cancel")
    ended = finished(client, database, settings)
    assert submit(client, "verify", {"run": ended}).status_code == 201
    assert submit(client, "export", {"run": ended, "dtype": "fp16"}).status_code == 201


def test_artefacts_whole_and_in_parts(client, database, settings):
    files = [("model/config.json", b"{}"), ("report.html", b"<p>hello"), (".cache/x", b"secret")]
    job_id = finished(client, database, settings, files)
    (settings.run_folder(job_id) / "link").symlink_to("/etc/passwd")
    found = client.get(f"/v1/jobs/{job_id}/artefacts").json()
    assert found == [{"name": "model/config.json", "bytes": 2}, {"name": "report.html", "bytes": 8}]
    address = f"/v1/jobs/{job_id}/artefacts/report.html"
    answer = client.get(address)
    assert answer.content == b"<p>hello"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    part = client.get(address, headers={"Range": "bytes=3-5"})
    assert (part.status_code, part.content) == (206, b"hel")
    assert part.headers["Content-Range"] == "bytes 3-5/8"
    assert client.get(address, headers={"Range": "bytes=99-"}).status_code == 416


@pytest.mark.parametrize(
    "name",
    [
        ".cache/x",
        "link",
        "..%2flog.txt",
        "%2e%2e/log.txt",
        "../log.txt",
        "%2fetc%2fpasswd",
        "model",
        "..%5clog.txt",
        "%00",
        "x" * 3000,
        "report.html%00.png",
        "",
    ],
)
def test_nothing_else_of_a_folder_can_be_fetched(client, database, settings, name):
    job_id = finished(client, database, settings, [(".cache/x", b"s"), ("report.html", b"r")])
    (settings.run_folder(job_id) / "link").symlink_to("/etc/passwd")
    (settings.job_folder(job_id) / "log.txt").write_text("log")
    answer = client.get(f"/v1/jobs/{job_id}/artefacts/{name}")
    assert answer.status_code in (404, 405), answer.text
    assert message(answer)


def test_the_log_goes_on_where_it_was_left(client, database, settings):
    job_id = finished(client, database, settings)
    assert client.get(f"/v1/jobs/{job_id}/logs").json()["text"] == ""
    (settings.job_folder(job_id)).mkdir(parents=True, exist_ok=True)
    (settings.job_folder(job_id) / "log.txt").write_bytes(b"one\n\xff two\n")
    part = client.get(f"/v1/jobs/{job_id}/logs", params={"offset": 4}).json()
    assert part == {"text": "\ufffd two\n", "next_offset": 10, "ended": True}


def events(client, job_id, **headers):
    """(event, id, data) until the stream ends."""
    found, fields = [], {}
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                found.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
                fields = {}
    return found


def test_events_go_on_after_the_last_one(client, database, settings):
    job_id = finished(client, database, settings)
    found = events(client, job_id)
    assert [(kind, number) for kind, number, _ in found] == [
        ("state", "1"),
        ("state", "2"),
        ("stage", "3"),
        ("state", "4"),
        ("end", None),
    ]
    assert found[-1][2] == {"state": "succeeded"}
    rest = events(client, job_id, **{"Last-Event-ID": "2"})
    assert rest == found[2:]


def test_predictions_of_many_layers(client):
    shape = {"tokens": 2048, "in_features": 4096, "out_features": 4096}
    body = {"device": "h200", "shapes": [shape, {**shape, "rank": 1024}, {**shape, "rank": 1025}]}
    answer = client.post("/v1/predict", json=body).json()
    assert answer["device"] == "h200-sxm"
    assert answer["sources"]
    dense, aligned, unaligned = answer["estimates"]
    assert dense["ratio"] == 1.0
    assert aligned["ratio"] < 1 < unaligned["ratio"]
    assert aligned["low_s"] <= aligned["latency_s"] <= aligned["high_s"]


def test_devices_and_databases(client):
    names = {device["name"]: device for device in client.get("/v1/devices").json()}
    assert names["h200-sxm"]["predicted_from"]
    found = client.get("/v1/devices/h200").json()
    assert found["spec"]["name"] == "h200-sxm"
    assert "source" in found["sheet"]
    assert client.get("/v1/devices/abacus").status_code == 422
    assert client.get("/v1/databases").json() == []


def test_uploads_are_streamed_checked_and_whole(client, settings, roots):
    weights = (roots / "code-llama-3m" / "config.json").read_bytes()
    answer = client.put("/v1/models/mine/config.json", content=weights)
    assert answer.status_code == 201
    assert (settings.uploads / "mine" / "config.json").read_bytes() == weights
    assert client.put("/v1/models/mine/config.json", content=b"{}").status_code == 409
    for name, content, status in [
        ("tokenizer.json", b"{", 422),
        ("model.safetensors", b"not weights", 422),
        ("model.safetensors", b"x" * 1_000_001, 413),
        ("model.bin", b"x", 422),
        ("modeling.py", b"x", 422),
        ("model.safetensors.zip", b"x", 422),
        (".ssh", b"x", 422),
        ("1_Pooling/config.json", b"{", 422),
        ("1_Pooling/modeling.py", b"x", 422),
        ("2_Dense/model.safetensors", b"not weights", 422),
        ("1_Pooling/2_Pooling/config.json", b"{}", 422),
        ("1_Pooling/%2e%2e/config.json", b"{}", 422),
        ("evil/config.json", b"{}", 422),
        ("vocab.txt", b"\xff\xfe", 422),
        ("tokenizer.json", b"[" * 100_000, 422),
    ]:
        answer = client.put(f"/v1/models/mine/{name}", content=content)
        assert answer.status_code == status, (name, answer.text)
        assert message(answer)
    assert [path.name for path in (settings.uploads / "mine").iterdir()] == ["config.json"]
    assert client.put("/v1/models/..%2f..%2fx/config.json", content=b"{}").status_code in (404, 422)
    assert client.put("/v1/models/UP/config.json", content=b"{}").status_code == 422
    assert client.get("/v1/models").json() == [
        {"name": "upload:mine", "files": {"config.json": len(weights)}}
    ]


def test_an_embedding_model_comes_with_what_pools_it(client, settings):
    """Modules of sentence-transformers, templates and vocabularies."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    files = {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": b'{"word_embedding_dimension": 64, "pooling_mode": "cls"}',
        "sentence_bert_config.json": b'{"max_seq_length": 32, "do_lower_case": false}',
        "config_sentence_transformers.json": b'{"prompts": {}}',
        "chat_template.jinja": "{{ 'hé' }}".encode(),
        "additional_chat_templates/tool.jinja": b"{{ 1 }}",
        "spiece.model": b"\xff\x00\xfe",
    }
    for name, content in files.items():
        answer = client.put(f"/v1/models/pooled/{name}", content=content)
        assert answer.status_code == 201, answer.text
        assert answer.json() == {"name": "upload:pooled", "file": name, "bytes": len(content)}
        assert (settings.uploads / "pooled" / name).read_bytes() == content
    again = client.put("/v1/models/pooled/1_Pooling/config.json", content=b"{}")
    assert again.status_code == 409
    assert client.get("/v1/models").json() == [
        {"name": "upload:pooled", "files": {name: len(files[name]) for name in sorted(files)}}
    ]
    found = read_sentence_model(settings.uploads / "pooled")
    assert found is not None
    assert found.pooling == ("cls",)
    assert found.max_tokens == 32
    assert client.delete("/v1/models/pooled").status_code == 204
    assert not (settings.uploads / "pooled").exists()


def test_all_uploads_together_have_a_limit(client):
    words = b"word\n" * 120_000
    for model, status in (("one", 201), ("two", 201), ("three", 413)):
        answer = client.put(f"/v1/models/{model}/vocab.txt", content=words)
        assert answer.status_code == status, answer.text
    assert "limit reached: the file is larger than" in message(answer)


def test_health_and_metrics(client):
    submit(client)
    assert client.get("/healthz").json()["status"] == "ok"
    text = client.get("/metrics").text
    assert 'autotune_jobs{state="queued"} 1.0' in text
    assert 'route="/v1/jobs"' in text


def test_what_a_client_makes_up_is_no_label_of_a_metric(client):
    """Labels are kept for ever, and a request without a key has some too."""
    client.request("MADE-UP-METHOD", "/v1/jobs")
    client.get("/made-up-path")
    client.get(f"/v1/jobs/{NOBODY[:-1]}7")
    text = client.get("/metrics").text
    assert 'method="other"' in text
    assert 'route="/v1/jobs/{job_id}"' in text
    for made_up in ("MADE-UP", "made-up", f"{NOBODY[:-1]}7"):
        assert made_up not in text


def test_a_database_that_does_not_answer_is_said(client, database, monkeypatch):
    from autotune.core.errors import DatabaseUnreachableError, StorageError

    def unreachable(*_, **__):
        raise DatabaseUnreachableError("the server does not answer")

    def full(*_, **__):
        raise StorageError("no space left")

    monkeypatch.setattr(database, "page", unreachable)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    monkeypatch.setattr(database, "submit", full)
    assert submit(client).status_code == 507


def test_an_error_of_ours_tells_nothing_of_the_inside(client, database, monkeypatch):
    monkeypatch.setattr(database, "get", lambda _: 1 / 0)
    answer = client.get(f"/v1/jobs/{NOBODY}")
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert "internal server error; see error" in message(answer)
