"""The output folder of one run: results that appear whole, and a cache keyed by full inputs."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from autotune.core.checksums import Checksums, checksum_file
from autotune.core.errors import RunFolderBusyError, RunFolderError, option_name, refused_write
from autotune.core.files import PARTIAL, remove, write_text_whole, write_whole
from autotune.core.lockfile import open_lock_file
from autotune.core.types import canonical_json, digest

CACHE = ".cache"
ADVICE = f"set {option_name('output')} to a writable folder"
# What killed runs left behind; the second form is that of earlier versions, for entries of a cache.
_LEFTOVER = re.compile(rf"\..+{re.escape(PARTIAL)}|\.[a-z-]+-[0-9a-f]{{16}}(\.[a-z]+)?\.part")


def _say_nothing(_: str) -> None: ...


def _write_text(path: Path, *, text: str) -> None:
    path.write_text(text)


class RunFolder:
    """`path` with its `.cache`; one process at a time. Use as a context manager.

    A stage is built under a temporary name and renamed when it is complete, so whatever bears a
    final name is whole; a run that was killed finds the finished stages and goes on. Each entry of
    the cache has its sha256 beside it, which is compared before the entry is used: what differs, or
    has none, is named to `note` and built again.

    Raises:
        RunFolderError: not writable.
        RunFolderBusyError: another process is using it.
        StorageError: the disk is full.
    """

    def __init__(self, path: Path, *, note: Callable[[str], None] = _say_nothing) -> None:
        self.path = path
        self.cache = path / CACHE
        self._note = note
        self._checksums = Checksums()
        self._lock: TextIO | None = None

    def __enter__(self) -> RunFolder:
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            self._lock = os.fdopen(open_lock_file(self.cache / "lock"), "a")
        except OSError as error:
            raise refused_write(self.path, error, advice=ADVICE, kind=RunFolderError) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise RunFolderBusyError(
                f"{self.path} is in use by another autotune process; wait until it ends, or set "
                f"{option_name('output')} to another folder"
            ) from error
        for leftover in (*self.path.glob(".*.part"), *self.cache.glob(".*.part")):
            if _LEFTOVER.fullmatch(leftover.name):
                remove(leftover)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def write(self, path: Path, build: Callable[[Path], None]) -> Path:
        """Let `build` write a file or folder under a temporary name, then put it at `path`."""
        return write_whole(path, build, advice=ADVICE)

    def write_text(self, path: Path, text: str) -> Path:
        """Put a file with this text at `path`; see `write`."""
        return write_text_whole(path, text, advice=ADVICE)

    def stage(
        self, name: str, inputs: Any, *, suffix: str, build: Callable[[Path], None]
    ) -> tuple[Path, bool]:
        """The cached product of `inputs`, built now if it is not there; and whether it was."""
        path = self._entry(name, inputs, suffix=suffix)
        if self.is_kept(path):
            return path, True
        return self._keep(path, build), False

    def _keep(self, path: Path, build: Callable[[Path], None]) -> Path:
        def build_with_checksums(part: Path) -> None:
            build(part)
            # Before the entry has its name: where an entry is, its checksums are.
            self._checksums.write(path, written=part)

        try:
            return self.write(path, build_with_checksums)
        except BaseException:
            checksum_file(path).unlink(missing_ok=True)
            raise

    def is_kept(self, path: Path) -> bool:
        """Whether an entry of the cache is there as it was written; a damaged one is removed."""
        if not (path.exists() or path.is_symlink()):
            return False
        problem = self._checksums.damage(path)
        if problem:
            self._note(f"{path} {problem}; it is made again")
            remove(path)
            checksum_file(path).unlink(missing_ok=True)
        return not problem

    def json_stage(
        self,
        name: str,
        inputs: Any,
        *,
        compute: Callable[[], Any],
        reuse: Callable[[Any], bool] = lambda value: True,
    ) -> Any:
        """Like `stage`, for a value that is JSON; one that `reuse` refuses is computed again."""
        path = self._entry(name, inputs, suffix=".json")
        if self.is_kept(path) and reuse(value := json.loads(path.read_text())):
            return value
        text = canonical_json(compute())
        self._keep(path, partial(_write_text, text=text))
        return json.loads(text)

    def _entry(self, name: str, inputs: Any, *, suffix: str) -> Path:
        return self.cache / f"{name}-{digest(inputs)[:16]}{suffix}"
