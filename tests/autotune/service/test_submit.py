"""`autotune submit`: the run that a job is for, by id or as `last`."""

import pytest
from click.testing import CliRunner

from autotune.cli.main import cli as root
from autotune.service.client import Client
from autotune.service.job_records import Ending, Lease
from autotune.service.job_schema import FAILED
from autotune.service.jobs import JobDatabase
from tests.autotune.service.conftest import TUNE
from tests.autotune.service.test_http import finished, submit


class InProcess(Client):
    """Reaches the application without a network, and leaves it open."""

    def __init__(self, http):
        super().__init__()
        self._http.close()
        self._http = http

    def __exit__(self, *_):
        pass


@pytest.fixture
def command(client, monkeypatch):
    """Run `autotune submit` against the application; what click makes of it."""
    make = "autotune.service.commands.submit.make_client"
    monkeypatch.setattr(make, lambda server, key: InProcess(client))
    return lambda *arguments: CliRunner().invoke(root, ["submit", *arguments])


def stored(client, done):
    """The job whose id the command printed."""
    assert done.exit_code == 0, (done.output, done.exception)
    return client.get(f"/v1/jobs/{done.stdout.strip()}").json()


def end(database: JobDatabase, **how):
    job = database.claim("r")
    database.finish(Lease(job_id=job.id, runner="r", attempt=1), Ending(**how))
    return job.id


@pytest.mark.parametrize("kind", ["verify", "export"])
def test_last_is_the_newest_job_that_succeeded_and_made_a_folder(
    kind, command, client, database, settings
):
    finished(client, database, settings)
    wanted = finished(client, database, settings)
    submit(client, "drift", {})
    end(database, exit_code=0, result={})
    failed = submit(client).json()["id"]
    end(database, exit_code=1, error="out of memory")
    assert client.get(f"/v1/jobs/{failed}").json()["state"] == FAILED
    submit(client, spec={**TUNE, "isl": 32})  # still queued
    job = stored(client, command(kind, "last"))
    assert (job["kind"], job["spec"]["run"]) == (kind, wanted)


def test_an_export_is_a_run_too(command, client, database, settings):
    run = finished(client, database, settings)
    exported = stored(client, command("export", run, "--dtype", "fp16"))
    assert (exported["spec"]["run"], exported["spec"]["dtype"]) == (run, "fp16")
    end(database, exit_code=0, result={})
    assert stored(client, command("verify", "last"))["spec"]["run"] == exported["id"]


@pytest.mark.parametrize("kind", ["verify", "export"])
def test_without_a_run_last_is_an_error(kind, command, client):
    submit(client)
    done = command(kind, "last")
    assert done.exit_code != 0
    assert "no tuning or export that succeeded" in f"{done.output}{done.exception}"
    assert client.get("/v1/jobs").json()["counts"]["queued"] == 1
