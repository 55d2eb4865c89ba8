"""A look into a database without opening it: whether it can hold anything of a device.

To open one brings SQLAlchemy along, which takes longer than most questions about a layer.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from urllib.parse import quote

from autotune.core.types import Address
from autotune.profiler.database.rows import SCHEMA


def may_hold(address: Address, device: str) -> bool:
    """False only of a file without points of the device, or where no file is.

    A server, another schema, or anything that is no such file may hold some: whoever opens it has
    the error, if it is one.
    """
    if not isinstance(address, Path):
        return True
    if not address.exists():
        return False
    try:
        place = f"file:{quote(str(address.absolute()))}?mode=ro"
        with contextlib.closing(sqlite3.connect(place, uri=True)) as connection:
            if connection.execute("PRAGMA user_version").fetchone() != (SCHEMA,):
                return True
            records = connection.execute("SELECT record FROM fingerprint").fetchall()
        return any(json.loads(record)["device"] == device for (record,) in records)
    except (sqlite3.Error, ValueError, TypeError, KeyError):
        return True
