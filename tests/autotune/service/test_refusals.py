"""What the HTTP interface refuses: each with a sentence, and never a 500."""

import asyncio
import dataclasses
import json

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from autotune.service.app import create_app
from autotune.service.keys import create_key, revoke_key
from autotune.service.sessions import COOKIE, open_session
from autotune.service.settings import Quotas
from autotune.service.streams import Watcher
from tests.autotune.service.conftest import TUNE
from tests.autotune.service.test_http import NOBODY, message, submit


def routes(client):
    """(method, path) of everything in the OpenAPI document but /healthz."""
    document = client.get("/openapi.json").json()
    fill = {"job_id": NOBODY, "name": "x", "file": "config.json"}
    for path, methods in document["paths"].items():
        for method in methods:
            if path != "/healthz":
                yield method, path.replace("{name:path}", "{name}").format(**fill)


def test_every_route_needs_a_key_once_there_is_one(client, database):
    key, token = create_key(database, "alice")
    revoked, old = create_key(database, "bob")
    revoke_key(database, revoked.id)
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    found = list(routes(client))
    assert len(found) >= 14
    for method, path in found:
        for bad in (None, "x", wrong, old, f"atk_{'0' * 12}_{'A' * 43}", "atk_é"):
            headers = {} if bad is None else {"Authorization": f"Bearer {bad}".encode()}
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path, bad, answer.text)
            assert "API key" in message(answer)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        answer = client.request(method, path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code != 401, (method, path)
        client.cookies.set(COOKIE, open_session(database, key.id))
        assert client.request(method, path).status_code != 401
        client.cookies.clear()
    assert client.get("/healthz").status_code == 200
    with database.transaction() as connection:
        kept = str(connection.exec_driver_sql("SELECT * FROM api_key").all())
    assert token not in kept
    assert token.split("_", 2)[2] not in kept
    revoke_key(database, key.id)
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 401


BODIES = {
    "NaN": b'{"kind": "tune", "spec": {"measure_seconds": NaN}}',
    "infinite": b'{"kind": "tune", "spec": {"measure_seconds": 1e999}}',
    "a large number": b'{"kind": "tune", "spec": {"isl": ' + b"9" * 5000 + b"}}",
    "deep": b'{"kind": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "half": b'{"kind": "tune", "spec": {',
    "no object": b"[]",
    "no text": b"\xff\xfe\x00",
    "half a pair": b'{"kind": "tune", "spec": {"model": "\\ud800"}}',
    "zero byte": b'{"kind": "tune", "spec": {"model": "a\\u0000b"}}',
    "twice": b'{"kind": "tune", "kind": "dance", "spec": {}}',
    "empty": b"",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/predict"])
def test_hostile_bodies_are_refused_with_a_sentence(client, path, name):
    answer = client.post(path, content=BODIES[name], headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert message(answer)


def test_no_text_of_a_request_is_an_error_of_the_database(settings, jobs):
    """NUL, which PostgreSQL refuses, in everything by which something is looked up or stored."""
    get = ["/jobs/{}", "/devices/{}", "/compare?job={}", "/v1/compare?job={}", "/v1/devices/{}"]
    get += ["/v1/jobs/{}", "/v1/jobs/{}/logs", "/v1/jobs/{}/events", "/v1/jobs?before={}"]
    found = [("GET", path, None) for path in (*get, "/v1/jobs?state={}", "/v1/jobs?kind={}")]
    found += [("DELETE", path, None) for path in ("/v1/jobs/{}", "/v1/models/{}")]
    found += [("POST", "/v1/jobs/{}/cancel", None), ("POST", "/login", {"key": "a\0"})]
    named = [("export", "run"), ("verify", "run"), ("drift", "device"), ("profile", "backend")]
    named += [("tune", name) for name in ("model", "calibration", "device", "metric", "dtype")]
    for kind, name in named:
        spec = {**(TUNE if kind == "tune" else {}), name: "a\0"}
        found.append(("POST", "/v1/jobs", {"kind": kind, "spec": spec}))
    found.append(("POST", "/v1/jobs", {"kind": "a\0", "spec": {}}))
    with TestClient(create_app(settings, jobs), raise_server_exceptions=False) as client:
        for method, path, body in found:
            answer = client.request(
                method, path.format("a%00"), json=body, headers={"Accept": "text/html"}
            )
            assert answer.status_code in (401, 404, 422), (method, path, body, answer.text)
        key = {"Idempotency-Key": b"a\0"}
        assert submit(client, **key).status_code == 422
        assert jobs.page() == []


def test_a_body_may_not_be_endless(client):
    def chunks():
        for _ in range(1000):
            yield b" " * 1000

    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/jobs", content=chunks(), headers=headers).status_code == 413
    assert client.post("/v1/jobs", content=b" " * 200_000, headers=headers).status_code == 413


def test_other_sites_and_other_names_are_refused(client):
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        assert submit(client, **headers).status_code == 403
    assert submit(client, Origin="http://testserver").status_code == 201
    for host in ("evil.example", "[::2]", "127.0.0.1.evil.example"):
        assert client.get("/v1/jobs", headers={"Host": host}).status_code == 400
    for host in ("[::1]:8420", "[::1]", "localhost:1", "127.0.0.1"):
        assert client.get("/v1/jobs", headers={"Host": host}).status_code == 200
    plain = client.post("/v1/jobs", content=json.dumps({"kind": "tune", "spec": TUNE}))
    assert plain.status_code == 422  # a form of another site can send no JSON


def test_what_a_browser_may_do_is_on_every_answer(client):
    for path in ("/healthz", "/nowhere", "/v1/jobs/x"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_many_shapes_are_too_many(client):
    shape = {"tokens": 1, "in_features": 64, "out_features": 64}
    answer = client.post("/v1/predict", json={"device": "h200", "shapes": [shape] * 1001})
    assert answer.status_code == 422
    assert client.post("/v1/predict", json={"shapes": [{**shape, "rank": 0}]}).status_code == 422


def test_streams_are_counted(client, database, settings, monkeypatch):
    job_id = submit(client).json()["id"]
    monkeypatch.setattr(client.app.state.parts.watcher.shares, "total", 0)
    answer = client.get(f"/v1/jobs/{job_id}/events")
    assert answer.status_code == 429
    assert client.get(f"/v1/jobs/{NOBODY}/events").status_code == 404


def test_a_body_that_does_not_come_is_not_waited_for(settings, database):
    quick = dataclasses.replace(settings, quotas=Quotas(pause_s=0.2))
    app = create_app(quick, database)

    async def crawl():
        yield b'{"kind": '
        await asyncio.sleep(3600)
        yield b"}"

    async def send(method, path):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            headers = {"Content-Type": "application/json"}
            return await client.request(method, path, content=crawl(), headers=headers)

    for method, path in (("POST", "/v1/jobs"), ("PUT", "/v1/models/mine/config.json")):
        answer = asyncio.run(asyncio.wait_for(send(method, path), 120))
        assert answer.status_code == 408, answer.text
        assert "no data received" in message(answer)
    assert not (settings.uploads / "mine").exists() or not list(
        (settings.uploads / "mine").iterdir()
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "autotune.example.org"])
def test_without_a_key_the_service_is_this_machines_own(cli, tmp_path, host):
    done = cli("serve", "--host", host, "--data", tmp_path, "--port", 0)
    assert done.returncode == 2
    assert "there is no API key yet" in done.stderr


def test_keys_are_made_listed_and_revoked_by_command(cli, tmp_path, settings):
    def keys(*arguments):
        return cli("keys", *arguments, "--data", tmp_path)

    done = keys("create", "alice")
    token = done.stdout.strip()
    assert token.startswith("atk_")
    listed = keys("list").stdout
    assert "alice" in listed
    assert "active" in listed
    assert token.split("_", 2)[2] not in listed
    assert keys("revoke", token.split("_")[1]).returncode == 0
    assert "revoked" in keys("list").stdout
    assert keys("revoke", "0" * 12).returncode == 1


def test_a_stream_waits_for_what_is_later_than_it_has_read(database):
    """The last look at the revisions may be older than what a stream has read since."""

    async def newer(known, seen, limit_s):
        watcher = Watcher(database, most=1, each=1)
        watcher._revisions["job"] = known
        await asyncio.wait_for(watcher._newer("job", seen), limit_s)

    asyncio.run(newer(known=6, seen=5, limit_s=60))
    for known in (5, 4):
        with pytest.raises(TimeoutError):
            asyncio.run(newer(known=known, seen=5, limit_s=0.2))
