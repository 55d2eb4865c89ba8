"""Models that are uploaded file by file: safetensors and JSON, never anything that is unpacked."""

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
        UsageError: no name of an upload.
        NotFoundError: no such upload.
    """
    folder = settings.uploads / _checked(name)
    if not folder.is_dir():
        raise NotFoundError(f"there is no uploaded model {name!r}")
    return folder


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} names no upload: small letters, digits, '-' and '_', 64 at most"
        )
    return name


def list_uploads(settings: Settings) -> list[dict[str, Any]]:
    """Name, files and bytes of every uploaded model."""
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
    settings: Settings, name: str, file: str, body: AsyncIterator[bytes]
) -> dict[str, Any]:
    """Stream one file of a model to its place; it appears whole, checked, and once.

    Raises:
        UsageError: a name or content that is not taken.
        TooLargeError: more bytes than the quotas.
        ConflictError: the file is there.
        StorageError: the disk is full.
    """
    folder = settings.uploads / _checked(name)
    text = file in _TEXTS
    if not text and not _WEIGHTS.fullmatch(file):
        raise UsageError(
            f"{file[:80]!r} is not taken; a model is model*.safetensors with "
            f"{', '.join(sorted(_TEXTS))}"
        )
    quotas = settings.quotas
    left = max(quotas.uploaded_bytes - folder_bytes(settings.uploads), 0)
    most = min(quotas.upload_bytes, left, *([_TEXT_BYTES] if text else []))
    target = folder / file
    if target.exists():
        raise ConflictError(f"{name} holds {file} already; upload under another name")
    temporary = folder / f".{file}.{id(body):x}.part"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            size = await _write(temporary, body, most)
            _check(temporary, file)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return {"name": f"{UPLOAD}{name}", "file": file, "bytes": size}


async def _write(path: Path, body: AsyncIterator[bytes], most: int) -> int:
    import anyio

    size = 0
    async with await anyio.open_file(path, "wb") as file:
        async for chunk in body:
            size += len(chunk)
            if size > most:
                raise TooLargeError(
                    f"the file is larger than the {most} bytes that are still taken"
                )
            await file.write(chunk)
    return size


def _check(path: Path, name: str) -> None:
    """What arrived is what its name says."""
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
        raise UsageError(f"{name} is damaged or no such file: {str(error)[:200]}") from error
