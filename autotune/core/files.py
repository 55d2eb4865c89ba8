"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from autotune.core.errors import ANOTHER_PATH, StorageError, refused_write, storage_errors

PARTIAL = ".autotune.part"  # ends the names of what is being written; nobody else's end so


def partial_path(path: Path) -> Path:
    """Where what will be at `path` is written until it is complete."""
    return path.with_name(f".{path.name}{PARTIAL}")


def write_whole(
    path: Path,
    build: Callable[[Path], None],
    *,
    advice: str = ANOTHER_PATH,
    new: bool = False,
    private: bool = False,
) -> Path:
    """Let `build` write a file or folder under a temporary name beside `path`, then rename it.

    Missing parent folders are made. What was at `path` is replaced at the end, through a symbolic
    link; with `new`, nothing is. After a failure it is as it was. Files get the permissions that
    the umask leaves, whatever `build` gave them; with `private`, those that it gave them. `advice`
    ends the error of a place that cannot be written.

    Raises:
        StorageError: the disk is full, the place cannot be written, `path` is a folder and `build`
            wrote a file, or `new` and something is there.
    """
    real = path
    with storage_errors(path, advice):
        if not new and path.is_symlink():
            real = path.resolve()
    temporary = partial_path(real)
    mode = require_writable(temporary, shown=path, advice=advice)
    with storage_errors(path, advice):
        try:
            build(temporary)
            if not private:
                _set_mode(temporary, mode)
            sync(temporary)
            if real.is_dir() and not temporary.is_dir():
                raise StorageError(f"{path} is a folder, and a file is to be written; {advice}")
            if new and os.path.lexists(real):
                raise StorageError(f"{path} exists by now, and was not replaced; {advice}")
        except BaseException:
            remove(temporary)
            raise
        if real.is_dir():
            remove(real)
        temporary.replace(real)
        _flush(real.parent)
    return path


def write_text_whole(path: Path, text: str, *, advice: str = ANOTHER_PATH) -> Path:
    """Write `text` in UTF-8; see `write_whole`."""

    def build(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    return write_whole(path, build, advice=advice)


def require_writable(
    temporary: Path, *, shown: Path | None = None, advice: str = ANOTHER_PATH
) -> int:
    """Make the folder of `temporary` and prove that a file of this name can be made there.

    Nothing of that name is left. Errors name `shown`, which is `temporary` by default.

    Returns:
        The permissions that a new file gets there.

    Raises:
        StorageError: the folder cannot be made, or no file in it.
    """
    try:
        make_folder(temporary.parent, advice)
        remove(temporary)
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        temporary.unlink()
    except OSError as error:
        raise refused_write(shown or temporary, error, advice=advice) from error
    return mode


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


def files_of(path: Path) -> list[Path]:
    """A file itself, or everything in a folder that is no folder, sorted."""
    if path.is_symlink() or not path.is_dir():
        return [path] if os.path.lexists(path) else []
    return sorted(each for each in path.rglob("*") if each.is_symlink() or not each.is_dir())


def sync(path: Path) -> None:
    """Flush a file, or all files of a folder, to the disk."""
    for file in files_of(path):
        if file.is_file():
            _flush(file)


def _set_mode(path: Path, mode: int) -> None:
    """Give files the same permissions: some libraries write for their owner only."""
    for file in files_of(path):
        if not file.is_symlink():
            file.chmod(mode)


def _flush(path: Path) -> None:
    """Flush one file, or the list of names of one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a symbolic link, or a folder with all its content, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
