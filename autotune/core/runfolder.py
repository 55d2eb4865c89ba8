"""The output folder of one run: results that appear whole, and a cache keyed by full inputs."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from autotune.core.errors import RunFolderError, option_name, refused_write
from autotune.core.files import remove, write_text_whole, write_whole
from autotune.core.types import canonical_json, digest

_ADVICE = f"set {option_name('output')} to a writable folder"


class RunFolder:
    """`path` with its `.cache`; one process at a time. Use as a context manager.

    A stage is built under a temporary name and renamed when it is complete, so whatever bears a
    final name is whole; a run that was killed finds the finished stages and goes on.

    Raises:
        RunFolderError: not writable, or another process is using it.
        StorageError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cache = path / ".cache"
        self._lock: TextIO | None = None

    def __enter__(self) -> RunFolder:
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            self._lock = (self.cache / "lock").open("w")
        except OSError as error:
            raise refused_write(self.path, error, advice=_ADVICE, kind=RunFolderError) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise RunFolderError(
                f"{self.path} is in use by another autotune process; wait until it ends, or set "
                f"{option_name('output')} to another folder"
            ) from error
        for leftover in self.path.glob(".*.part"):
            remove(leftover)
        for leftover in self.cache.glob(".*.part"):
            remove(leftover)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def write(self, path: Path, build: Callable[[Path], None]) -> Path:
        """Let `build` write a file or folder under a temporary name, then put it at `path`."""
        return write_whole(path, build, advice=_ADVICE)

    def write_text(self, path: Path, text: str) -> Path:
        """Put a file with this text at `path`; see `write`."""
        return write_text_whole(path, text, advice=_ADVICE)

    def stage(
        self, name: str, inputs: Any, *, suffix: str, build: Callable[[Path], None]
    ) -> tuple[Path, bool]:
        """The cached product of `inputs`, built now if it is not there; and whether it was."""
        path = self._entry(name, inputs, suffix=suffix)
        if path.exists():
            return path, True
        return self.write(path, build), False

    def json_stage(
        self,
        name: str,
        inputs: Any,
        *,
        compute: Callable[[], Any],
        keep: Callable[[Any], bool] = lambda value: True,
    ) -> Any:
        """Like `stage`, for a value that is JSON; one that `keep` refuses is not written."""
        path = self._entry(name, inputs, suffix=".json")
        if path.exists():
            return json.loads(path.read_text())
        text = canonical_json(compute())
        value = json.loads(text)
        if keep(value):
            self.write_text(path, text)
        return value

    def _entry(self, name: str, inputs: Any, *, suffix: str) -> Path:
        return self.cache / f"{name}-{digest(inputs)[:16]}{suffix}"
