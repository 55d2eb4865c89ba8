"""The attacks of benchmarks/abuse.py: from 127.0.0.2, bounded in number and time, loopback only."""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

STRANGER = "127.0.0.2"
_PATIENCE_S = 20.0
Outcome = Counter[str]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server on this machine, the attacker's key for it, and the bounds of an attack."""

    port: int
    key: str
    seconds: float
    jobs: int

    @staticmethod
    def of(address: str, key: str, *, seconds: float, jobs: int) -> Target:
        """The server at `http://127.0.0.1:PORT`."""
        host, _, port = address.partition("://")[2].partition(":")
        assert host == "127.0.0.1", f"{host} is not this machine"
        return Target(port=int(port), key=key, seconds=seconds, jobs=jobs)

    def connect(self) -> socket.socket:
        """A connection from the attacker's address."""
        found = socket.socket()
        found.settimeout(_PATIENCE_S)
        found.bind((STRANGER, 0))
        found.connect(("127.0.0.1", self.port))
        return found

    def ask(self, method: str, path: str, body: bytes = b"", *, key: bool = True) -> str:
        """The status of an answer, or how there was none."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=_PATIENCE_S, source_address=(STRANGER, 0)
        )
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except TimeoutError:
            return "no answer"
        except (OSError, http.client.HTTPException):
            return "disconnected"
        finally:
            connection.close()

    def many(self, count: int, work: Callable[[int], str], *, at_once: int = 45) -> Outcome:
        """Do something so often, several at once, until the time is over."""
        deadline = time.monotonic() + self.seconds

        def one(number: int) -> str:
            return work(number) if time.monotonic() < deadline else "not tried"

        with ThreadPoolExecutor(at_once) as pool:
            return Counter(pool.map(one, range(count)))


def nothing(target: Target) -> Outcome:
    """No attack: what the other client waits on this machine as it is."""
    time.sleep(min(target.seconds, 20.0))
    return Counter()


def endless_head(target: Target) -> Outcome:
    """One head of 100 MB on one connection: as one value, then as many fields."""
    found = Counter[str]()
    fields = b"".join(b"X%d: y\r\n" % number for number in range(6000))
    for block in (b"A" * 65536, fields):
        deadline = time.monotonic() + target.seconds / 2
        sent = 0
        with target.connect() as connection, suppress(OSError):  # it is cut off
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            while sent < 100_000_000 and time.monotonic() < deadline:
                connection.sendall(block)
                sent += len(block)
        found["MB taken"] += sent // 1_000_000
    return found


def half_heads(target: Target) -> Outcome:
    """1,000 connections with half a head, and 1,000 that say nothing."""
    return held(target, 2000, lambda number: b"GET / HTTP/1.1\r\nX: " if number % 2 else b"")


def slow_bodies(target: Target) -> Outcome:
    """500 bodies of 0.9 MB of which the last byte does not come, without a key and with it."""
    keys = ("", f"Authorization: Bearer {target.key}\r\n")

    def start(number: int) -> bytes:
        head = (
            f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n{keys[number % 2]}"
            "Content-Type: application/json\r\nContent-Length: 900001\r\n\r\n"
        )
        return head.encode() + b" " * 900_000

    return held(target, 500, start)


def held(target: Target, count: int, start: Callable[[int], bytes]) -> Outcome:
    """Open connections, send their start, and see what becomes of them within the time."""
    opened, found = [], Counter[str]()
    deadline = time.monotonic() + min(target.seconds, 45.0)
    try:
        for number in range(count):
            try:
                opened.append(target.connect())
                opened[-1].settimeout(2.0)
                opened[-1].sendall(start(number))
            except OSError:
                found["refused at once"] += 1
            if time.monotonic() > deadline:
                break
        found["opened"] = len(opened)
        waiting = list(opened)
        while waiting and time.monotonic() < deadline:
            time.sleep(0.5)
            waiting = [one for one in waiting if not ended(one)]
        found["left open"] = len(waiting)
    finally:
        for one in opened:
            one.close()
    return found


def ended(connection: socket.socket) -> bool:
    """Whether the server has answered or closed a connection."""
    connection.setblocking(False)
    try:
        connection.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def predictions(target: Target) -> Outcome:
    """45 predictions of 1,000 layers at once: all different, and of a few numbers of tokens."""
    draw = random.Random(0)

    def body(number: int) -> bytes:
        few = number % 2
        shapes = [
            {
                "tokens": draw.choice((1, 16, 128, 2048)) if few else draw.randint(1, 65536),
                "in_features": 32 * draw.randint(1, 5 if few else 512),
                "out_features": 32 * draw.randint(1, 5 if few else 512),
                "rank": draw.randint(1, 16),
            }
            for _ in range(1000)
        ]
        return json.dumps({"device": "h200", "shapes": shapes}).encode()

    return target.many(45, lambda number: target.ask("POST", "/v1/predict", body(number)))


def uploads(target: Target) -> Outcome:
    """Headers of weights and tokenizers as large, and as dear to read, as they may be."""
    tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"t{number}": tensor for number in range(150_000)}).encode()
    weights = struct.pack("<Q", len(text)) + text
    lists = b"[" + b"[]," * 15_900_000 + b"[]]"
    objects = b"[" + b"{}," * 15_900_000 + b"{}]"
    files = [
        ("model.safetensors", weights),
        ("model.safetensors", struct.pack("<Q", 9_900_000) + b" " * 9_900_000),
        ("tokenizer.json", lists),
        ("tokenizer.json", objects),
        ("tokenizer.json", b"[" * 40_000_000),
        ("config.json", b"[" + b"0," * 1_900_000 + b"0]"),
    ]

    def put(number: int) -> str:
        name, body = files[number % len(files)]
        return target.ask("PUT", f"/v1/models/evil{number}/{name}", body)

    return target.many(12, put, at_once=6)


def wrong_fields(target: Target) -> Outcome:
    """Bodies of up to 1 MB in which every field is wrong."""
    few, many = (
        b'{"kind":"tune","spec":{' + b",".join(b'"%x":1' % i for i in range(count)) + b"}}"
        for count in (9_000, 90_000)
    )
    return target.many(
        60, lambda number: target.ask("POST", "/v1/jobs", few if number % 2 else many), at_once=20
    )


def streams(target: Target) -> Outcome:
    """1,500 event streams of one user."""
    body = json.dumps({"kind": "tune", "spec": {"latency_budget": "1x"}}).encode()
    target.ask("POST", "/v1/jobs", body)
    found, opened = Counter[str](), []
    connection = http.client.HTTPConnection(
        "127.0.0.1", target.port, timeout=_PATIENCE_S, source_address=(STRANGER, 0)
    )
    headers = {"Authorization": f"Bearer {target.key}"}
    connection.request("GET", "/v1/jobs?limit=1", headers=headers)
    job_id = json.loads(connection.getresponse().read())["jobs"][0]["id"]
    connection.close()
    head = (
        f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {target.key}\r\n\r\n"
    )
    deadline = time.monotonic() + target.seconds
    try:
        for _ in range(1500):
            if time.monotonic() > deadline:
                break
            try:
                one = target.connect()
                opened.append(one)
                one.sendall(head.encode())
                found[one.recv(12)[9:].decode() or "disconnected"] += 1
            except OSError:
                found["disconnected"] += 1
    finally:
        for one in opened:
            one.close()
    return found


def jobs(target: Target) -> Outcome:
    """Thousands of jobs with long fields, as fast as they are taken."""
    text = "x" * 480
    spec = {"latency_budget": "1x", "targets": [text] * 18, "ignore": [text] * 18}
    body = json.dumps({"kind": "tune", "spec": spec}).encode()
    return target.many(target.jobs, lambda _: target.ask("POST", "/v1/jobs", body), at_once=20)


def without_a_key(target: Target) -> Outcome:
    """Everything that has a body, without a key."""
    paths = [("POST", "/v1/jobs"), ("POST", "/v1/predict"), ("PUT", "/v1/models/a/config.json")]

    def ask(number: int) -> str:
        method, path = paths[number % 3]
        return target.ask(method, path, b" " * 900_000, key=False)

    return target.many(600, ask)


ATTACKS: dict[str, Callable[[Target], Outcome]] = {
    work.__name__.replace("_", "-"): work
    for work in (
        nothing,
        endless_head,
        half_heads,
        slow_bodies,
        without_a_key,
        wrong_fields,
        predictions,
        uploads,
        streams,
        jobs,
    )
}
