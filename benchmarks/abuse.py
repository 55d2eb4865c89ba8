"""What one client can do to a server, without a key and with one, while another client looks on.

    python benchmarks/abuse.py [--only NAME …] [--seconds 60] [--jobs 4000] [--schemathesis 5]

A real server process on this machine, without runners. The attacker, a process of its own, comes
from 127.0.0.2, has at most `--seconds` for each attack, and sends what the attack is named after,
in bounded numbers; the first attack does nothing, and shows the machine as it is. The
other client comes from 127.0.0.1 and reads /healthz, /v1/jobs and a page in turn, each on a new
connection; its worst wait counts. Prints a row for each attack: what became of it, the worst wait,
and the largest memory of the server and of all its processes together. At the end nothing that the
other client had stored may be missing, and SIGTERM must end the server. The last line is one JSON
document; the exit code is 1 if something of that does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from autotune.service.jobs import JobDatabase
from autotune.service.keys import create_key
from tests.autotune.service.browser import Server
from tests.security.attacks import ATTACKS, Target
from tests.security.onlooker import Onlooker

MOST_WAIT_S = 1.0
MOST_MB = 600.0
MOST_END_S = 10.0


def main() -> int:
    """Attack in turn, then look at what is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=sorted([*ATTACKS, "schemathesis"]))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--schemathesis", type=int, default=5, help="Examples of each operation.")
    parser.add_argument("--attack", nargs=3, help=argparse.SUPPRESS)  # name, address, key
    options = parser.parse_args()
    if options.attack:
        name, address, key = options.attack
        target = Target.of(address, key, seconds=options.seconds, jobs=options.jobs)
        print(json.dumps(ATTACKS[name](target)))
        return 0
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    with tempfile.TemporaryDirectory() as scratch:
        record = run(Path(scratch) / "data", options)
    print(json.dumps(record))
    return 0 if record["holds"] else 1


def run(data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All attacks on one server; what they came to."""
    rows: list[dict[str, Any]] = []
    with JobDatabase(data / "jobs.sqlite") as database:
        _, key = create_key(database, "other")
        _, evil = create_key(database, "attacker")
    server = Server(data, "--slots", 0, "--db", data.parent / "latency.sqlite")
    try:
        onlooker = Onlooker(server.address, key, server.process.pid)
        stored = onlooker.store()
        for name in ATTACKS:
            if options.only and name not in options.only:
                continue
            own = (name, server.address, evil)
            found = watched(onlooker, lambda own=own: attacked(own, options))  # type: ignore[misc]
            rows.append({"attack": name, **found})
            show(rows[-1])
        if options.schemathesis and "schemathesis" in (options.only or ["schemathesis"]):
            found = watched(
                onlooker, lambda: fuzzed(server.address, evil, examples=options.schemathesis)
            )
            rows.append({"attack": "schemathesis", **found})
            show(rows[-1])
        lost = onlooker.missing(stored)
        started = time.monotonic()
        server.stop()
        end_s = time.monotonic() - started
    finally:
        if server.process.poll() is None:
            server.kill()
    record = {
        "rows": rows,
        "lost": lost,
        "end_s": round(end_s, 2),
        "worst_wait_s": max(row["worst_wait_s"] for row in rows),
        "server_mb": max(row["server_mb"] for row in rows),
        "failures": sum(row["failures"] for row in rows),
        "server_errors": sum(row["outcome"].get("500", 0) for row in rows),
    }
    record["holds"] = (
        not lost
        and end_s < MOST_END_S
        and record["worst_wait_s"] < MOST_WAIT_S
        and record["server_mb"] < MOST_MB
        and not record["failures"]
        and not record["server_errors"]
    )
    print(f"lost {lost}, ended {end_s:.1f} s after SIGTERM, load {os.getloadavg()[0]:.1f}")
    return record


def attacked(own: tuple[str, str, str], options: argparse.Namespace) -> Counter[str]:
    """One attack in a process of its own: name, address and key."""
    bounds = ("--seconds", str(options.seconds), "--jobs", str(options.jobs))
    command = [sys.executable, __file__, *bounds, "--attack", *own]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{own[0]}: {done.stderr}")
    return Counter(json.loads(done.stdout))


def watched(onlooker: Onlooker, attack: Callable[[], Counter[str]]) -> dict[str, Any]:
    """One attack with somebody looking on."""
    started = time.monotonic()
    with onlooker.looking() as seen:
        outcome = attack()
    return {
        "outcome": dict(outcome),
        "seconds": round(time.monotonic() - started, 1),
        "worst_wait_s": round(max(seen.waits_s), 3),
        "looks": len(seen.waits_s),
        "failures": seen.failures,
        "server_mb": round(seen.server_mb),
        "all_mb": round(seen.all_mb),
    }


def show(row: dict[str, Any]) -> None:
    """One line."""
    outcome = ", ".join(f"{count} {what}" for what, count in sorted(row["outcome"].items()))
    print(
        f"{row['attack']:24s} {row['seconds']:6.1f} s  worst wait {row['worst_wait_s']:.2f} s of "
        f"{row['looks']} ({row['failures']} failed), server {row['server_mb']} MB, all "
        f"{row['all_mb']} MB; {outcome}",
        flush=True,
    )


def fuzzed(address: str, key: str, *, examples: int) -> Counter[str]:
    """Statuses of random requests that the OpenAPI document allows."""
    import hypothesis
    import schemathesis

    found: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {key}"}
    document = schemathesis.openapi.from_url(f"{address}/openapi.json")
    for result in document.exclude(path_regex="/events$").get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        strategy = operation.as_strategy()

        @hypothesis.given(case=strategy)
        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def try_it(case: Any) -> None:
            found[str(case.call(headers=headers, timeout=300).status_code)] += 1

        try_it()
    return found


if __name__ == "__main__":
    sys.exit(main())
