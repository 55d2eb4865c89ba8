"""Folders that only their user may enter, at names that others could have taken before."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from autotune.core.errors import StorageError, refused_write

_PRIVATE = 0o700


def private_folder(path: Path) -> Path:
    """Make `path` a folder of this user that nobody else may enter, if it is not one yet.

    Raises:
        StorageError: it cannot be made, or is a link or another user's.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            path.mkdir(mode=_PRIVATE, exist_ok=True)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            if stat.S_IMODE(found.st_mode) != _PRIVATE:
                path.chmod(_PRIVATE)
            return path
    except OSError as error:
        raise refused_write(path, error) from error
    raise StorageError(
        f"{path} must be a folder of this user, but is a link, a file or another user's; remove it "
        "or set TMPDIR to a folder of your own"
    )
