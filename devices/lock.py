"""One measurement at a time on a device: two would disturb each other, whoever started them."""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOG = logging.getLogger(__name__)


def lock_file(kind: str) -> Path:
    """The lock of this machine's devices of a kind, in `$AUTOTUNE_LOCKS`, else the temp folder."""
    folder = Path(os.environ.get("AUTOTUNE_LOCKS") or tempfile.gettempdir())
    return folder / f"autotune-{getpass.getuser()}-{kind}.lock"


@contextmanager
def device_lock(kind: str) -> Iterator[None]:
    """Hold the device alone; waits, and says so, while someone else measures on it.

    The lock goes with the process: one that is killed leaves nothing behind.
    """
    path = lock_file(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning("waiting for another measurement on this %s to end (%s)", kind, path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
