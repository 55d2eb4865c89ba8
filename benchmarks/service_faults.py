"""kill -9 of jobs, measuring workers and servers at random moments of real small tunings.

    python benchmarks/service_faults.py [--rounds 20] [--jobs 6] [--farm]
        [--servers 2] [--database postgresql://…]

A real server with real jobs on code-llama-3m, and something of it killed every few seconds; at the
end every job has ended once, in a result or a stated failure, and no row is lost or doubled
(tests/autotune/service/faults.py). With `--farm` plans are judged by a farm, whose head and host
are among the victims. With `--servers 2` they share the jobs, and one of them is killed,
restarted in order, or frozen for longer than it may be silent; seconds in which two processes of
one job lived are counted. Prints what died and how the jobs ended; the last line is one JSON
document.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("AUTOTUNE_MEASURE_SECONDS", "0.2")

from autotune.service.client import Client
from autotune.service.jobs import JobDatabase
from tests.autotune.farm.conftest import Farm
from tests.autotune.service.browser import Server
from tests.autotune.service.conftest import TUNE
from tests.autotune.service.faults import (
    Overlaps,
    all_ended,
    check_everything,
    disturb_peers,
    kill_at_random,
)
from tests.conftest import LLAMA
from tests.seeds import generator_for, session_seed
from tests.waiting import wait_for

_FROZEN_S = 8.0  # four times as long as a server may be silent here


def main() -> None:
    """Kill, wait, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--servers", type=int, default=1, choices=(1, 2))
    parser.add_argument("--farm", action="store_true", help="Judge plans on a farm of one host.")
    parser.add_argument("--database", help="Of jobs and latencies (default: two SQLite files).")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        roots, data = home / "models", home / "data"
        shutil.copytree(LLAMA, roots / "code-llama-3m")
        (roots / "text.txt").write_text((LLAMA / "heldout.txt").read_text()[:40_000])
        latencies = options.database or home / "latency.sqlite"
        jobs = options.database or data / "jobs.sqlite"
        more = ("--jobs-db", jobs, "--db", latencies, "--models", roots, "--threads", 1)
        farm, environment, task = None, {}, dict(TUNE)
        if options.farm:
            farm = Farm(home)
            environment = {"AUTOTUNE_FARM": farm.address, "AUTOTUNE_FARM_TOKEN": farm.token}
            task |= {"sensitivity_rounds": 1}
            farm.up()

        def start() -> Server:
            return Server(data, *more, "--stale", 2, environment=environment)

        peers = [start() for _ in range(options.servers)]
        overlaps = Overlaps(data)
        overlaps.start()
        try:
            with Client(peers[0].address) as client:
                for seed in range(options.jobs):
                    client.submit("tune", {**task, "seed": seed})
            killed: dict[str, int] = {}
            print(f"AUTOTUNE_TEST_SEED={session_seed()} replays the kills", flush=True)
            for victim in _victims(start, peers, farm=farm, rounds=options.rounds):
                killed[victim] = killed.get(victim, 0) + 1
                print(f"{time.monotonic() - started:6.0f} s  {victim}", flush=True)
            with JobDatabase(jobs) as database:
                wait_for(lambda: all_ended(database), 3600)
                ends = check_everything(database, data, latencies)
                for job in reversed(database.page(limit=500)):
                    print(f"{job.id} {job.state} after {job.attempt} attempts {job.error or ''}")
        finally:
            for server in peers:
                server.stop()
            overlaps.stop()
            if farm:
                farm.stop()
    record = {
        "killed": killed,
        "ended": ends,
        "jobs_with_two_processes": len(overlaps.seconds),
        "longest_with_two_s": round(max(overlaps.seconds.values(), default=0.0), 1),
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(record))


def _victims(
    start: Callable[[], Server], peers: list[Server], *, farm: Farm | None, rounds: int
) -> Iterator[str]:
    """What dies, one after the other; `peers` are those that live."""
    moments = generator_for("service_faults")
    if len(peers) > 1:
        yield from disturb_peers(
            start, peers, rounds=rounds, longest_s=12, frozen_s=_FROZEN_S, moments=moments
        )
        return
    kills = kill_at_random(start, peers[0], rounds=rounds, longest_s=12, moments=moments, farm=farm)
    for victim, living in kills:
        peers[0] = living
        yield victim


if __name__ == "__main__":
    main()
