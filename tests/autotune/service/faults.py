"""What must hold of a service whatever died: shared by tests and benchmarks/service_faults.py."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.service.job_records import Job
from autotune.service.job_schema import ENDED
from autotune.service.jobs import JobDatabase
from tests.autotune.service.browser import Server
from tests.autotune.service.processes import descendants, kill, mentioning

VICTIMS = ("job", "worker", "server")
FARM_VICTIMS = ("head", "host")
# Two servers that share their jobs: a peer that was killed, restarted in order, or frozen for
# longer than it may be silent.
PEER_VICTIMS = ("server", "job", "frozen", "worker", "restarted")
# What times layers and networks; the process that profiles nodes lives too short to be caught.
MEASURING = "autotune.farm.measuring_process"
_MEASURES_WITHIN_S = 20.0
# An orderly restart, a server that was killed or frozen, and a folder that a process of a frozen
# one still works in.
_NO_ATTEMPT = ("its server is stopping", " timed out", "is in use by another autotune process")


def all_ended(database: JobDatabase) -> bool:
    """Whether no job waits or runs."""
    counts = database.counts()
    return counts["queued"] + counts["running"] == 0


def pick(server: Server, victim: str, moments: random.Random) -> int | None:
    """The process that is to die; None when there is no such process."""
    if victim == "server":
        return server.process.pid
    mark = "autotune.service.child" if victim == "job" else MEASURING
    deadline = time.monotonic() + (_MEASURES_WITHIN_S if victim == "worker" else 0)
    while True:
        commands = descendants(server.process.pid).items()
        found = [pid for pid, command in commands if mark in command]
        if found or time.monotonic() > deadline:
            return moments.choice(sorted(found)) if found else None
        time.sleep(0.05)


class LosableFarm(Protocol):
    """A farm of which parts can be killed; what died comes anew."""

    def lose_coordinator(self) -> None:
        """With what hangs on it."""

    def lose_host(self) -> None:
        """One of those that measure and judge."""


def kill_at_random(
    start: Callable[[], Server],
    server: Server,
    *,
    rounds: int,
    longest_s: float,
    moments: random.Random,
    farm: LosableFarm | None = None,
) -> Iterator[tuple[str, Server]]:
    """Kill something again and again; what died is started again. Yields what died.

    `moments` draws the pause before each kill, at most `longest_s` seconds, and the process among
    several of a kind; with the same seed the sequence is the same.
    """
    victims = VICTIMS + (FARM_VICTIMS if farm else ())
    for number in range(rounds):
        time.sleep(moments.uniform(0.2, longest_s))
        victim = victims[number % len(victims)]
        if farm and victim in FARM_VICTIMS:
            farm.lose_coordinator() if victim == "head" else farm.lose_host()
            yield victim, server
            continue
        pid = pick(server, victim, moments)
        if pid is None:
            victim, pid = "job", pick(server, "job", moments)
        if pid is None:
            yield "nothing", server
            continue
        kill(pid)
        if victim == "server":
            server.process.wait()
            server = start()
        yield victim, server


def disturb_peers(
    start: Callable[[], Server],
    peers: list[Server],
    *,
    rounds: int,
    longest_s: float,
    frozen_s: float,
    moments: random.Random,
) -> Iterator[str]:
    """Kill, restart or freeze something of one of `peers` again and again; yields what.

    A frozen server is stopped for `frozen_s` seconds while the processes of its jobs go on. What
    died is started again, in its place in `peers`.
    """
    for number in range(rounds):
        time.sleep(moments.uniform(0.2, longest_s))
        victim, index = PEER_VICTIMS[number % len(PEER_VICTIMS)], moments.randrange(len(peers))
        server = peers[index]
        if victim == "frozen":
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(frozen_s)
            server.process.send_signal(signal.SIGCONT)
        elif victim == "restarted":
            server.stop()
            peers[index] = start()
        else:
            pid = pick(server, victim, moments)
            if pid is None:
                victim, pid = "server", server.process.pid
            kill(pid)
            if victim == "server":
                server.process.wait()
                peers[index] = start()
        yield victim


class Overlaps(threading.Thread):
    """Watches how long two processes of one job live at the same time, by job, in seconds.

    A job that was taken over from a frozen server has two for a moment: the run folder's lock
    refuses the later one. Jobs are told apart by the folder that their processes work in.
    """

    def __init__(self, data: Path, every_s: float = 0.1) -> None:
        super().__init__(daemon=True)
        self._jobs, self._every_s = data / "jobs", every_s
        self._over = threading.Event()
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        """Look until `stop`."""
        while not self._over.wait(self._every_s):
            found = Counter(self._job(pid) for pid in mentioning("autotune.service.child"))
            for job, processes in found.items():
                if job and processes > 1:
                    self.seconds[job] = self.seconds.get(job, 0.0) + self._every_s

    def _job(self, pid: int) -> str | None:
        """The job whose process this is; a watcher, forked by one, is its session's follower."""
        with suppress(OSError):
            if os.getsid(pid) == pid:
                place = Path(f"/proc/{pid}/cwd").readlink()
                return place.name if place.parent == self._jobs else None
        return None

    def stop(self) -> None:
        """End the watch."""
        self._over.set()
        self.join()


def check_everything(database: JobDatabase, data: Path, latencies: object) -> dict[str, int]:
    """One end a job, said once; results whole; no row lost or doubled. Ends by state."""
    counts: dict[str, int] = {}
    for job in database.page(limit=500):
        assert job.state in ENDED, job
        check_job(database, job, data)
        counts[job.state] = counts.get(job.state, 0) + 1
    with LatencyDatabase(latencies) as store:  # type: ignore[arg-type]
        assert find_problems(store) == []
        for fingerprint in store.fingerprints():
            rows = store.rows(fingerprint)
            assert len({row.shape for row in rows}) == len(rows)
    return counts


def _given_back(state: str) -> bool:
    """Whether a job went back to the queue without having used up an attempt."""
    return state.startswith("queued again") and any(why in state for why in _NO_ATTEMPT)


def check_job(database: JobDatabase, job: Job, data: Path) -> None:
    """Its events are without gap and end once, and what it promises is there."""
    events = database.events(job.id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    ends = [event.text for event in events if event.kind == "state" and event.text in ENDED]
    assert ends == [job.state]
    states = [event.text for event in events if event.kind == "state"]
    starts, back = states.count("running"), sum(map(_given_back, states))
    assert starts - back == job.attempt, states
    folder = data / "jobs" / job.id / "out"
    assert not list(folder.rglob(".*.part")) or job.state != "succeeded"
    if job.state != "succeeded":
        assert job.state == "failed"
        assert job.error
        return
    assert job.result is not None
    if job.kind == "tune":
        assert json.loads((folder / "result.json").read_text())["budget"]
        assert (folder / "model" / "model.safetensors").is_file()
