"""Files of the service: for its owner only, never through a link, and shown even if damaged."""

import json
import os
import re
import stat
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from autotune.results.result import result_text
from autotune.service.job_process import JobProcess
from autotune.service.jobs import JobDatabase
from autotune.service.keys import create_key
from tests.autotune.service.browser import serving
from tests.autotune.service.conftest import TUNE
from tests.autotune.service.test_http import finished, message
from tests.commands import run_command
from tests.records import stored_record

HTML = {"Accept": "text/html"}


@pytest.fixture
def old_umask():
    """What a user's shell has."""
    old = os.umask(0o022)
    yield
    os.umask(old)


def open_to_others(folder):
    """Every file and folder that another user could read or write, were the way there open."""
    return [
        path
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def test_a_job_database_elsewhere_is_closed_to_others(tmp_path, old_umask):
    """That of an older version, say, while another process has it open."""
    file = tmp_path / "elsewhere" / "jobs.sqlite"
    with JobDatabase(file) as database:
        create_key(database, "alice")
        of_it = {file.with_name(f"{file.name}{end}") for end in ("", "-wal", "-shm")}
        assert of_it <= set(open_to_others(file.parent))
        options = ("--data", tmp_path / "data", "--jobs-db", file)
        assert run_command("keys", "create", "bob", *options).returncode == 0
        assert not of_it & set(open_to_others(file.parent))


@pytest.mark.slow
def test_what_the_service_writes_is_for_its_owner_only(tmp_path, old_umask):
    data = tmp_path / "data"
    data.mkdir()
    assert run_command("keys", "create", "alice", "--data", data).returncode == 0
    assert open_to_others(data) == []
    with serving(data, "--slots", 0, "--db", data / "latency.sqlite") as server:
        key = run_command("keys", "create", "bob", "--data", data).stdout.strip()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=server.address, headers=headers) as client:
            client.put("/v1/models/mine/config.json", content=b"{}").raise_for_status()
            client.get("/v1/databases").raise_for_status()
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        umask = re.search(r"Umask:\s*(\d+)", status)
        assert umask[1] == "0077"
    assert (data / "models" / "mine" / "config.json").exists()
    assert open_to_others(data) == []


def test_what_a_job_writes_inherits_that(tmp_path, monkeypatch):
    old = os.umask(0o077)
    try:
        program = "open('made.txt', 'w').write('x'); print('{}')"
        monkeypatch.setattr("autotune.service.job_process.COMMAND", (sys.executable, "-c", program))
        folder = tmp_path / "job"
        folder.mkdir()
        with JobProcess([], folder, environment={}) as process:
            process.ending()
    finally:
        os.umask(old)
    assert {path.name for path in folder.iterdir()} >= {"made.txt", "log.txt", "stdout.txt"}
    assert open_to_others(folder) == []


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that is none of a job's."""
    folder = tmp_path / "elsewhere"
    (folder / "out").mkdir(parents=True)
    for path in (folder / "secret.txt", folder / "log.txt", folder / "out" / "secret.txt"):
        path.write_text("a secret of the host")
    (folder / "out" / "result.json").write_text(result_text(stored_record()))
    (folder / "result.json").write_text(result_text(stored_record()))
    return folder


@pytest.mark.parametrize("what", ["out", "job", "below", "file", "log"])
def test_links_lead_nowhere(client, database, settings, elsewhere, what):
    job_id = finished(client, database, settings, [("report.html", b"r")])
    folder, out = settings.job_folder(job_id), settings.run_folder(job_id)
    (folder / "log.txt").write_text("own log")
    link, target = {
        "out": (out, elsewhere),
        "job": (folder, elsewhere),
        "below": (out / "model", elsewhere),
        "file": (out / "result.json", elsewhere / "result.json"),
        "log": (folder / "log.txt", elsewhere / "log.txt"),
    }[what]
    if link.exists():
        link.rename(settings.data / "aside")
    link.symlink_to(target)
    listed = [each["name"] for each in client.get(f"/v1/jobs/{job_id}/artefacts").json()]
    assert listed == ([] if what in ("out", "job") else ["report.html"])
    for name in ("secret.txt", "model/secret.txt", "out/secret.txt", "result.json", *listed):
        answer = client.get(f"/v1/jobs/{job_id}/artefacts/{name}")
        assert (answer.status_code == 200) is (name in listed)
        assert "secret of the host" not in answer.text
    log = client.get(f"/v1/jobs/{job_id}/logs").json()["text"]
    assert log == ("" if what in ("job", "log") else "own log")
    assert client.get(f"/v1/jobs/{job_id}/figures").status_code in (404, 409)
    page = client.get(f"/jobs/{job_id}", headers=HTML)
    assert page.status_code == 200
    assert "The measured model meets the budget." not in page.text


