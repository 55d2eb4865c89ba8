"""What one server on this machine carries: pollers, streams, a long queue, large predictions.

    python benchmarks/service_load.py [--clients 200] [--streams 50] [--jobs 10000] [--seconds 60]

A real server process without runners. Jobs are submitted over HTTP; then clients arrive within five
seconds, and each asks once a second for its job or (every tenth) for the list, over one kept
connection each, while streams follow jobs whose progress this program writes into the job database
ten times a second in all. Times are from asking to the last byte. Prints a table; the
last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from autotune.service.job_records import Lease
from autotune.service.jobs import JobDatabase
from tests.autotune.service.browser import serving

SPEC = {"kind": "tune", "spec": {"latency_budget": "0.85x"}}
_ARRIVAL_S = 5.0
SHAPE = {"tokens": 2048, "in_features": 4096, "out_features": 4096}


def main() -> None:
    """Serve, load, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("clients", 200), ("streams", 50), ("jobs", 10_000), ("seconds", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    record: dict[str, Any] = vars(options).copy()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        more = ("--slots", 0, "--db", Path(scratch) / "latency.sqlite")
        with serving(data, *more) as server, JobDatabase(data / "jobs.sqlite") as database:
            ids, record["submit"] = submit_all(server.address, options.jobs)
            leases = claim(database, options.streams)
            stopping = threading.Event()
            writer = threading.Thread(
                target=progress, args=(database, leases), kwargs={"stopping": stopping}
            )
            writer.start()
            try:
                record |= asyncio.run(load(server.address, ids, leases=leases, options=options))
            finally:
                stopping.set()
                writer.join()
            record["predict_1000"] = predict(server.address)
    for name in ("submit", "get", "predict_1000"):
        row = record[name]
        print(
            f"{name:14s} {row['count']:6d} requests, {row['errors']} errors, median "
            f"{row['p50_s'] * 1e3:.1f} ms, p99 {row['p99_s'] * 1e3:.1f} ms"
        )
    print(f"streams        {record['stream_events']} events, {record['stream_errors']} errors")
    print(json.dumps(record))


def figures(seconds: list[float], errors: int = 0) -> dict[str, float]:
    """Count and quantiles."""
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "errors": errors,
        "p50_s": statistics.median(ordered),
        "p99_s": ordered[int(0.99 * (len(ordered) - 1))],
        "max_s": ordered[-1],
    }


def submit_all(address: str, count: int) -> tuple[list[str], dict[str, float]]:
    """Over HTTP, eight at a time."""
    local = threading.local()

    def submit(_: int) -> tuple[str, float]:
        if not hasattr(local, "client"):
            local.client = httpx.Client(base_url=address, timeout=60)
        started = time.perf_counter()
        answer = local.client.post("/v1/jobs", json=SPEC)
        answer.raise_for_status()
        return str(answer.json()["id"]), time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(submit, range(count)))
    row = figures([seconds for _, seconds in found])
    return [job_id for job_id, _ in found], row | {
        "per_second": count / (time.perf_counter() - started)
    }


def claim(database: JobDatabase, count: int) -> list[Lease]:
    """Jobs that this program runs, as far as anybody can see."""
    leases = []
    for _ in range(count):
        job = database.claim("benchmark")
        assert job is not None
        leases.append(Lease(job_id=job.id, runner="benchmark", attempt=job.attempt))
    return leases


def progress(database: JobDatabase, leases: list[Lease], *, stopping: threading.Event) -> None:
    """Ten writes a second, to one job after the other."""
    step = 0
    while not stopping.wait(0.1):
        lease = leases[step % len(leases)]
        step += 1
        database.beat(lease, "measure layers", done=step, total=100_000)
        if step % 5 == 0:
            database.note(lease, "note", text=f"step {step}")


# Plain sockets: a client library takes longer than the server does, and both are on these cores.
async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the server."""
    host, _, port = address.partition("://")[2].partition(":")
    return await asyncio.open_connection(host, int(port))


def ask(writer: asyncio.StreamWriter, path: str) -> None:
    """One request."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, path: str) -> int:
    """The status, once the whole answer is here."""
    ask(writer, path)
    head = await reader.readuntil(b"\r\n\r\n")
    match = re.search(rb"content-length: (\d+)", head.lower())
    assert match is not None, head
    await reader.readexactly(int(match[1]))
    return int(head.split(b" ", 2)[1])


async def load(
    address: str, ids: list[str], *, leases: list[Lease], options: argparse.Namespace
) -> dict[str, Any]:
    """Clients and streams, side by side."""
    end = time.monotonic() + options.seconds
    seconds: list[float] = []
    errors = [0, 0]
    events = [0]

    async def poll(number: int) -> None:
        await asyncio.sleep(_ARRIVAL_S * number / options.clients)
        reader, writer = await connect(address)
        job = ids[(number * 37) % len(ids)]
        path = "/v1/jobs?limit=50" if number % 10 == 0 else f"/v1/jobs/{job}"
        while time.monotonic() < end:
            started = time.perf_counter()
            status = await get(reader, writer, path=path)
            seconds.append(time.perf_counter() - started)
            errors[0] += status != 200
            await asyncio.sleep(max(0.0, 1 - seconds[-1]))
        writer.close()

    async def follow(number: int, lease: Lease) -> None:
        await asyncio.sleep(_ARRIVAL_S * number / len(leases))
        reader, writer = await connect(address)
        ask(writer, f"/v1/jobs/{lease.job_id}/events")
        errors[1] += b" 200 " not in await reader.readline()
        while line := await reader.readline():
            events[0] += line.startswith(b"event:")
        errors[1] += 1  # no job of these ends

    streams = [asyncio.create_task(follow(*each)) for each in enumerate(leases)]
    await asyncio.gather(*(poll(number) for number in range(options.clients)))
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return {
        "get": figures(seconds, errors[0]),
        "stream_events": events[0],
        "stream_errors": errors[1],
    }


def predict(address: str) -> dict[str, float]:
    """A thousand layers a request, each time others.

    The first request of its number of tokens fits the models of that number, and is told apart.
    """
    seconds = []
    with httpx.Client(base_url=address, timeout=120) as client:
        for repeat in range(12):
            shapes = [
                {
                    **SHAPE,
                    "rank": 8 * (1 + i % 250),
                    "out_features": 1024 * (1 + i // 250) + 64 * repeat,
                }
                for i in range(1000)
            ]
            started = time.perf_counter()
            answer = client.post("/v1/predict", json={"device": "h200", "shapes": shapes})
            seconds.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["estimates"]) == 1000
    return figures(seconds[1:]) | {"first_s": seconds[0]}


if __name__ == "__main__":
    main()
