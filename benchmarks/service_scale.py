"""How much of a database a farm takes: the queue's own code, driven by a simulated clock.

    python benchmarks/service_scale.py [--database postgresql://…] [--devices 1000]
        [--jobs-a-day 100000] [--seconds 120] [--heartbeat 1 --heartbeat 5]

Nothing is measured by these devices: each job replays the stages of a recorded one
(recorded_job.json), stretched so that all devices are busy. Every submission, claim, sign of life,
stage and end is the call that the service makes, one after the other on one connection, with
100,000 ended jobs and 2,000 waiting ones in the table. The share of the time that the calls take is
how much of one writer such a farm needs. Prints a table; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from autotune.core.types import canonical_json
from autotune.service.job_ids import new_id
from autotune.service.job_records import Ending, Job, Lease
from autotune.service.job_schema import JOB
from autotune.service.jobs import JobDatabase

_DAY_S = 86_400.0
_RECORDED = json.loads(Path(__file__).with_name("recorded_job.json").read_text())
_SPEC = {"latency_budget": "0.85x"}


def main() -> None:
    """Fill, simulate, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--jobs-a-day", type=int, default=100_000)
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--heartbeat", type=float, action="append")
    options = parser.parse_args()
    rows = []
    for heartbeat_s in options.heartbeat or [1.0, 5.0, 15.0]:
        with tempfile.TemporaryDirectory() as scratch:
            address = options.database or Path(scratch) / "jobs.sqlite"
            with JobDatabase(address) as database:
                row = Simulation(database, options, heartbeat_s=heartbeat_s).run()
        rows.append(row)
        print(
            f"heartbeat {heartbeat_s:4.0f} s: {row['calls_a_second']:.0f} calls a second take "
            f"{100 * row['share']:.0f} % of one writer; "
            + ", ".join(f"{k} {1e3 * v:.2f} ms" for k, v in row["seconds_a_call"].items()),
            flush=True,
        )
    print(json.dumps(rows))


class Simulation:
    """Devices that are always busy, on a clock that only the calls' own seconds do not move."""

    def __init__(
        self, database: JobDatabase, options: argparse.Namespace, *, heartbeat_s: float
    ) -> None:
        self.database, self.options, self.heartbeat_s = database, options, heartbeat_s
        self.duration_s = options.devices * _DAY_S / options.jobs_a_day
        self.spent: dict[str, list[float]] = defaultdict(list)
        self.events: list[tuple[float, int, str, Any]] = []
        self.number = 0

    def at(self, when: float, what: str, *, subject: Any = None) -> None:
        """Let something happen."""
        self.number += 1
        heapq.heappush(self.events, (when, self.number, what, subject))

    def call(self, name: str, *arguments: Any, **more: Any) -> Any:
        """One call of the queue, timed."""
        started = time.perf_counter()
        found = getattr(self.database, name)(*arguments, **more)
        self.spent[name].append(time.perf_counter() - started)
        return found

    def run(self) -> dict[str, Any]:
        """Fill the table, start every device, let the clock run."""
        self.fill()
        for device in range(self.options.devices):
            self.begin(0.0, device, done=random.uniform(0.0, 1.0))
        self.spent.clear()
        self.at(0.0, "submit")
        self.at(0.0, "house")
        while self.events and self.events[0][0] < self.options.seconds:
            now, _, what, subject = heapq.heappop(self.events)
            getattr(self, what)(now, subject)
        calls = {name: len(times) for name, times in self.spent.items()}
        total = sum(sum(times) for times in self.spent.values())
        return {
            "devices": self.options.devices,
            "jobs_a_day": self.options.jobs_a_day,
            "heartbeat_s": self.heartbeat_s,
            "seconds": self.options.seconds,
            "calls": calls,
            "calls_a_second": sum(calls.values()) / self.options.seconds,
            "share": total / self.options.seconds,
            "seconds_a_call": {k: sum(v) / len(v) for k, v in self.spent.items()},
            "slowest_call_s": max(max(times) for times in self.spent.values()),
        }

    def fill(self) -> None:
        """A day's ended jobs, and a queue."""
        base = {
            "kind": "tune",
            "spec": canonical_json(_SPEC),
            "owner": "",
            "device": "cpu",
            "created_at": 0.0,
            "not_before": 0.0,
            "attempt": 1,
            "cancel_requested": 0,
            "stage": "",
            "done": 0,
            "total": 0,
            "revision": 1,
            "events": 0,
            "state": "succeeded",
        }
        for start in range(0, self.options.history, 10_000):
            rows = [{**base, "id": f"0{new_id()[1:12]}{start + i:08x}"} for i in range(10_000)]
            with self.database.transaction() as connection:
                connection.execute(JOB.insert(), rows)
        for _ in range(self.options.devices + 2000):
            self.database.submit("tune", _SPEC, device="cpu")

    def begin(self, now: float, device: int, *, done: float = 0.0) -> None:
        """A device takes the next job, of which a share may be done already."""
        job: Job | None = self.call("claim", f"device-{device}")
        if job is None:
            self.at(now + 0.5, "again", subject=device)
            return
        lease = Lease(job_id=job.id, runner=f"device-{device}", attempt=job.attempt)
        whole, begun = _RECORDED[-1][0], now - done * self.duration_s
        for seconds, stage in _RECORDED:
            when = begun + self.duration_s * seconds / whole
            if when >= now:
                self.at(when, "end" if stage == "end" else "stage", subject=(lease, device, stage))
        self.at(now + random.uniform(0, self.heartbeat_s), "beat", subject=(lease, begun))

    def again(self, now: float, device: int) -> None:
        """A device that found nothing looks again."""
        self.begin(now, device)

    def submit(self, now: float, _: Any) -> None:
        """Somebody submits."""
        self.call("submit", "tune", _SPEC, device="cpu", most_queued=20_000)
        self.at(now + random.expovariate(self.options.jobs_a_day / _DAY_S), "submit")

    def house(self, now: float, _: Any) -> None:
        """Housekeeping, and somebody who looks at the list."""
        self.call("requeue_stale", 1e9, 5)
        self.call("page")
        self.call("counts")
        self.at(now + 5.0, "house")

    def beat(self, now: float, subject: Any) -> None:
        """A sign of life, until the job's end."""
        lease, begun = subject
        if now >= begun + self.duration_s:
            return
        self.call("beat", lease, "measure layers", done=int(now * 10), total=100_000)
        self.at(now + self.heartbeat_s, "beat", subject=subject)

    def stage(self, now: float, subject: Any) -> None:
        """The next stage of a job."""
        del now
        lease, _, name = subject
        self.call("note", lease, "stage", text=name)

    def end(self, now: float, subject: Any) -> None:
        """A result; the device takes the next job."""
        lease, device, _ = subject
        self.call("finish", lease, Ending(exit_code=0, result={"within_budget": True}))
        self.begin(now, device)


if __name__ == "__main__":
    main()
