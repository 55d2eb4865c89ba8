"""Nothing that tests write must outlive a loss of power, so nothing waits for the disk.

What a killed process has written stays with the system, flushed or not. Two busy workers that wait
for one disk take twice as long.
"""

import os
import sqlite3
from typing import Any

import sqlalchemy as sa


def do_without() -> None:
    """Of this process and those that are forked from it; SQLite flushes at every commit."""
    os.fsync = _ignore
    if not sa.event.contains(sa.Engine, "connect", _configure):
        sa.event.listen(sa.Engine, "connect", _configure)


def _ignore(_descriptor: int) -> None: ...


def _configure(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")
