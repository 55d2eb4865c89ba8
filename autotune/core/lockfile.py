"""Opening a file to lock it, in a folder where others may have put something else of that name.

Opening a FIFO waits for its other end, a link leads to somebody else's file, and a hard link is
one: what is locked is always a regular file with a single name.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_lock_file(path: Path) -> int:
    """A descriptor of the file at `path`, which is created if there is nothing; it never waits.

    Raises:
        OSError: it cannot be created or opened, or there is something else than a regular file.
    """
    return checked(os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666))


def open_existing(path: Path) -> int:
    """A descriptor of an existing lock file: for writing where that is allowed, else for reading.

    Without O_CREAT, which the kernel forbids on another user's file in a shared folder.

    Raises:
        OSError: it is not there, or cannot be opened, or is no regular file.
    """
    try:
        return checked(os.open(path, os.O_RDWR | _FLAGS))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return checked(os.open(path, os.O_RDONLY | _FLAGS))


def create_for_all(path: Path) -> int:
    """A descriptor of a new lock file that every user may lock, whatever the umask.

    Raises:
        OSError: it exists already, or cannot be created.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
    os.fchmod(descriptor, 0o666)
    return descriptor


def checked(descriptor: int) -> int:
    """The descriptor, if it is of a regular file with one name; else it is closed.

    Raises:
        OSError: it is of something else.
    """
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EEXIST, "the lock file is no regular file")
