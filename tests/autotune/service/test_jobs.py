"""The job table: one runner a job, one end a job, no event lost or doubled."""

import itertools
import threading

import pytest
import sqlalchemy as sa

from autotune.core.errors import DatabaseError
from autotune.service.errors import ConflictError, LeaseLostError, NotFoundError, QuotaError
from autotune.service.job_records import Ending, Lease
from autotune.service.job_schema import JOB
from autotune.service.jobs import JobDatabase

SPEC = {"budget": {"latency": "0.9x"}, "method": {"targets": ["mlp"]}}


def submit(jobs, **more):
    job, _ = jobs.submit("tune", SPEC, device="cpu", **more)
    return job


def lease_of(job):
    return Lease(job_id=job.id, runner=job.runner, attempt=job.attempt)


def age(jobs, job, seconds):
    """Let the runner's last word be older."""
    with jobs.transaction() as connection:
        connection.execute(
            JOB.update().where(JOB.c.id == job.id).values(heartbeat_at=JOB.c.heartbeat_at - seconds)
        )


def test_from_the_queue_to_a_result(jobs):
    made = submit(jobs)
    assert (made.state, made.spec, made.attempt) == ("queued", SPEC, 0)
    job = jobs.claim("a")
    assert (job.id, job.state, job.runner, job.attempt) == (made.id, "running", "a", 1)
    assert not jobs.beat(lease_of(job), "factorize", done=1, total=4)
    jobs.note(lease_of(job), "stage", text="factorize")
    jobs.finish(lease_of(job), Ending(exit_code=0, result={"ratio": 0.5}))
    job = jobs.get(job.id)
    assert (job.state, job.result, job.error, job.exit_code) == (
        "succeeded",
        {"ratio": 0.5},
        None,
        0,
    )
    assert (job.stage, job.done, job.total) == ("factorize", 1, 4)
    assert job.created_at <= job.started_at <= job.finished_at
    events = jobs.events(job.id)
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert [event.text for event in events] == ["queued", "running", "factorize", "succeeded"]
    assert jobs.events(job.id, after=2) == events[2:]
    assert jobs.counts()["succeeded"] == 1


def test_an_ended_job_takes_no_second_end(jobs):
    submit(jobs)
    job = jobs.claim("a")
    jobs.finish(lease_of(job), Ending(exit_code=1, error="it failed"))
    for write in (
        lambda: jobs.finish(lease_of(job), Ending(exit_code=0, result={})),
        lambda: jobs.beat(lease_of(job), "x", done=0, total=0),
        lambda: jobs.note(lease_of(job), "note", text="x"),
        lambda: jobs.requeue(lease_of(job), "x", delay_s=0),
    ):
        with pytest.raises(LeaseLostError):
            write()
    assert jobs.get(job.id).error == "it failed"
    assert len(jobs.events(job.id)) == 3


def test_the_database_itself_refuses_a_failure_without_a_reason(jobs):
    job = submit(jobs)
    with pytest.raises(DatabaseError):
        with jobs.transaction() as connection:
            connection.execute(JOB.update().where(JOB.c.id == job.id).values(state="failed"))


