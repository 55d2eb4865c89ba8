"""Bodies: the key before anything is read, limits of time and size, answers that stay short."""

import asyncio
import dataclasses
import json

import httpx2 as httpx
import pytest

from autotune.service.app import create_app
from autotune.service.errors import QuotaError
from autotune.service.keys import create_key
from autotune.service.sessions import COOKIE
from autotune.service.settings import Quotas
from autotune.service.shares import Shares
from tests.autotune.service.test_http import message
from tests.security.conftest import until

JSON = {"Content-Type": "application/json"}


async def call(app, method, path, *, body, address="192.0.2.1", headers=()):
    """Status and JSON of an answer, and how many parts of the body were read for it."""
    read = 0
    parts = aiter(body)
    sent = []

    async def receive():
        nonlocal read
        read += 1
        try:
            return {"type": "http.request", "body": await anext(parts), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}

    async def send(answer):
        sent.append(answer)

    named = {"host": "127.0.0.1", "content-type": "application/json", **dict(headers)}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(key.lower().encode(), value.encode()) for key, value in named.items()],
        "client": (address, 1),
        "server": ("127.0.0.1", 1),
        "scheme": "http",
        "http_version": "1.1",
    }
    await app(scope, receive, send)
    text = b"".join(each.get("body", b"") for each in sent)
    return sent[0]["status"], json.loads(text), read


async def endless(part=b" " * 1000, pause_s=0.0):
    while True:
        yield part
        await asyncio.sleep(pause_s)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/jobs"), ("POST", "/v1/predict"), ("PUT", "/v1/models/a/config.json")],
)
def test_without_a_key_no_body_is_read(client, database, method, path):
    create_key(database, "alice")
    status, answer, read = asyncio.run(call(client.app, method, path, body=endless()))
    assert (status, read) == (401, 0)
    assert "API key" in answer["error"]["message"]


def test_a_body_in_crumbs_is_not_waited_for(settings, database):
    """Each crumb comes in time; all of them together do not."""
    quick = dataclasses.replace(settings, quotas=Quotas(pause_s=0.3))
    app = create_app(quick, database)
    body = endless(b" ", pause_s=0.05)
    work = call(app, "POST", "/v1/jobs", body=body)
    status, answer, _ = asyncio.run(asyncio.wait_for(work, 60))
    assert status == 408
    assert "slower than" in answer["error"]["message"]


def test_a_refusal_names_twenty_fields(client):
    spec = {f"{i:x}": 1 for i in range(5_000)}
    answer = client.post("/v1/jobs", json={"kind": "tune", "spec": spec})
    assert answer.status_code == 422
    assert len(answer.json()["error"]["fields"]) == 20
    assert len(answer.content) < 50_000


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/predict", "/v1/curve", "/login"])
def test_a_body_of_many_fields_is_refused_unread(settings, database, path):
    """Each of 90,000 unknown fields costs time; so many are no request of anybody."""
    large = dataclasses.replace(settings, quotas=Quotas())
    fields = ",".join(f'"{i:x}":1' for i in range(90_000))
    bodies = [f"{{{fields}}}", f'{{"kind":"tune","spec":{{{fields}}}}}']

    async def both():
        transport = httpx.ASGITransport(create_app(large, database))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [await client.post(path, content=body, headers=JSON) for body in bodies]

    for answer in asyncio.run(both()):
        assert answer.status_code == 413
        assert "more than 10000 fields" in message(answer)


@pytest.mark.slow
def test_bodies_that_are_kept_have_a_share_each(settings, database):
    """Of one user 300 half bodies of 1 MB are never in memory at once; another one is served."""
    app = create_app(dataclasses.replace(settings, quotas=Quotas(pause_s=10.0)), database)

    async def half(part=b" " * 900_000):
        yield part
        await asyncio.sleep(60)

    async def attack():
        mob = [
            asyncio.create_task(call(app, "POST", "/v1/jobs", body=half(), address="192.0.2.9"))
            for _ in range(40)
        ]
        await until(lambda: sum(task.done() for task in mob) >= 20, 9)
        refused = [task.result()[0] for task in mob if task.done()]
        other = await call(app, "POST", "/v1/jobs", body=half(b"{}"), address="192.0.2.1")
        await asyncio.gather(*mob)
        again = await call(app, "POST", "/v1/jobs", body=half(b""), address="192.0.2.9")
        return refused, other[0], again[0]

    refused, other, again = asyncio.run(attack())
    assert refused.count(429) == len(refused) >= 20
    assert (other, again) == (408, 408)  # both waited for the rest: none was refused


