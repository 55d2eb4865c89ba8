"""Uploads: checked apart, counted before they are written, taken once, deleted when asked."""

import asyncio
import dataclasses
import fcntl
import json
import os
import struct
import threading
import time

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from autotune.core.errors import UsageError
from autotune.service import upload_check, uploads
from autotune.service.app import create_app
from autotune.service.errors import ConflictError, TooLargeError
from autotune.service.job_records import Ending, Lease
from autotune.service.keys import create_key
from autotune.service.settings import Quotas
from autotune.service.upload_check import check_upload
from autotune.service.upload_parts import Part, remove_dead_parts
from tests.autotune.service.conftest import TUNE
from tests.autotune.service.test_http import message
from tests.security.conftest import until
from tests.waiting import wait_for


def header(size, text=b"{}"):
    return struct.pack("<Q", size) + text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", b"[" + b"[]," * 9_000_000 + b"[]]", "too many values"),
        ("tokenizer.json", b"[" * 200_000, "nested too deeply"),
        ("config.json", b"9" * 5_000, "digits"),
        ("config.json", b"\xff", "utf-8"),
        ("model.safetensors", header(10_000_001, b" " * 10_000_001), "at most 10000000 bytes"),
        ("model.safetensors", header(2**63), "at most 10000000 bytes"),
        ("model.safetensors", header(900), "header"),
        ("model.safetensors", b"", "header"),
    ],
)
def test_hostile_files_are_refused_by_a_process_with_little_memory(tmp_path, name, content, said):
    path = tmp_path / "part"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        check_upload(path, name)


def test_a_large_tokenizer_is_no_hostile_one(tmp_path):
    words = {f"word {number} é": number for number in range(130_000)}
    merges = [[f"a{number}", f"b{number}"] for number in range(260_000)]
    path = tmp_path / "part"
    path.write_text(json.dumps({"model": {"vocab": words, "merges": merges}}, indent=1))
    check_upload(path, "tokenizer.json")


def test_a_check_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(upload_check, "_LIMIT_S", 0.5)
    monkeypatch.setattr(upload_check, "_COMMAND", ("sleep", "600"))
    with pytest.raises(UsageError, match="could not be checked: no answer"):
        check_upload(tmp_path, "config.json")


def test_checks_are_made_one_at_a_time_and_apart(client, monkeypatch):
    """Others are answered meanwhile."""
    running, most, free = 0, 0, threading.Event()

    def check(path, name):
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert free.wait(60)
        running -= 1

    monkeypatch.setattr(uploads, "check_upload", check)

    async def upload_all():
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            puts = [http.put(f"/v1/models/m{i}/config.json", content=b"{}") for i in range(4)]
            tasks = [asyncio.create_task(put) for put in puts]
            await until(lambda: running)
            await asyncio.sleep(0.3)  # for those that would not wait for the first
            health = await http.get("/healthz")
            done = [task.done() for task in tasks]
            free.set()
            return health, done, await asyncio.gather(*tasks)

    health, done, answers = asyncio.run(upload_all())
    assert health.status_code == 200
    assert not any(done)
    assert [answer.status_code for answer in answers] == [201] * 4
    assert most == 1


async def put_all(app, wanted, body, *, length=True):
    """Upload bodies at the same time, none of which ends before all have begun."""
    begun = 0
    all_there = asyncio.Event()

    async def parts():
        nonlocal begun
        yield body[:10]
        begun += 1
        if begun == len(wanted):
            all_there.set()
        await asyncio.wait_for(all_there.wait(), 20)
        yield body[10:]

    transport = httpx.ASGITransport(app)
    headers = {"Content-Length": str(len(body))} if length else {}

    async def put(http, path):
        try:
            return (await http.put(path, content=parts(), headers=headers)).status_code
        except TimeoutError:
            return None

    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:

        async def counted(path):
            nonlocal begun
            status = await put(http, path)
            if status not in (201, None):  # refused before its body was read
                begun += 1
                if begun >= len(wanted):
                    all_there.set()
            return status

        return await asyncio.gather(*(counted(path) for path in wanted))