def test_many_runners_and_each_job_is_claimed_once(jobs):
    wanted = {submit(jobs).id for _ in range(60)}
    found, lock = [], threading.Lock()

    def run(name):
        while (job := jobs.claim(name)) is not None:
            jobs.note(lease_of(job), "note", text=name)
            jobs.finish(lease_of(job), Ending(exit_code=0, result={"by": name}))
            with lock:
                found.append(job.id)

    threads = [threading.Thread(target=run, args=(f"r{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(wanted)
    for job_id in wanted:
        events = jobs.events(job_id)
        assert [event.number for event in events] == [1, 2, 3, 4]
        assert events[2].text == jobs.get(job_id).result["by"]


def test_the_oldest_job_goes_first(jobs):
    first, second = submit(jobs), submit(jobs)
    assert [jobs.claim("a").id, jobs.claim("a").id, jobs.claim("a")] == [first.id, second.id, None]


def test_owners_take_turns_whoever_submitted_first(jobs):
    many = [submit(jobs, owner="alice").id for _ in range(4)]
    bobs = [submit(jobs, owner="bob").id for _ in range(2)]
    claimed = [jobs.claim("r").id for _ in range(6)]
    assert claimed == [many[0], bobs[0], many[1], bobs[1], many[2], many[3]]
    # Bob has been served more recently than a newcomer, and a job that is put back keeps its turn.
    later = submit(jobs, owner="bob").id
    carols = submit(jobs, owner="carol").id
    assert [jobs.claim("r").id, jobs.claim("r").id] == [carols, later]


def test_one_owner_cannot_fill_the_queue(jobs):
    limits = {"most_queued": 4, "most_queued_each": 2}
    for _ in range(2):
        submit(jobs, owner="alice", **limits)
    with pytest.raises(QuotaError, match="2 jobs of one user are queued"):
        submit(jobs, owner="alice", **limits)
    submit(jobs, owner="bob", **limits)
    submit(jobs, owner="carol", **limits)
    with pytest.raises(QuotaError, match="4 jobs are queued"):
        submit(jobs, owner="dave", **limits)
    assert jobs.counts()["queued"] == 4
    jobs.claim("r")
    submit(jobs, owner="alice", **limits)


def test_two_submissions_with_one_key_are_one_job(jobs):
    found = []

    def send():
        found.append(jobs.submit("tune", SPEC, device="cpu", owner="k", idempotency_key="x"))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job, _ in found}) == 1
    assert sum(new for _, new in found) == 1
    assert len(jobs.events(found[0][0].id)) == 1
    with pytest.raises(ConflictError, match="asks for something else"):
        jobs.submit("tune", {}, device="cpu", owner="k", idempotency_key="x")
    _, new = jobs.submit("tune", {}, device="cpu", owner="another", idempotency_key="x")
    assert new


def test_a_full_queue_refuses_and_keeps_nothing(jobs):
    for _ in range(3):
        submit(jobs, most_queued=3)
    with pytest.raises(QuotaError, match="3 jobs are queued"):
        submit(jobs, most_queued=3)
    assert jobs.counts()["queued"] == 3


def test_a_waiting_job_is_cancelled_at_once(jobs):
    job = jobs.cancel(submit(jobs).id)
    assert job.state == "cancelled"
    assert jobs.claim("a") is None
    assert jobs.cancel(job.id) == jobs.get(job.id)  # once more changes nothing


def test_a_running_job_hears_that_it_is_cancelled(jobs):
    submit(jobs)
    job = jobs.claim("a")
    assert jobs.cancel(job.id).state == "running"
    assert jobs.beat(lease_of(job), "", done=0, total=0)
    jobs.finish(lease_of(job), Ending(exit_code=130), cancelled=True)
    assert jobs.get(job.id).state == "cancelled"


def test_a_silent_runner_loses_its_job(jobs):
    submit(jobs)
    job = jobs.claim("a")
    assert jobs.requeue_stale(10, most_losses=3) == []
    age(jobs, job, 11)
    assert jobs.requeue_stale(10, most_losses=3) == [job.id]
    with pytest.raises(LeaseLostError):
        jobs.finish(lease_of(job), Ending(exit_code=0, result={}))
    again = jobs.claim("b")
    assert (again.id, again.attempt) == (job.id, 1)  # nothing of it was the job's fault
    with pytest.raises(LeaseLostError):
        jobs.beat(lease_of(job), "", done=0, total=0)


def test_a_job_that_loses_its_runners_too_often_fails_and_says_so(jobs):
    """It may be what ends them; being killed or frozen uses up no attempt of it."""
    submit(jobs)
    for _ in range(3):
        job = jobs.claim("a")
        assert job.attempt == 1
        jobs.requeue(lease_of(job), "its server is stopping", delay_s=0.0, give_back=True)
        job = jobs.claim("a")
        age(jobs, job, 11)
        jobs.requeue_stale(10, most_losses=3)
    job = jobs.get(job.id)
    assert job.state == "failed"
    assert "timed out; its servers were lost 3 times while it ran" in job.error


def test_a_silent_job_that_was_to_be_cancelled_is(jobs):
    submit(jobs)
    job = jobs.claim("a")
    jobs.cancel(job.id)
    age(jobs, job, 11)
    jobs.requeue_stale(10, most_losses=2)
    assert jobs.get(job.id).state == "cancelled"


def test_a_job_that_was_put_back_waits(jobs):
    submit(jobs)
    job = jobs.claim("a")
    jobs.requeue(lease_of(job), "its process died", delay_s=60)
    assert jobs.claim("a") is None
    assert jobs.get(job.id).state == "queued"
    assert "its process died" in jobs.events(job.id)[-1].text


def test_pages_show_every_job_once(jobs):
    made = [submit(jobs).id for _ in range(7)]
    found, before = [], None
    while page := jobs.page(before=before, limit=3):
        found += [job.id for job in page]
        before = found[-1]
    assert found == sorted(made, reverse=True)
    assert [job.id for job in jobs.page(kind="export")] == []
    assert len(jobs.page(states=["running", "queued"])) == 7


def test_revisions_rise_with_every_change(jobs):
    job = submit(jobs)
    seen = [jobs.revisions([job.id, "0" * 20])]
    claimed = jobs.claim("a")
    seen.append(jobs.revisions([job.id]))
    jobs.beat(lease_of(claimed), "s", done=1, total=2)
    seen.append(jobs.revisions([job.id]))
    jobs.beat(lease_of(claimed), "s", done=1, total=2)
    assert jobs.revisions([job.id]) == seen[-1]  # a mere sign of life is no change
    values = [each[job.id] for each in seen]
    assert values == sorted(set(values))
    assert "0" * 20 not in seen[0]


def test_what_is_not_there_is_said(jobs):
    for call in (jobs.get, jobs.cancel):
        with pytest.raises(NotFoundError, match="no such job"):
            call("0" * 20)


@pytest.mark.parametrize("name", ["\0", f"{'0' * 19}\0", "\ud800", "", "../..", "0" * 21])
def test_what_is_no_id_is_no_job(jobs, name):
    """The database is not asked: PostgreSQL refuses NUL, and no driver takes half a character."""
    with pytest.raises(NotFoundError, match="no such job"):
        jobs.get(name)


def test_a_newer_database_is_not_touched(jobs, tmp_path):
    with jobs.transaction() as connection:
        jobs.dialect.set_version(connection, 99)
    with pytest.raises(DatabaseError, match="schema version 99"):
        JobDatabase(jobs.address)
    with jobs.transaction() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(JOB)).scalar() == 0


