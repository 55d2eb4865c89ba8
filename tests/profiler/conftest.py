"""Latency databases to test with: SQLite files, and a PostgreSQL server of Debian's packages."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.profiler.database import LatencyDatabase


def _program(name: str) -> Path | None:
    """Debian keeps the server's programs out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [folder / name for folder in folders if (folder / name).is_file()]
    return found[0] if found else Path(there) if (there := shutil.which(name)) else None


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server on a free port, without its database's name."""
    initdb, control = _program("initdb"), _program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("needs PostgreSQL: apt install postgresql")
    # The server refuses to run as root, and its own user cannot enter root's folders.
    root = os.geteuid() == 0
    user = "postgres" if root else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path("/tmp", f"autotune-{uuid.uuid4().hex}") if root else tmp_path_factory.mktemp("pg")
    folder.mkdir(exist_ok=True)
    if root:
        shutil.chown(folder, user)

    def call(*command: object) -> None:
        as_user = {"user": user, "group": user, "cwd": folder} if root else {}
        log = folder / "log"
        subprocess.run(
            [*map(str, command)], check=True, stdout=subprocess.DEVNULL, timeout=120,
            env={**os.environ, "HOME": str(folder), "LC_ALL": "C", "PGLOG": str(log)}, **as_user,
        )  # fmt: skip

    port = _free_port()
    data = folder / "data"
    call(initdb, "-D", data, "-U", "autotune", "--auth=trust", "--no-sync", "-E", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    call(control, "-D", data, "-w", "-l", folder / "server.log", "-o", options, "start")
    try:
        yield f"postgresql://autotune@127.0.0.1:{port}"
    finally:
        call(control, "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[LatencyDatabase]:
    """An empty file."""
    with LatencyDatabase(tmp_path / "db" / "latency.sqlite") as store:
        yield store


@pytest.fixture
def postgres_database(postgres: str) -> Iterator[LatencyDatabase]:
    """An empty database of the server."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    with LatencyDatabase(f"{postgres}/{name}") as store:
        yield store


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> LatencyDatabase:
    """One of each kind: what holds for the one holds for the other."""
    store: LatencyDatabase = request.getfixturevalue(f"{request.param}_database")
    return store
