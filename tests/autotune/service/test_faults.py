"""Servers, jobs and databases that die: every job ends once, in a result or a stated failure."""

import contextlib
import os
import shutil
import subprocess
import sys
import time

import pytest

from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.service.client import Client
from autotune.service.errors import ServiceError
from autotune.service.jobs import JobDatabase
from autotune.service.settings import Settings
from tests.autotune.service.browser import Server, serving
from tests.autotune.service.conftest import TUNE, make_roots
from tests.autotune.service.faults import MEASURING, all_ended, check_everything, kill_at_random
from tests.autotune.service.processes import descendants, gone, kill
from tests.damage import save_model
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.duration(200)]

ROUNDS = int(os.environ.get("AUTOTUNE_FAULT_ROUNDS", "3"))
ATTEMPTS = Settings.attempts
# Jobs: small tunings, and layers to measure for a moment or for minutes.
TINY = {**TUNE, "model": "tiny"}
# Latencies are predicted: nothing is exported, and what is written first are the factors.
PREDICTED = {**TUNE, "device": "h200"}
SHORT = {"tokens": [16], "shapes": ["64x96"], "ranks": [8]}
LONG = {**SHORT, "tokens": list(range(1, 65)), "shapes": ["64x96", "96x64", "64x64", "96x96"]}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The folder of models of all tests here: code-llama-3m, and a tiny model of random weights."""
    root = make_roots(tmp_path_factory.mktemp("roots"))
    (root / "tiny").mkdir()
    save_model(root / "tiny")
    return root


def options(roots, latencies, *more):
    return ("--models", roots, "--db", latencies, "--threads", 1, "--stale", 2, *more)


def submitted(address, kind="tune", spec=TINY):
    with Client(address) as client:
        return client.submit(kind, spec)["id"]


def test_kill_9_of_jobs_workers_and_servers(tmp_path, roots, moments):
    data, latencies = tmp_path / "data", tmp_path / "latency.sqlite"

    def start():
        return Server(data, *options(roots, latencies))

    server = start()
    try:
        submitted(server.address)
        killed = []
        kills = kill_at_random(start, server, rounds=ROUNDS, longest_s=6, moments=moments)
        for victim, living in kills:
            killed.append(victim)
            server = living
        with JobDatabase(data / "jobs.sqlite") as database:
            wait_for(lambda: all_ended(database))
            check_everything(database, data, latencies)
            (job,) = database.page()
        if job.state == "failed":  # only a job that was killed as often as it is tried may fail
            assert sum(victim != "nothing" for victim in killed) >= job.attempt == ATTEMPTS
            assert f"limit of {ATTEMPTS} attempts" in job.error
        else:
            assert job.state == "succeeded"
        assert "server" in killed
    finally:
        server.stop()
    assert gone(str(data), 60)


def test_nothing_outlives_a_server_that_was_killed(tmp_path, roots):
    data = tmp_path / "data"
    server = Server(data, *options(roots, tmp_path / "latency.sqlite"))
    submitted(server.address, "profile", LONG)
    wait_for(lambda: any(MEASURING in c for c in descendants(server.process.pid).values()))
    server.kill()
    assert gone(str(data), 60)


def test_two_servers_share_the_work_and_one_dies(tmp_path, roots):
    data, latencies = tmp_path / "data", tmp_path / "latency.sqlite"
    with serving(data, *options(roots, latencies)) as first:
        with serving(data, *options(roots, latencies)) as second:
            for seed in range(2):
                submitted(first.address, spec={**TINY, "seed": seed})
            with JobDatabase(data / "jobs.sqlite") as database:
                wait_for(lambda: database.counts()["running"] == 2)
                runners = {job.runner for job in database.page(states=["running"])}
                assert len(runners) == 2
                second.kill()
                wait_for(lambda: all_ended(database))
                assert check_everything(database, data, latencies) == {"succeeded": 2}


@pytest.fixture(scope="module")
def lasting(tmp_path_factory, roots):
    """A server that nothing kills, and its data, for the tests that end jobs alone."""
    home = tmp_path_factory.mktemp("lasting")
    with serving(home / "data", *options(roots, home / "latency.sqlite")) as server:
        yield server, home / "data"


def test_cancel_ends_the_process_and_all_it_started(lasting):
    server, _ = lasting
    job_id = submitted(server.address, "profile", LONG)
    pid = server.process.pid
    wait_for(lambda: any(MEASURING in c for c in descendants(pid).values()))
    with Client(server.address) as client:
        client.cancel(job_id)
        assert client.wait(job_id)["state"] == "cancelled"
    wait_for(lambda: not descendants(pid), 60)
    again = submitted(server.address, "profile", SHORT)  # the slot and the device are free
    with Client(server.address) as client:
        assert client.wait(again)["state"] == "succeeded"


def test_a_server_that_is_stopped_gives_its_job_back(tmp_path, roots):
    data, latencies = tmp_path / "data", tmp_path / "latency.sqlite"
    with serving(data, *options(roots, latencies)) as server:
        job_id = submitted(server.address)
        with JobDatabase(data / "jobs.sqlite") as database:
            wait_for(lambda: database.get(job_id).stage)
            server.stop()
            assert database.get(job_id).state == "queued"
            assert "stopping" in database.events(job_id)[-1].text
    with serving(data, *options(roots, latencies)) as server, Client(server.address) as client:
        assert client.wait(job_id)["state"] == "succeeded"


def test_postgresql_is_restarted_while_a_job_runs(tmp_path, roots, postgres_server, moments):
    data, address = tmp_path / "data", postgres_server.new_database()
    with serving(data, *options(roots, address, "--jobs-db", address)) as server:
        job_id = submitted(server.address)
        with Client(server.address) as client:
            wait_for(lambda: client.job(job_id)["stage"] not in ("", "load the model"))
            time.sleep(moments.uniform(0, 3))
            postgres_server.stop()
            try:
                for call in (lambda: client.job(job_id), lambda: submitted(server.address)):
                    with pytest.raises(ServiceError, match="does not answer"):
                        call()
            finally:
                postgres_server.start()
            wait_for(lambda: client.job(job_id)["state"] == "succeeded")
        with JobDatabase(address) as database:
            assert check_everything(database, data, address) == {"succeeded": 1}


def test_a_full_disk_is_a_stated_failure(tmp_path, roots):
    """No file of the server and its jobs may grow beyond 2 MB; the model has 12."""
    data = tmp_path / "data"
    limit = 2_000_000
    command = [
        sys.executable,
        "-c",
        (
            "import resource, runpy, sys; sys.argv[0] = 'autotune'; "
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
            "runpy.run_module('autotune', run_name='__main__')"
        ),
    ]
    with limited(command, data, options(roots, tmp_path / "latency.sqlite")) as address:
        with Client(address) as client:
            job = client.submit("tune", PREDICTED)
            job = client.wait(job["id"])
            assert job["state"] == "failed"
            assert "no space left" in job["error"]
            assert client.artefacts(job["id"]) == []
            assert client.jobs()["counts"]["failed"] == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 MB of its own."""
    if not shutil.which("mount"):
        pytest.skip("needs the program mount")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"needs to mount a file system: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_file_system_that_is_full_loses_nothing(small_disk, tmp_path, roots):
    """Jobs, their database and their folders on a disk that somebody else has filled."""
    data, filler = small_disk / "data", small_disk / "filler"
    latencies = tmp_path / "latency.sqlite"
    with serving(data, *options(roots, latencies)) as server, Client(server.address) as client:
        space = os.statvfs(small_disk)
        with filler.open("wb") as file:
            file.write(bytes(space.f_bavail * space.f_frsize - 3_000_000))
        job_id = client.submit("tune", PREDICTED)["id"]
        log = data / "jobs" / job_id / "log.txt"
        wait_for(lambda: log.exists() and b"no space left" in log.read_bytes())
        left = client.wait(job_id)
        assert left["state"] == "failed"
        assert "no space left" in left["error"]
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:  # to the last byte: the job database too
                file.write(bytes(4096))
        with pytest.raises(ServiceError, match="no space left"):
            for _ in range(200):
                client.submit("tune", TUNE)
        waiting = client.jobs()["jobs"]
        assert client.job(job_id)["state"] == "failed"
        filler.unlink()
        for job in waiting:
            if not job["finished_at"]:
                client.cancel(job["id"])
        again = submitted(server.address)
        ended = client.wait(again)
        assert ended["state"] == "succeeded", ended["error"]
    with JobDatabase(data / "jobs.sqlite") as database:
        for job in database.page(limit=500):
            events = [event.number for event in database.events(job.id)]
            assert events == list(range(1, len(events) + 1))
    with LatencyDatabase(latencies) as store:
        assert find_problems(store) == []