@pytest.mark.parametrize("offset", [2**53, 2**50 + 1, -1, 2**64, "x", 1.5])
def test_an_offset_that_no_file_has_is_refused(client, database, settings, offset):
    job_id = finished(client, database, settings)
    (settings.job_folder(job_id)).mkdir(parents=True, exist_ok=True)
    (settings.job_folder(job_id) / "log.txt").write_text("one line\n")
    assert client.get(f"/v1/jobs/{job_id}/logs?offset={offset}").status_code == 422
    beyond = client.get(f"/v1/jobs/{job_id}/logs?offset={2**50}").json()
    assert (beyond["text"], beyond["next_offset"]) == ("", 2**50)


def damaged():
    """A result of today in many kinds of damage."""
    whole = json.loads(result_text(stored_record()))
    for name in ("quality", "sites", "budget", "parameters", "measured", "measured_ratio"):
        if name in whole:
            yield f"without {name}", {k: v for k, v in whole.items() if k != name}
            for value in (None, [], {}, "x", -1, [None]):
                yield f"{name} {value!r}", {**whole, name: value}
    for value in (None, [], [whole], "x", 1, {}, {"schema_version": 4}):
        yield f"only {value!r:.20}", value


DAMAGED = dict(damaged())


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_result_is_reported_and_no_error_of_the_server(client, database, settings, name):
    text = json.dumps(DAMAGED[name]).encode()
    job_id = finished(client, database, settings, [("result.json", text)])
    for path in (f"/jobs/{job_id}", "/", f"/compare?job={job_id}"):
        assert client.get(path, headers=HTML).status_code == 200
    for path in (f"/v1/jobs/{job_id}/figures", f"/v1/compare?job={job_id}"):
        answer = client.get(path)
        assert answer.status_code in (200, 409), answer.text
        if answer.status_code == 409:
            assert "cannot be read" in message(answer)
            assert "cannot be read" in client.get(f"/jobs/{job_id}", headers=HTML).text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("result", "[]"),
        ("result", "null"),
        ("result", "{"),
        ("spec", "[]"),
        ("result", '{"quality": null}'),
        ("result", '"x"'),
        ("result", '{"budget": [], "measured_ratio": "x", "quality": 5}'),
        ("spec", "{}"),
        ("spec", '{"budget": null}'),
        ("spec", '{"budget": {}, "model": 5}'),
    ],
)
def test_a_damaged_row_hides_no_other_job(client, database, settings, column, value):
    job_id, other = (finished(client, database, settings) for _ in range(2))
    with database.transaction() as connection:
        text = f"UPDATE job SET {column} = '{value}' WHERE id = '{job_id}'"
        connection.exec_driver_sql(text)
    page = client.get("/", headers=HTML)
    assert page.status_code == 200, page.text
    assert other in page.text
    assert client.get(f"/jobs/{job_id}", headers=HTML).status_code == 200
    listed = client.get("/v1/jobs").json()
    assert other in [job["id"] for job in listed["jobs"]]


def test_a_folder_of_another_kind_is_no_result(client, database, settings):
    job_id = client.post("/v1/jobs", json={"kind": "tune", "spec": TUNE}).json()["id"]
    settings.job_folder(job_id).parent.mkdir(parents=True, exist_ok=True)
    settings.job_folder(job_id).write_text("a file in place of the folder")
    assert client.get(f"/v1/jobs/{job_id}/logs").json()["text"] == ""
    assert client.get(f"/v1/jobs/{job_id}/artefacts").json() == []
    assert client.get(f"/jobs/{job_id}", headers=HTML).status_code == 200