def test_latencies_and_jobs_may_share_a_server(postgres_server):
    from autotune.profiler.database.latency import LatencyDatabase

    address = postgres_server.new_database()
    with LatencyDatabase(address) as latencies, JobDatabase(address) as found:
        job, _ = found.submit("tune", {}, device="cpu")
        assert latencies.runs() == []
    with LatencyDatabase(address), JobDatabase(address) as found:
        assert found.get(job.id).state == "queued"


def test_a_heartbeat_of_a_clock_that_was_set_back_is_too_old_as_well(jobs):
    submit(jobs)
    job = jobs.claim("gone")
    age(jobs, job, -3600)
    assert jobs.requeue_stale(15.0, most_losses=5) == [job.id]
    job = jobs.claim("gone")
    age(jobs, job, -3600)
    jobs.cancel(job.id)
    jobs.requeue_stale(15.0, most_losses=5)
    assert jobs.get(job.id).state == "cancelled"


def test_a_runner_whose_heartbeat_was_seen_to_change_keeps_its_job(jobs):
    """The clock was set forward: by the database's time the runner has been silent for hours."""
    submit(jobs)
    job = jobs.claim("a")
    age(jobs, job, 7200)
    assert jobs.heartbeats() == {lease_of(job): jobs.get(job.id).heartbeat_at}
    assert jobs.requeue_stale(15.0, 5, is_silent=lambda lease, beat: False) == []
    assert not jobs.beat(lease_of(job), "", done=0, total=0)


def test_what_waits_for_a_time_far_ahead_starts_now(jobs):
    """A job was put back for two seconds; since then the clock was set back by six hours."""
    submit(jobs)
    job = jobs.claim("a")
    jobs.requeue(lease_of(job), "its process died", delay_s=2 + 6 * 3600)
    assert jobs.claim("a").id == job.id


def test_an_orderly_stop_gives_the_attempt_back(jobs):
    submit(jobs)
    for _ in range(7):
        job = jobs.claim("a")
        assert job.attempt == 1
        jobs.requeue(lease_of(job), "its server is stopping", delay_s=0.0, give_back=True)
    assert jobs.get(job.id).attempt == 0


def test_since_when_a_job_waits_is_kept_until_an_attempt_found_all_free(jobs):
    submit(jobs)
    ways = [{"busy": True, "give_back": True}, {"busy": True, "give_back": True}]
    ways += [{"give_back": True}, {"busy": True}, {}]
    since = []
    for way in ways:
        job = jobs.claim("a")
        jobs.requeue(lease_of(job), "in use", delay_s=0.0, **way)
        since.append(jobs.get(job.id).busy_since)
    assert since[0] is not None
    assert since == [*since[:1] * 4, None]
    assert job.waited_s == job.heartbeat_at - since[0]
    assert jobs.claim("a").waited_s == 0.0


def test_ids_sort_by_submission_whatever_the_clock_does(jobs, monkeypatch):
    hours = itertools.cycle([10, 16, 4, 4, 10, 3])
    monkeypatch.setattr("time.time_ns", lambda: int(next(hours) * 3600e9) + 1_700_000_000 * 10**9)
    made = [submit(jobs).id for _ in range(5)]
    assert made == sorted(made)
    assert [job.id for job in jobs.page()] == made[::-1]
    assert jobs.claim("a").id == made[0]
    assert jobs.events(made[2])[0].text == "queued"


EVIL = "\x1b]0;title\x07\x1b[2J a\x00b \u202etxt.exe \ud800"


def test_control_characters_of_an_error_are_kept_visibly(jobs):
    """PostgreSQL refuses NUL, and a terminal obeys the others; the reason must not be lost."""
    submit(jobs)
    job = jobs.claim("a")
    lease = lease_of(job)
    jobs.beat(lease, EVIL, done=0, total=0)
    jobs.note(lease, "note", text=EVIL)
    jobs.requeue(lease, EVIL, delay_s=0.0)
    lease = lease_of(jobs.claim("a"))
    jobs.finish(lease, Ending(exit_code=2, error=EVIL))
    job = jobs.get(job.id)
    shown = "\\x1b]0;title\\x07\\x1b[2J a\\x00b \\u202etxt.exe \\ud800"
    assert (job.state, job.error, job.stage) == ("failed", shown, shown)
    texts = [event.text for event in jobs.events(job.id)]
    assert texts[2:4] == [shown, f"queued again: {shown}"]
