"""Finished tunings as the service shows them: of today, of commit 2a6778f, removed, unreadable."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing

import pytest
from starlette.testclient import TestClient

from autotune.results.result import result_text
from autotune.service import job_process
from autotune.service.app import create_app
from autotune.service.job_process import JobProcess
from autotune.service.job_records import Ending
from autotune.service.jobs import JobDatabase
from autotune.service.summary import outcome, summarise
from tests.autotune.service.test_http import finished, message, submit
from tests.records import DATA, MEASURED, PREDICTED, SUMMARY_KEYS, read_v3, stored_record

HTML = {"Accept": "text/html"}


def with_result(client, database, settings, text):
    return finished(client, database, settings, [("result.json", text.encode())])


@pytest.fixture(params=["today", "2a6778f"])
def stored(request, client, database, settings):
    """A tuning that succeeded, whose folder was written today or by commit 2a6778f."""
    if request.param == "today":
        text = result_text(stored_record())
    else:
        text = (DATA / MEASURED).read_text()
    return with_result(client, database, settings, text)


def test_a_finished_tuning_has_figures_and_a_page(client, stored):
    figures = client.get(f"/v1/jobs/{stored}/figures").json()
    assert set(figures) == {"pareto", "heat_map", "waterfall", "agreement", "rounds", "staircases"}
    assert len(client.get("/v1/compare", params={"job": stored}).json()["data"]) == 2
    page = client.get(f"/jobs/{stored}", headers=HTML).text
    assert "The measured model meets the budget." in page
    compared = client.get("/compare", params={"job": stored}, headers=HTML).text
    assert "<td>met</td>" in compared


def test_a_removed_result_is_reported_as_removed(client, database, settings, stored):
    shutil.rmtree(settings.run_folder(stored))
    answer = client.get(f"/v1/jobs/{stored}/figures")
    assert (answer.status_code, "has been removed" in message(answer)) == (404, True)
    assert "cannot be read" not in client.get(f"/jobs/{stored}", headers=HTML).text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema_version": 99}', "schema version 99, newer than the 5"),
        (result_text(stored_record())[:-90], "is damaged: invalid JSON"),
        ("{}", "it has no schema_version"),
    ],
)
def test_an_unreadable_result_is_not_reported_as_removed(client, database, settings, text, says):
    job_id = with_result(client, database, settings, text)
    good = with_result(client, database, settings, result_text(stored_record()))
    for path, jobs in ((f"/v1/jobs/{job_id}/figures", None), ("/v1/compare", [good, job_id])):
        answer = client.get(path, params={"job": jobs} if jobs else None)
        assert answer.status_code == 409
        assert says in message(answer)
        assert "cannot be read" in message(answer)
    page = client.get(f"/jobs/{job_id}", headers=HTML)
    assert page.status_code == 200
    assert f"The result cannot be read: {settings.run_folder(job_id)}" in page.text
    assert says in page.text
    assert client.get("/compare", params={"job": [good, job_id]}, headers=HTML).status_code == 200


def test_other_jobs_have_no_figures(client):
    job_id = submit(client).json()["id"]
    answer = client.get(f"/v1/jobs/{job_id}/figures")
    assert (answer.status_code, "is not a tuning that succeeded" in message(answer)) == (404, True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (MEASURED, "0.919x of dense, budget met, quality LOST"),
        (PREDICTED, "1.323x of dense, budget MISSED, quality LOST"),
    ],
)
def test_the_list_shows_jobs_of_commit_2a6778f(client, database, name, said):
    """Their rows hold the summary that it wrote: without verdicts."""
    values = read_v3(name)
    submit(client)
    job = database.claim("r")
    from autotune.service.job_records import Lease

    kept = {key: values[key] for key in SUMMARY_KEYS}
    lease = Lease(job_id=job.id, runner="r", attempt=1)
    database.finish(lease, Ending(exit_code=0, result=kept))
    assert said in client.get("/", headers=HTML).text
    assert outcome(client.get(f"/v1/jobs/{job.id}").json()["result"]) == said


def test_a_job_database_of_commit_2a6778f_is_opened_and_goes_on(settings):
    settings.job_database.parent.mkdir()
    with closing(sqlite3.connect(settings.job_database)) as connection:
        connection.executescript((DATA / "jobs-2a6778f.sql").read_text())
        # One that was still queued when that server was stopped.
        connection.execute("CREATE TEMP TABLE waiting AS SELECT * FROM job")
        connection.execute(
            "UPDATE waiting SET id = substr(id, 1, 19) || '6', state = 'queued', result = NULL, "
            "exit_code = NULL, started_at = NULL, finished_at = NULL, attempt = 0, runner = NULL"
        )
        connection.execute("INSERT INTO job SELECT * FROM waiting")
        connection.commit()
    with (
        JobDatabase(settings.job_database) as database,
        TestClient(create_app(settings, database)) as client,
    ):
        queued, done = client.get("/v1/jobs").json()["jobs"]
        folder = settings.run_folder(done["id"])
        folder.mkdir(parents=True)
        shutil.copy(DATA / MEASURED, folder / "result.json")
        assert (queued["state"], done["state"]) == ("queued", "succeeded")
        assert done["spec"]["budget"]["parameters"] == "0.9x"
        # Its interval, 0.915 to 2.779, does not tell whether it is slower than dense.
        assert outcome(done["result"]) == "1.011x of dense, budget undecided"
        assert client.get(f"/v1/jobs/{done['id']}/figures").status_code == 200
        assert "succeeded" in client.get(f"/jobs/{done['id']}", headers=HTML).text
        assert "1.011x of dense" in client.get("/", headers=HTML).text
        again = client.post("/v1/jobs", json={"kind": "tune", "spec": done["spec"]})
        assert again.json()["spec"] == done["spec"]
        claimed = database.claim("today")
        assert (claimed.id, claimed.spec) == (queued["id"], done["spec"])


def test_a_summary_is_kept_with_its_verdict():
    printed = {**stored_record().to_json(), "output": "/runs/1"}
    kept = summarise("tune", printed)
    assert set(kept) == {*SUMMARY_KEYS, "verdict", "quality_verdict", "allow_quality_loss"}
    assert all(kept[key] == printed[key] for key in kept)
    assert summarise("verify", {"valid": True}) == {"valid": True}
    assert outcome({"valid": True}) == outcome(None) == ""
    assert "cannot be read: cost: the key is missing" in outcome(
        {key: value for key, value in kept.items() if key != "cost"}
    )


def test_a_job_keeps_a_few_of_many_failures():
    failures = [f"layer {number}: out of memory" for number in range(5_000)]
    kept = summarise("profile", {"measured": 1, "failed": failures})
    assert kept == {"measured": 1, "failed": failures[:20], "failed_count": 5_000}


@pytest.mark.parametrize(("code", "kept"), [(0, True), (1, True), (5, True), (3, False)])
def test_a_command_ends_with_a_result_whatever_its_verdict(code, kept, tmp_path, monkeypatch):
    program = f"import json; print(json.dumps({{'a': 1}})); raise SystemExit({code})"
    monkeypatch.setattr(job_process, "COMMAND", (sys.executable, "-c", program))
    with JobProcess([], tmp_path, environment={}) as process:
        ending = process.ending()
    assert ending.exit_code == code
    assert (ending.result == {"a": 1}) is kept
    assert json.dumps(ending.result) == ('{"a": 1}' if kept else "null")
