"""Models uploaded file by file: safetensors, JSON and text files, no archives."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from autotune.core.errors import UsageError, storage_errors
from autotune.service.errors import ConflictError, NotFoundError, TooLargeError
from autotune.service.job_files import folder_bytes
from autotune.service.settings import Settings

UPLOAD = "upload:"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_WEIGHTS = re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors")
_TEXTS = frozenset({
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "preprocessor_config.json", "vocab.txt", "merges.txt",
})  # fmt: skip
_TEXT_BYTES = 64_000_000


def uploaded_folder(settings: Settings, name: str) -> Path:
    """The folder of an uploaded model.

    Raises:
        UsageError: the name is not valid for an upload.
        NotFoundError: there is no upload of that name.
    """
    folder = settings.uploads / _checked(name)
    if not folder.is_dir():
        raise NotFoundError(f"no uploaded model {name!r}")
    return folder


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"invalid upload name {name[:80]!r}: use lower-case letters, digits, '-' and '_' "
            "(64 at most)"
        )
    return name


def list_uploads(settings: Settings) -> list[dict[str, Any]]:
    """Name and files, with their sizes in bytes, of every uploaded model."""
    if not settings.uploads.is_dir():
        return []
    return [
        {
            "name": f"{UPLOAD}{folder.name}",
            "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        }
        for folder in sorted(settings.uploads.iterdir())
        if folder.is_dir()
    ]


async def receive(
    settings: Settings, name: str, *, file: str, body: AsyncIterator[bytes]
) -> dict[str, Any]:
    """Stream one file of a model to disk; it becomes visible once it is complete and checked.

    Raises:
        UsageError: the name or content is not allowed.
        TooLargeError: the file exceeds a quota.
        ConflictError: the file exists already.
        StorageError: the disk is full.
    """
    folder = settings.uploads / _checked(name)
    text = file in _TEXTS
    if not text and not _WEIGHTS.fullmatch(file):
        raise UsageError(
            f"file {file[:80]!r} is not allowed; a model consists of model*.safetensors and "
            f"{', '.join(sorted(_TEXTS))}"
        )
    quotas = settings.quotas
    left = max(quotas.uploaded_bytes - folder_bytes(settings.uploads), 0)
    most = min(quotas.upload_bytes, left, *([_TEXT_BYTES] if text else []))
    target = folder / file
    if target.exists():
        raise ConflictError(f"{name} already has {file}; upload under another model name")
    temporary = folder / f".{file}.{id(body):x}.part"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            size = await _write(temporary, body, most=most)
            _check(temporary, file)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return {"name": f"{UPLOAD}{name}", "file": file, "bytes": size}


async def _write(path: Path, body: AsyncIterator[bytes], *, most: int) -> int:
    import anyio

    size = 0
    async with await anyio.open_file(path, "wb") as file:
        async for chunk in body:
            size += len(chunk)
            if size > most:
                raise TooLargeError(f"limit reached: the file is larger than {most} bytes")
            await file.write(chunk)
    return size


def _check(path: Path, name: str) -> None:
    """Check that the content is what the file name promises."""
    from safetensors import SafetensorError, safe_open

    try:
        if name.endswith(".safetensors"):
            with safe_open(path, framework="numpy") as file:
                file.keys()
        elif name.endswith(".json"):
            json.loads(path.read_text(encoding="utf-8"))
        else:
            path.read_text(encoding="utf-8")
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise UsageError(f"{name} is damaged or not of that format: {str(error)[:200]}") from error