def user_headers(database, *names):
    """Headers of new users, by their names."""
    return {name: {"Authorization": f"Bearer {create_key(database, name)[1]}"} for name in names}


@pytest.mark.parametrize("length", [True, False])
def test_the_quota_holds_for_uploads_at_the_same_time(settings, database, length):
    quotas = Quotas(upload_bytes=900_000, uploaded_bytes=2_000_000)
    settings = dataclasses.replace(settings, quotas=quotas)
    app = create_app(settings, database)
    body = b'["' + b"a" * 800_000 + b'"]'
    paths = [f"/v1/models/m{number}/tokenizer.json" for number in range(8)]
    statuses = asyncio.run(put_all(app, paths, body, length=length))
    assert sorted(statuses) == [201] * 2 + [413] * 6
    stored = [path for path in settings.uploads.rglob("*.json") if path.is_file()]
    assert sum(path.stat().st_size for path in stored) <= quotas.uploaded_bytes
    assert not list(settings.uploads.rglob("*.part"))


def test_one_user_cannot_take_the_space_of_all(settings, database):
    quotas = Quotas(upload_bytes=900_000, uploaded_bytes=2_500_000, uploaded_bytes_each=1_000_000)
    app = create_app(dataclasses.replace(settings, quotas=quotas), database)
    body = b'["' + b"a" * 800_000 + b'"]'
    with TestClient(app) as client:
        answers = [
            client.put(f"/v1/models/{name}{n}/tokenizer.json", content=body, headers=headers)
            for name, headers in user_headers(database, "alice", "bob").items()
            for n in (0, 1)
        ]
    assert [answer.status_code for answer in answers] == [201, 413, 201, 413]
    assert "your uploads together have left" in answers[1].text


def test_a_file_is_uploaded_once(settings, database):
    app = create_app(settings, database)
    body = b'{"number": "a long enough body"}'
    statuses = asyncio.run(put_all(app, ["/v1/models/m/config.json"] * 5, body))
    assert sorted(statuses) == [201] + [409] * 4
    assert (settings.uploads / "m" / "config.json").read_bytes() == body


def test_a_part_does_not_become_a_file_of_a_model_that_took_its_name(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    part = Part(folder, "config.json")
    folder.rename(tmp_path / ".removed")
    folder.mkdir()
    with Part(folder, "config.json") as other:
        other.write(b"[]")
        with pytest.raises(ConflictError, match="was deleted during the upload"):
            part.publish()
        part.close()
        other.publish()
    assert (folder / "config.json").read_bytes() == b"[]"


def test_parts_of_a_killed_server_are_removed_at_start(settings, database):
    dead, living = (settings.uploads / name / ".config.json.part" for name in ("dead", "living"))
    for path in (dead, living):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 1_400_000)
    with living.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of another server on the same folder
        with TestClient(create_app(settings, database)) as client:
            assert not dead.exists()
            assert living.exists()
            assert client.get("/v1/models").json() == []
            answer = client.put("/v1/models/m/vocab.txt", content=b"x" * 200_000)
            assert answer.status_code == 413  # what the other server will write is counted
    assert remove_dead_parts(settings.uploads) == [living]


def test_a_part_reserves_before_it_is_written(tmp_path):
    with Part(tmp_path, "model.safetensors") as part:
        part.reserve(5_000, uploads=tmp_path, most=6_000)
        assert part.path.stat().st_size == 5_000
        with pytest.raises(TooLargeError):
            part.reserve(6_001, uploads=tmp_path, most=6_000)
        with pytest.raises(ConflictError, match="being uploaded"):
            Part(tmp_path, "model.safetensors")
        part.write(b"abc")
        part.complete()
        part.publish()
    assert (tmp_path / "model.safetensors").read_bytes() == b"abc"
    with pytest.raises(ConflictError, match="already has"):
        Part(tmp_path, "model.safetensors")
    assert [path.name for path in tmp_path.glob("*")] == [".lock", "model.safetensors"]