def test_requests_of_one_address_have_a_limit(settings, database):
    limits = dataclasses.replace(settings.connections, each=3)
    app = create_app(dataclasses.replace(settings, connections=limits), database)

    async def flood(address):
        """How those of eight requests at once were answered that did not come to their body."""
        reads = []

        async def body():
            reads.append(address)
            async for part in endless(b" ", pause_s=0.5):
                yield part

        tasks = [
            asyncio.create_task(call(app, "POST", "/v1/jobs", body=body(), address=address))
            for _ in range(8)
        ]
        await until(lambda: len(reads) + sum(task.done() for task in tasks) == 8)
        refused = [task.result()[0] for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return refused

    async def all_of_them():
        stranger = await flood("192.0.2.9")
        proxy = await flood("127.0.0.1")  # it stands for many clients
        calm = await call(app, "POST", "/v1/jobs", body=endless(b"x" * 1000), address="192.0.2.9")
        return stranger, proxy, calm[0]

    stranger, proxy, calm = asyncio.run(all_of_them())
    assert stranger.count(429) == 5
    assert 429 not in proxy
    assert calm == 413


def test_shares_are_counted_and_given_back():
    shares = Shares(what="things", total=3, each=2)
    with shares.hold("a"), shares.hold("a"):
        with pytest.raises(QuotaError, match="one user may have 2 things"), shares.hold("a"):
            pass
        with shares.hold("b"), pytest.raises(QuotaError, match="all are in use"), shares.hold("c"):
            pass
    assert shares.taken == 0
    assert not shares.held


@pytest.mark.parametrize("value", ["{" * 300, "x" * 300, "../" * 100, "a/" * 140, "x" * 256])
@pytest.mark.parametrize("field", ["model", "calibration", "evaluation"])
def test_a_name_that_no_file_can_have_is_not_on_the_list(client, field, value):
    spec = {"latency_budget": "1x", field: value}
    answer = client.post("/v1/jobs", json={"kind": "tune", "spec": spec})
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("path", ["/v1/devices/{}", "/devices/{}", "/jobs/{}", "/v1/jobs/{}"])
@pytest.mark.parametrize("name", ["x" * 300, "x" * 90, "%00", "é" * 60, "..%2f..", "x" * 5000])
def test_no_name_in_an_address_is_an_error_of_the_server(client, path, name):
    for accept in ("text/html", "*/*"):
        answer = client.get(path.format(name), headers={"Accept": accept})
        assert answer.status_code in (404, 422), answer.text


@pytest.mark.parametrize("query", ["job=x", "job=%00", f"job={'x' * 3000}", "job=" + "0" * 20])
def test_a_page_of_jobs_that_are_none_is_not_found(client, query):
    for path in ("/compare", "/v1/compare"):
        answer = client.get(f"{path}?{query}", headers={"Accept": "text/html"})
        assert answer.status_code in (404, 422), answer.text


def test_a_head_request_is_answered_without_a_body(client, database):
    for path in ("/", "/healthz", "/login", "/devices", "/v1/jobs", "/static/style.css"):
        full, head = client.get(path), client.head(path)
        assert (head.status_code, full.status_code) == (200, 200), path
        assert head.headers["Content-Type"] == full.headers["Content-Type"]
    assert client.head("/v1/jobs/" + "0" * 20).status_code == 404
    create_key(database, "alice")
    assert client.head("/v1/jobs").status_code == 401


def test_writers_that_wait_do_not_hold_up_readers(client, database, monkeypatch):
    """As where somebody has locked the job database."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    freed = Event()

    def locked(*_, **__):
        assert freed.wait(60)
        return database.get("0" * 20)

    monkeypatch.setattr(database, "submit", locked)
    body = {"kind": "tune", "spec": {"latency_budget": "1x"}}
    with ThreadPoolExecutor(60) as pool:
        writers = [pool.submit(client.post, "/v1/jobs", json=body) for _ in range(60)]
        try:
            assert client.get("/healthz").status_code == 200
            assert client.get("/v1/jobs").status_code == 200
            # Without a key or a session, one gets no place among the writers.
            assert client.post("/login", json={"key": "x"}).status_code == 401
            headers = {"Cookie": f"{COOKIE}=x"}
            answer = client.post("/logout", headers=headers, follow_redirects=False)
            assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
            assert not any(writer.done() for writer in writers)
        finally:
            freed.set()
        assert {writer.result().status_code for writer in writers} == {404}
