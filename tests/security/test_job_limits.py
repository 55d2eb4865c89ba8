"""A job ends with its server and keeps to its memory, whatever it is busy with."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autotune.core.childprocess import session_memory
from autotune.service import job_process
from autotune.service.job_process import JobProcess
from autotune.service.runner import Runner
from autotune.service.settings import Quotas, Settings
from tests.waiting import wait_for

PREPARED = "from autotune.service.child import prepare\nprepare()\n"
# One call of `re` that keeps the interpreter's lock for longer than anybody waits.
HOLDS_THE_LOCK = """
import os, re, subprocess, sys
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
print(os.getpid(), inner.pid, flush=True)
re.search(r"^(([a-z0-9_.])+)+!$", "a" * 60)
"""
RUNNER = """
import pathlib, sys, time
from autotune.service import job_process
job_process.COMMAND = (sys.executable, "-c", sys.argv[1])
job_process.JobProcess((), pathlib.Path(sys.argv[2]), environment={})
time.sleep(600)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.faults
def test_a_job_that_holds_the_interpreters_lock_ends_with_its_killed_server(tmp_path):
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, PREPARED + HOLDS_THE_LOCK, tmp_path])
    out = tmp_path / "stdout.txt"
    wait_for(lambda: out.is_file() and out.read_text().endswith("\n"))
    pids = [int(text) for text in out.read_text().split()]
    assert all(map(is_alive, pids))
    runner.kill()
    runner.wait()
    wait_for(lambda: not any(map(is_alive, pids)), 60)


@pytest.mark.faults
def test_what_a_job_started_ends_with_the_job(tmp_path, monkeypatch):
    """Also where the job is killed, as by the kernel, and its runner lives on."""
    monkeypatch.setattr(job_process, "COMMAND", (sys.executable, "-c", PREPARED + HOLDS_THE_LOCK))
    with JobProcess((), tmp_path, environment={}) as process:
        wait_for(lambda: (tmp_path / "stdout.txt").read_text().endswith("\n"))
        leader, inner = (int(text) for text in (tmp_path / "stdout.txt").read_text().split())
        os.kill(leader, signal.SIGKILL)
        wait_for(lambda: not is_alive(inner), 60)
        assert not process.alive
        assert process.ending().exit_code == -signal.SIGKILL


def test_a_job_cannot_allocate_more_than_its_limit(tmp_path, monkeypatch):
    code = (
        "import json, resource\n"
        "from pathlib import Path\n"
        "try:\n    size = len(bytearray(600 << 20))\n"
        "except MemoryError:\n    size = 0\n"
        "score = int(Path('/proc/self/oom_score_adj').read_text())\n"
        "print(json.dumps({'allocated': size, 'score': score}))"
    )
    monkeypatch.setattr(job_process, "COMMAND", (sys.executable, "-c", PREPARED + code))
    found = []
    for limit in (None, 512 << 20):
        with JobProcess((), tmp_path, environment={}, memory_bytes=limit) as process:
            wait_for(lambda p=process: not p.alive)
            found.append(process.ending().result)
    assert [each["allocated"] for each in found] == [600 << 20, 0]
    assert {each["score"] for each in found} == {1000}


def test_the_processes_of_a_job_together_keep_to_its_limit(tmp_path, monkeypatch):
    """Each of them is below it."""
    code = (
        "import subprocess, sys, time\n"
        "grow = 'import time; kept = bytearray(b\"x\") * (120 << 20); time.sleep(600)'\n"
        "for _ in range(3): subprocess.Popen([sys.executable, '-c', grow])\n"
        "time.sleep(600)"
    )
    monkeypatch.setattr(job_process, "COMMAND", (sys.executable, "-c", PREPARED + code))
    quotas = Quotas(memory_bytes=256 << 20)
    settings = Settings(data=tmp_path, job_database=tmp_path / "jobs.sqlite", quotas=quotas)

    class Silent:
        def beat(self, *_, **__):
            return False

    runner = Runner(settings, Silent(), name="r", stopping=threading.Event())
    with JobProcess((), tmp_path, environment={}, memory_bytes=256 << 20) as process:
        ending = runner._watch(process, None)
        wait_for(lambda: session_memory(process.pid) == 0, 60)
    assert ending.exit_code == 1
    assert not ending.again
    assert "more than the limit of 0.3 GB for a job" in ending.error


def test_the_default_is_a_share_of_the_machines_memory(tmp_path, cli):
    from autotune.devices.memory import memory_bytes
    from autotune.service.commands.serve import _memory_bytes

    assert _memory_bytes(None, slots=4) == int(0.8 * memory_bytes()) // 4
    assert _memory_bytes("2GiB", slots=4) == 2 << 30
    done = cli("serve", "--max-memory", "1MB", "--data", tmp_path)
    assert done.returncode == 2
    assert "--max-memory 1MB: a job needs at least" in done.stderr
    done = cli("serve", "--max-memory", "80", "--data", tmp_path)
    assert (done.returncode, "--max-memory 80: must be a size such as" in done.stderr) == (2, True)