def test_a_link_instead_of_a_part_is_not_written_to(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".config.json.part").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        Part(tmp_path, "config.json")
    assert victim.read_text() == "mine"


def test_a_model_that_a_job_needs_is_not_deleted(client, database):
    client.put("/v1/models/mine/config.json", content=b"{}")
    job = database.submit("tune", {"model": "upload:mine"}, device="cpu")[0]
    answer = client.delete("/v1/models/mine")
    assert (answer.status_code, job.id in message(answer)) == (409, True)
    other = database.submit("tune", {"model": "upload:mine2"}, device="cpu")[0]
    database.cancel(job.id)
    assert client.delete("/v1/models/mine").status_code == 204
    assert client.delete("/v1/models/mine").status_code == 404
    assert client.delete("/v1/models/..%2f..").status_code in (404, 405, 422)
    assert client.get("/v1/models").json() == []
    assert database.get(other.id).state == "queued"


def ended(client, database, settings):
    """A tuning that succeeded, with one file."""
    job_id = client.post("/v1/jobs", json={"kind": "tune", "spec": TUNE}).json()["id"]
    database.claim("r")
    lease = Lease(job_id=job_id, runner="r", attempt=1)
    database.finish(lease, Ending(exit_code=0, result={"within_budget": True}))
    (settings.run_folder(job_id) / "model").mkdir(parents=True)
    (settings.run_folder(job_id) / "model" / "config.json").write_text("{}")
    return job_id


def test_a_job_is_deleted_with_everything_once_it_has_ended(client, database, settings):
    job_id = ended(client, database, settings)
    body = {"kind": "verify", "spec": {"run": job_id}}
    user = client.post("/v1/jobs", json=body).json()["id"]
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, user in message(answer)) == (409, True)
    assert "cancel it" in message(client.delete(f"/v1/jobs/{user}"))
    client.post(f"/v1/jobs/{user}/cancel")
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert list((settings.data / "jobs").iterdir()) == []
    assert database.events(job_id) == []


def test_a_folder_that_is_a_link_is_deleted_but_not_what_it_leads_to(client, database, settings):
    job_id = ended(client, database, settings)
    elsewhere = settings.data / "elsewhere"
    settings.job_folder(job_id).rename(elsewhere)
    settings.job_folder(job_id).symlink_to(elsewhere)
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert (elsewhere / "out" / "model" / "config.json").exists()
    assert list((settings.data / "jobs").iterdir()) == []


def test_jobs_and_uploads_expire_if_asked(settings, database, client):
    quotas = dataclasses.replace(settings.quotas, keep_jobs_days=2, keep_uploads_days=2)
    old, young = (ended(client, database, settings) for _ in range(2))
    waiting = client.post("/v1/jobs", json={"kind": "tune", "spec": TUNE}).json()["id"]
    for name in ("old", "young"):
        client.put(f"/v1/models/{name}/config.json", content=b"{}")
    long_ago = time.time() - 3 * 86_400
    for path in (settings.uploads / "old", settings.uploads / "old" / "config.json"):
        os.utime(path, (long_ago, long_ago))
    with database.transaction() as connection:
        text = f"UPDATE job SET finished_at = {long_ago} WHERE id = '{old}'"
        connection.exec_driver_sql(text)
    half = settings.data / "jobs" / ".removed-half"  # a server was killed while it deleted this
    (half / "out").mkdir(parents=True)
    with TestClient(create_app(dataclasses.replace(settings, quotas=quotas), database)) as again:
        wait_for(lambda: len(again.get("/v1/models").json()) == 1, 60)
        assert [model["name"] for model in again.get("/v1/models").json()] == ["upload:young"]
        jobs = {job["id"] for job in again.get("/v1/jobs").json()["jobs"]}
        assert jobs == {young, waiting}
    assert not settings.job_folder(old).exists()
    assert not half.exists()
