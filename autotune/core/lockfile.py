"""Opening a file to lock it, in a folder where others may have put something else of that name.

Opening a FIFO waits for its other end, a symbolic link leads to somebody else's file, and a hard
link is one: what is locked is always a regular file, and what is written has a single name.
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
        OSError: it cannot be created or opened, or there is something else than a regular file with
            a single name.
    """
    descriptor = _regular(os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666))
    if has_single_name(descriptor):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EEXIST, "the lock file has several names")


def open_existing(path: Path) -> int:
    """A descriptor of an existing lock file: for writing where that is allowed, else for reading.

    Without O_CREAT, which the kernel forbids on another user's file in a shared folder. Whoever may
    write the file can give it further names while it is locked, so they are no reason to refuse it:
    locking changes nothing in it. What writes to it asks `has_single_name` first.

    Raises:
        OSError: it is not there, or cannot be opened, or is no regular file.
    """
    try:
        return _regular(os.open(path, os.O_RDWR | _FLAGS))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _regular(os.open(path, os.O_RDONLY | _FLAGS))


def create_for_all(path: Path) -> int:
    """A descriptor of a new lock file that every user may lock, whatever the umask.

    Raises:
        OSError: it exists already, or cannot be created.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
    os.fchmod(descriptor, 0o666)
    return descriptor


def has_single_name(descriptor: int) -> bool:
    """Whether the file has no name elsewhere, under which its content may be of use to somebody."""
    return os.fstat(descriptor).st_nlink <= 1


def _regular(descriptor: int) -> int:
    """The descriptor, if it is of a regular file; else it is closed.

    Raises:
        OSError: it is of something else.
    """
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EEXIST, "the lock file is no regular file")
