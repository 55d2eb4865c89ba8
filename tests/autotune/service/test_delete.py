"""`autotune delete`: asks, then deletes a job or an uploaded model."""

import pytest
from click.testing import CliRunner

from autotune.cli.main import cli as root
from tests.autotune.service.test_http import finished, submit
from tests.autotune.service.test_submit import InProcess


@pytest.fixture
def command(client, monkeypatch):
    make = "autotune.service.commands.delete.make_client"
    monkeypatch.setattr(make, lambda server, key: InProcess(client))
    return lambda *arguments, answer="": CliRunner().invoke(
        root, ["delete", *arguments], input=answer
    )


def test_a_job_is_deleted_after_a_question(command, client, database, settings):
    job_id = finished(client, database, settings, [("report.html", b"r")])
    for answer in ("n\n", ""):
        asked = command(job_id, answer=answer)
        assert asked.exit_code == 1
        assert "This cannot be undone." in asked.stderr
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200
    done = command("last", answer="y\n")
    assert (done.exit_code, done.stdout) == (0, f"deleted job {job_id} with its log and results\n")
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404


def test_an_upload_is_deleted_without_a_question(command, client):
    client.put("/v1/models/mine/config.json", content=b"{}")
    done = command("upload:mine", "--yes", "--json")
    assert (done.exit_code, done.stdout) == (0, '{"deleted": "upload:mine"}\n')
    assert client.get("/v1/models").json() == []
    again = command("upload:mine", "--yes")
    assert "no uploaded model 'mine'" in str(again.exception)


def test_a_job_that_has_not_ended_stays(command, client):
    job_id = submit(client).json()["id"]
    done = command(job_id, "--yes")
    assert "cancel it and wait for its end" in str(done.exception)
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200
