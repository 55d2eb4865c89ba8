"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from autotune.core.errors import ANOTHER_PATH, StorageError, refused_write, storage_errors


def write_whole(path: Path, build: Callable[[Path], None], *, advice: str = ANOTHER_PATH) -> Path:
    """Let `build` write a file or folder under a temporary name beside `path`, then rename it.

    Missing parent folders are made. What was at `path` is replaced at the end; after a failure it
    is as it was. `advice` ends the error of a place that cannot be written.

    Raises:
        StorageError: the disk is full, the place cannot be written, or `path` is a folder and
            `build` wrote a file.
    """
    temporary = path.with_name(f".{path.name}.part")
    require_writable(temporary, shown=path, advice=advice)
    with storage_errors(path, advice):
        try:
            build(temporary)
            sync(temporary)
            if path.is_dir() and not temporary.is_dir():
                raise StorageError(f"{path} is a folder, and a file is to be written; {advice}")
        except BaseException:
            remove(temporary)
            raise
        if path.is_dir():
            remove(path)
        temporary.replace(path)
        _flush(path.parent)
    return path


def write_text_whole(path: Path, text: str, *, advice: str = ANOTHER_PATH) -> Path:
    """Write `text` in UTF-8; see `write_whole`."""

    def build(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    return write_whole(path, build, advice=advice)


def require_writable(
    temporary: Path, *, shown: Path | None = None, advice: str = ANOTHER_PATH
) -> None:
    """Make the folder of `temporary` and prove that a file of this name can be made there.

    Nothing of that name is left. Errors name `shown`, which is `temporary` by default.

    Raises:
        StorageError: the folder cannot be made, or no file in it.
    """
    try:
        make_folder(temporary.parent, advice)
        remove(temporary)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise refused_write(shown or temporary, error, advice=advice) from error


def make_folder(path: Path, advice: str = ANOTHER_PATH) -> Path:
    """Make a folder with its parents where it is missing.

    Raises:
        StorageError: it cannot be made, or a file is there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused_write(path, error, advice=advice) from error
    return path


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_whole(source: Path, target: Path) -> Path:
    """Copy a file or folder. Into an existing folder it copies file by file, each of them whole.

    Raises:
        StorageError: as `write_whole`.
    """
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
    """Flush a file, or all files of a folder, to the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            _flush(file)


def _flush(path: Path) -> None:
    """Flush one file, or the list of names of one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder with all its content, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
