"""A PostgreSQL server of Debian's packages, for tests."""

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

# How many ports are tried: each was free when it was chosen.
_PORTS = 3


def _program(name: str) -> Path | None:
    """Debian keeps the server's programs out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [folder / name for folder in folders if (folder / name).is_file()]
    return found[0] if found else Path(there) if (there := shutil.which(name)) else None


def free_port() -> int:
    """One that nobody uses now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """A server on a free port with data of its own. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        initdb, control = _program("initdb"), _program("pg_ctl")
        if initdb is None or control is None:
            pytest.skip("needs PostgreSQL: apt install postgresql")
        # The server refuses to run as root, and its own user cannot enter root's folders.
        root = os.geteuid() == 0
        user = "postgres" if root else pwd.getpwuid(os.geteuid()).pw_name
        self.folder = Path("/tmp", f"autotune-{uuid.uuid4().hex}") if root else folder
        self.folder.mkdir(exist_ok=True)
        if root:
            shutil.chown(self.folder, user)
        self._as_user = {"user": user, "group": user, "cwd": self.folder} if root else {}
        self._control = control
        self.port = free_port()
        data = self.folder / "data"
        self._call(initdb, "-D", data, "-U", "autotune", "--auth=trust", "--no-sync", "-E", "UTF8")

    def __enter__(self) -> PostgresServer:
        for attempt in range(_PORTS):
            try:
                self.start()
                break
            except subprocess.CalledProcessError:  # somebody took the port in the meantime
                if attempt + 1 == _PORTS:
                    raise
                self.port = free_port()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """The server's, without a database."""
        return f"postgresql://autotune@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Until it answers."""
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        )
        data, log = self.folder / "data", self.folder / "server.log"
        self._call(self._control, "-D", data, "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """At once, as a power cut would."""
        self._call(self._control, "-D", self.folder / "data", "-m", "immediate", "stop")

    def new_database(self) -> str:
        """URL of an empty one."""
        import psycopg

        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(f"{self.url}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{self.url}/{name}"

    def _call(self, *command: object) -> None:
        home = {"HOME": str(self.folder), "LC_ALL": "C", "PGLOG": str(self.folder / "log")}
        subprocess.run(
            [*map(str, command)],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=300,
            env={**os.environ, **home},
            **self._as_user,
        )


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One for all tests of a worker."""
    with PostgresServer(tmp_path_factory.mktemp("pg")) as server:
        yield server
