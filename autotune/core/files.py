"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from autotune.core.errors import storage_errors


def write_whole(path: Path, build: Callable[[Path], None]) -> Path:
    """Let `build` write a file or folder under a temporary name beside it, then put it at `path`.

    What was there is replaced at the end; after a failure it is as it was.

    Raises:
        StorageError: the disk is full.
        RunFolderError: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        try:
            build(temporary)
            sync(temporary)
        except BaseException:
            remove(temporary)
            raise
        if path.is_dir():
            remove(path)
        temporary.replace(path)
        _flush(path.parent)
    return path


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_whole(source: Path, target: Path) -> Path:
    """Copy a file or folder; into a folder that is there, file by file, each of them whole."""
    if not source.is_dir():
        return write_whole(target, lambda path: _copy_file(source, path))
    if not target.is_dir():
        return write_whole(target, lambda path: _copy_folder(source, path))
    for file in sorted(source.rglob("*")):
        if file.is_file():
            copy_whole(file, target / file.relative_to(source))
    return target


def _copy_file(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def _copy_folder(source: Path, path: Path) -> None:
    shutil.copytree(source, path)


def sync(path: Path) -> None:
    """Flush a file, or a folder's files, to the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            _flush(file)


def _flush(path: Path) -> None:
    """Flush what the system holds of one file, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """The file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
