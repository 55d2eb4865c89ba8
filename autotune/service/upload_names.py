"""The names of uploaded models: each belongs to the user who took it first.

The owner's mark is there before the folder of the model and goes after it, so that a mark without a
folder counts for nothing. Callers hold the lock of the uploads (`upload_parts.alone`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from autotune.core.errors import storage_errors
from autotune.service.errors import ConflictError
from autotune.service.upload_parts import alone


def claim(uploads: Path, name: str, *, owner: str) -> None:
    """Make the folder of a model the caller's, or check that it is.

    Raises:
        ConflictError: somebody else has uploaded a model of that name.
    """
    folder, mark = uploads / name, owner_file(uploads, name)
    if not folder.exists():
        mark.parent.mkdir(exist_ok=True)
        new = mark.with_name(f".{name}")
        new.write_text(owner)
        new.replace(mark)
        folder.mkdir()
    with suppress(FileNotFoundError):  # older versions kept no owner
        if mark.read_text() != owner:
            raise ConflictError(
                f"the name {name} is taken by a model of another user; choose another one"
            )


def release(uploads: Path, name: str) -> None:
    """Remove the folder again if no file came."""
    folder = uploads / name
    with suppress(OSError):
        for module in folder.iterdir():
            with suppress(OSError):
                module.rmdir()
        folder.rmdir()
        owner_file(uploads, name).unlink(missing_ok=True)


def owner_file(uploads: Path, name: str) -> Path:
    """The file that holds the id of the key by which a model was uploaded."""
    return uploads / ".owners" / name


def owned_by(uploads: Path, owner: str) -> Iterator[Path]:
    """The folders of the models that a user has uploaded."""
    for mark in owner_file(uploads, "").glob("[!.]*"):
        with suppress(FileNotFoundError):
            if mark.read_text() == owner:
                yield uploads / mark.name


def free_unused_names(uploads: Path) -> None:
    """Free the names that a server that was killed left taken although they have no files."""
    if not uploads.is_dir():
        return
    with storage_errors(uploads), alone(uploads):
        for folder in uploads.glob("[!.]*"):
            if not folder.is_symlink():
                release(uploads, folder.name)
        for mark in owner_file(uploads, "").glob("*"):
            if not (uploads / mark.name).exists():
                mark.unlink()
