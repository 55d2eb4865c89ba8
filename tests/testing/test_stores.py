"""The suite for every kind of database, on SQLite and PostgreSQL."""

import pytest

from autotune.profiler.database.latency import LatencyDatabase
from autotune.service.jobs import JobDatabase
from autotune.testing.suites.store import StoreSuite


class TestStores(StoreSuite):
    @pytest.fixture(params=[LatencyDatabase, JobDatabase], ids=lambda kind: kind.what)
    def kind(self, request):
        return request.param

    @pytest.fixture(params=["sqlite", "postgres"])
    def open_store(self, request, kind, tmp_path):
        if request.param == "sqlite":
            address = tmp_path / "folder" / "store.sqlite"
        else:
            address = request.getfixturevalue("postgres_server").new_database()
        return lambda: kind(address)