@contextlib.contextmanager
def limited(command, data, arguments):
    """A server started by `command`."""
    server = Server.__new__(Server)
    server.log = data.parent / "limited.log"
    with server.log.open("wb") as log:
        server.process = subprocess.Popen(
            [*command, "serve", "--port", "0", "--data", str(data), *map(str, arguments)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield server._listen(0)
    finally:
        server.stop()


def test_a_job_that_always_dies_fails_and_says_so(lasting):
    server, data = lasting
    job_id = submitted(server.address, "profile", LONG)  # never done before it is killed

    def killed_until_it_ended():
        for pid, command in descendants(server.process.pid).items():
            if "service.child" in command:
                kill(pid)
        return database.get(job_id).ended

    with JobDatabase(data / "jobs.sqlite") as database:
        wait_for(killed_until_it_ended)
        job = database.get(job_id)
    assert (job.state, job.attempt) == ("failed", ATTEMPTS)
    assert "signal 9" in job.error
    assert f"limit of {ATTEMPTS} attempts" in job.error


def test_limits_of_time_and_bytes_are_stated(tmp_path, roots):
    for option, value, said in (
        ("--max-runtime", 3, "exceeded the 3 s limit"),
        ("--max-artefacts", "1kB", "the limit of 1000"),
    ):
        data = tmp_path / option.strip("-")
        with serving(data, *options(roots, tmp_path / "latency.sqlite", option, value)) as server:
            job_id = submitted(server.address)
            with Client(server.address) as client:
                job = client.wait(job_id)
            assert job["state"] == "failed"
            assert said in job["error"]
