"""Latency databases to test with: SQLite files, and a PostgreSQL server of Debian's packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.profiler.database.latency import LatencyDatabase
from tests.postgres import PostgresServer


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[LatencyDatabase]:
    """An empty file."""
    with LatencyDatabase(tmp_path / "db" / "latency.sqlite") as store:
        yield store


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[LatencyDatabase]:
    """An empty database of the server."""
    with LatencyDatabase(postgres_server.new_database()) as store:
        yield store


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> LatencyDatabase:
    """One of each kind: what holds for the one holds for the other."""
    store: LatencyDatabase = request.getfixturevalue(f"{request.param}_database")
    return store
