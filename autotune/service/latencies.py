"""The latency database of a server, opened once and kept open as long as the server runs."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from autotune.core.types import Address
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.database.schema import QUARANTINE, RUN


class Latencies:
    """Keeps the database at an address open. Thread-safe; use as a context manager.

    It is opened when first needed, so that a server starts without it, and again where its file has
    been moved away or replaced.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._store: LatencyDatabase | None = None
        self._file: object = None

    def __enter__(self) -> Latencies:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; it may be called again."""
        with self._lock:
            if self._store is not None:
                self._store.close()
            self._store = None

    def store(self) -> LatencyDatabase:
        """The open database.

        Raises:
            DatabaseError, StorageError: it cannot be opened; see `Store`.
        """
        with self._lock:
            if self._store is not None and self._identity() != self._file:
                self._store.close()
                self._store = None
            if self._store is None:
                self._store = LatencyDatabase(self.address)
                self._file = self._identity()
            return self._store

    def stamp(self) -> object:
        """A value that changes with every point that is added, replaced or put into quarantine.

        Each run carries a seal of its rows that is renewed with them, so the seals stand for all
        points. Only a quarantine leaves them as they are.
        """
        with self.store().transaction() as connection:
            seals = connection.execute(sa.select(RUN.c.id, RUN.c.sha256)).all()
            count = sa.select(sa.func.count()).select_from(QUARANTINE)
            return frozenset(map(tuple, seals)), connection.execute(count).scalar_one()

    def _identity(self) -> object:
        """Which file the address names now; None of a server's database, or where there is none."""
        if isinstance(self.address, Path) or "://" not in self.address:
            with suppress(OSError):
                found = Path(self.address).stat()
                return found.st_dev, found.st_ino
        return None
