"""The client that looks on while another one attacks (benchmarks/abuse.py)."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.autotune.service.processes import descendants

_PATHS = ("/healthz", "/v1/jobs", "/devices")
_PAUSE_S = 0.05
_PATIENCE_S = 60.0


@dataclass
class Seen:
    """What somebody saw who looked on: waits in seconds, failed requests, the largest memory."""

    waits_s: list[float] = field(default_factory=lambda: [0.0])
    failures: int = 0
    server_mb: float = 0.0
    all_mb: float = 0.0


class Onlooker:
    """A user with a key, who reads in turn from a server."""

    def __init__(self, address: str, key: str, pid: int) -> None:
        self.host, _, port = address.partition("://")[2].partition(":")
        self.port, self.key, self.pid = int(port), key, pid

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body, on a new connection."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_PATIENCE_S)
        try:
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def store(self) -> dict[str, Any]:
        """A job and an upload that must still be there at the end; every page is warm then."""
        for path in _PATHS:
            assert self.ask("GET", path)[0] == 200
        job = json.dumps({"kind": "tune", "spec": {"latency_budget": "0.9x"}}).encode()
        status, answer = self.ask("POST", "/v1/jobs", job)
        assert status == 201, answer
        status, _ = self.ask("PUT", "/v1/models/mine/config.json", b'{"mine": true}')
        assert status == 201
        return dict(json.loads(answer))

    def missing(self, job: dict[str, Any]) -> list[str]:
        """What is no longer as it was stored."""
        found = []
        if json.loads(self.ask("GET", f"/v1/jobs/{job['id']}")[1]) != job:
            found.append("the job")
        models = json.loads(self.ask("GET", "/v1/models")[1])
        if {"name": "upload:mine", "files": {"config.json": 14}} not in models:
            found.append("the upload")
        return found

    @contextmanager
    def looking(self) -> Iterator[Seen]:
        """Read, and weigh the server, until the end of the block."""
        seen, stopping = Seen(), threading.Event()
        threads = [
            threading.Thread(target=work, args=(seen, stopping))
            for work in (self._read, self._weigh)
        ]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

    def _read(self, seen: Seen, stopping: threading.Event) -> None:
        while not stopping.is_set():
            for path in _PATHS:
                started = time.monotonic()
                try:
                    good = self.ask("GET", path)[0] == 200
                except OSError:
                    good = False
                seen.waits_s.append(time.monotonic() - started)
                seen.failures += not good
            stopping.wait(_PAUSE_S)

    def _weigh(self, seen: Seen, stopping: threading.Event) -> None:
        while not stopping.wait(0.5):
            own = memory_mb(self.pid)
            below = sum(memory_mb(pid) for pid in descendants(self.pid))
            seen.server_mb = max(seen.server_mb, own)
            seen.all_mb = max(seen.all_mb, own + below)


def memory_mb(pid: int) -> float:
    """Resident memory of a process; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
    return 0.0
