"""Models uploaded file by file: weights, configuration, tokenizer, modules; no archives."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from autotune.compress.companions import (
    INDEX,
    MODULE_NAMES,
    MODULES,
    NAMES,
    SINGLE,
    SUFFIXES,
    is_companion,
    is_weights,
)
from autotune.core.errors import UsageError, storage_errors
from autotune.service.errors import ConflictError, NotFoundError, TooLargeError
from autotune.service.job_queries import JobQueries
from autotune.service.removal import delete, set_aside, users_of
from autotune.service.settings import Settings
from autotune.service.upload_check import check_upload
from autotune.service.upload_names import claim, owned_by, owner_file, release
from autotune.service.upload_parts import Part, Share, alone

UPLOAD = "upload:"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SETTINGS_BYTES = 4_000_000
_VOCABULARY_BYTES = 48_000_000
_STEP_BYTES = 16_000_000  # reserved at a time where the size is not known before
_WRITERS = 8
_T = TypeVar("_T")


class Uploads:
    """Takes uploads, in a few threads of their own, and checks one file at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._writing = anyio.CapacityLimiter(_WRITERS)
        self._checking = anyio.CapacityLimiter(1)

    async def receive(
        self,
        owner: str,
        *,
        name: str,
        file: str,
        body: AsyncIterator[bytes],
        declared: int | None = None,
    ) -> dict[str, Any]:
        """Stream one file of a model to disk; it becomes visible once it is complete and checked.

        `declared` is its size in bytes if the client gave one; it is reserved before the first
        byte.

        Raises:
            UsageError: the name or content is not allowed.
            TooLargeError: the file exceeds a quota, or the share of its owner.
            ConflictError: the file exists already, or the name belongs to another user.
            StorageError: the disk is full.
        """
        most = _most_bytes(self.settings, file)
        folder = self.settings.uploads / _checked(name)
        if declared is not None and declared > most:
            raise _too_large(most)
        with storage_errors(folder):
            part = await self._run(partial(_begin, self.settings, name, file=file, owner=owner))
            try:
                share = _share_of(self.settings, owner)
                await self._fill(part, body, share=share, most=most, declared=declared)
                await self._run(part.complete)
                await anyio.to_thread.run_sync(
                    check_upload, part.path, file, limiter=self._checking
                )
                await self._run(partial(_publish, self.settings, part))
            finally:
                with anyio.CancelScope(shield=True):
                    await self._run(partial(_end, self.settings, part))
        return {"name": f"{UPLOAD}{name}", "file": file, "bytes": part.written}

    async def _fill(
        self,
        part: Part,
        body: AsyncIterator[bytes],
        *,
        share: Share | None,
        most: int,
        declared: int | None,
    ) -> None:
        uploads, quota = self.settings.uploads, self.settings.quotas.uploaded_bytes
        reserve = partial(part.reserve, uploads=uploads, most=quota, share=share)
        await self._run(partial(reserve, declared or 0))
        async for chunk in body:
            size = part.written + len(chunk)
            if size > most:
                raise _too_large(most)
            if size > part.reserved:
                step = min(most, size + _STEP_BYTES)
                try:
                    await self._run(partial(reserve, step))
                except TooLargeError:  # this much may still fit
                    await self._run(partial(reserve, size))
            await self._run(partial(part.write, chunk))

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await anyio.to_thread.run_sync(work, limiter=self._writing)


def uploaded_folder(settings: Settings, name: str) -> Path:
    """The folder of an uploaded model.

    Raises:
        UsageError: the name is not valid for an upload.
        NotFoundError: there is no upload of that name.
    """
    folder = settings.uploads / _checked(name)
    if not folder.is_dir() or folder.is_symlink():
        raise NotFoundError(f"no uploaded model {name!r}")
    return folder


def list_uploads(settings: Settings) -> list[dict[str, Any]]:
    """Name and files, with their sizes in bytes, of every uploaded model."""
    found = []
    for folder in sorted(settings.uploads.glob("[!.]*")):
        files = {}
        for path in sorted((*folder.glob("[!.]*"), *folder.glob("[!.]*/[!.]*"))):
            with suppress(FileNotFoundError):  # deleted meanwhile
                if path.is_file():
                    files[path.relative_to(folder).as_posix()] = path.stat().st_size
        if files:
            found.append({"name": f"{UPLOAD}{folder.name}", "files": files})
    return found


def remove_upload(settings: Settings, database: JobQueries, *, name: str) -> None:
    """Delete an uploaded model.

    Raises:
        UsageError, NotFoundError: as `uploaded_folder`.
        ConflictError: a job that has not ended uses it.
    """
    folder = uploaded_folder(settings, name)
    if jobs := users_of(database, f"{UPLOAD}{name}"):
        raise ConflictError(f"job {jobs[0]} uses {UPLOAD}{name}; wait for it or cancel it first")
    with storage_errors(folder), suppress(FileNotFoundError):
        with alone(settings.uploads):
            aside = set_aside(folder)
            owner_file(settings.uploads, name).unlink(missing_ok=True)
        delete(aside)


def old_uploads(settings: Settings, days: float) -> list[str]:
    """Names of the uploads to which nothing was added for so many days."""
    before = time.time() - days * 86_400
    found = []
    for folder in settings.uploads.glob("[!.]*"):
        with suppress(OSError):
            times = [path.stat().st_mtime for path in (folder, *folder.rglob("*"))]
            if _NAME.fullmatch(folder.name) and max(times) < before:
                found.append(folder.name)
    return found


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"invalid upload name {name[:80]!r}: use lower-case letters, digits, '-' and '_' "
            "(64 at most)"
        )
    return name


def _most_bytes(settings: Settings, file: str) -> int:
    """The limit of a file of this name."""
    most = settings.quotas.upload_bytes
    if is_weights(file) or (is_companion(file) and file.endswith("/" + SINGLE)):
        return most
    if file != INDEX and not is_companion(file):
        raise UsageError(
            f"file {file[:80]!r} is not allowed; a model consists of model*.safetensors, {INDEX}, "
            f"{', '.join(sorted(NAMES))}, files that end with {', '.join(SUFFIXES)}, and in "
            f"folders such as 1_Pooling {', '.join(MODULE_NAMES)}"
        )
    settings_only = file.endswith(("config.json", "_map.json", ".jinja")) or file == MODULES
    return min(_SETTINGS_BYTES if settings_only else _VOCABULARY_BYTES, most)


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"limit reached: the file is larger than {most} bytes")


def _begin(settings: Settings, name: str, *, file: str, owner: str) -> Part:
    """The part of a file, in the folder of a model that is the caller's.

    Names are taken and freed under one lock, and taken together with a part. The owner's mark is
    there before the folder and goes after it, so that a mark without a folder counts for nothing.
    """
    settings.uploads.mkdir(parents=True, exist_ok=True)
    with alone(settings.uploads):
        claim(settings.uploads, name, owner=owner)
        try:
            return Part(settings.uploads / name, file)
        except BaseException:
            release(settings.uploads, name)
            raise


def _share_of(settings: Settings, owner: str) -> Share | None:
    """The share of an owner; without keys, everything is one owner's."""
    if not owner:
        return None
    most = settings.quotas.uploaded_bytes_each
    return Share(most=most, owned=partial(owned_by, settings.uploads, owner))


def _publish(settings: Settings, part: Part) -> None:
    with alone(settings.uploads):
        part.publish()


def _end(settings: Settings, part: Part) -> None:
    with alone(settings.uploads):
        part.close()
        release(settings.uploads, part.folder.name)
