"""A store that breaks its contract."""

from contextlib import contextmanager

import pytest

from autotune.core.store.base import Store
from autotune.testing.suites.store import StoreSuite


class Leaky(Store):
    what = "leaky database"
    schema = 1

    def migrate(self, connection, found):
        connection.exec_driver_sql("CREATE TABLE leaky (value INTEGER)")

    @contextmanager
    def transaction(self):
        with self._engine.connect() as connection:
            try:
                yield connection
            finally:
                connection.commit()


class TestLeaky(StoreSuite):
    @pytest.fixture
    def open_store(self, tmp_path):
        return lambda: Leaky(tmp_path / "leaky.sqlite")
