"""Files of uploads while they arrive: locked, counted before they are written, renamed whole."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from autotune.service.errors import ConflictError, TooLargeError
from autotune.service.job_files import folder_bytes

_LOCK = ".lock"
_SUFFIX = ".part"


@dataclass(frozen=True, kw_only=True)
class Share:
    """The bytes that one user's uploads may have; `owned` lists their folders."""

    most: int
    owned: Callable[[], Iterable[Path]]


class Part:
    """A file that arrives under a temporary name. Use as a context manager; all methods block.

    The kernel's lock on it lasts as long as its server, so that a part without a lock is one that
    nobody will finish. Its size is what may still come, so that all servers count it.

    Raises:
        ConflictError: the file is there, or somebody else is uploading it.
    """

    def __init__(self, folder: Path, file: str) -> None:
        self.folder, self.target = folder, folder / file
        self.path = self.target.with_name(f".{self.target.name}{_SUFFIX}")
        self.written = 0
        self._published = False
        try:
            if self.target.parent != folder:  # of a module
                self.target.parent.mkdir(exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            raise _deleted(folder) from None
        try:
            if not _locked(self._file) or not _same_file(self._file, self.path):
                raise ConflictError(f"{file} is being uploaded by somebody else")
            if self.target.exists():
                self.path.unlink(missing_ok=True)
                raise ConflictError(
                    f"{folder.name} already has {file}; upload under another model name"
                )
            os.ftruncate(self._file, 0)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the part, unless it has become the file."""
        if not self._published and _same_file(self._file, self.path):
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def reserve(self, size: int, *, uploads: Path, most: int, share: Share | None = None) -> None:
        """Count `size` bytes of the file, before they come.

        Raises:
            TooLargeError: the files below `uploads` would have more than `most` bytes, or those of
                the user more than the user's share.
        """
        with alone(uploads):
            mine = os.fstat(self._file).st_size
            left = {"all uploads": most - folder_bytes(uploads)}
            if share is not None:
                left["your uploads"] = share.most - sum(map(folder_bytes, share.owned()))
            for whose, others in left.items():
                if size > mine + others:
                    raise TooLargeError(
                        f"limit reached: the file is larger than {max(mine + others, 0)} bytes, "
                        f"which is what {whose} together have left; delete uploads that are no "
                        "longer used"
                    )
            os.ftruncate(self._file, size)

    @property
    def reserved(self) -> int:
        """Bytes of the file that count against the quota, written or not."""
        return os.fstat(self._file).st_size

    def write(self, chunk: bytes) -> None:
        """Append to what was written."""
        view = memoryview(chunk)
        while view:
            done = os.pwrite(self._file, view, self.written)
            self.written += done
            view = view[done:]

    def complete(self) -> None:
        """Nothing follows: the file has the size that was written, and is on the disk."""
        os.ftruncate(self._file, self.written)
        os.fsync(self._file)

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            ConflictError: its folder was deleted meanwhile.
        """
        if not _same_file(self._file, self.path):
            raise _deleted(self.folder)
        self.path.rename(self.target)
        self._published = True


def _deleted(folder: Path) -> ConflictError:
    return ConflictError(f"{folder.name} was deleted during the upload; upload it again")


def remove_dead_parts(uploads: Path) -> list[Path]:
    """Remove the parts that a server left behind when it was killed."""
    found = []
    for path in (*uploads.glob(f"*/.*{_SUFFIX}"), *uploads.glob(f"*/*/.*{_SUFFIX}")):
        with suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _locked(file):
                    path.unlink()
                    found.append(path)
            finally:
                os.close(file)
    return found


def _locked(file: int) -> bool:
    """Whether this process has the lock of the file now; it ends when the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(file: int, path: Path) -> bool:
    """Whether the open file still has the name: whoever found it dead may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


@contextmanager
def alone(uploads: Path) -> Iterator[None]:
    """One change of sizes or names at a time, of all servers that share the folder."""
    file = os.open(uploads / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
