"""`autotune keys create|list|revoke`: manage the API keys of a service."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import click

from autotune.cli.main import emit, format_option
from autotune.core.text import one_line
from autotune.core.types import Address
from autotune.service.commands.options import data_option, job_database, jobs_db_option
from autotune.service.keys import create_key, list_keys, revoke_key


@click.group("keys", epilog="Example: autotune keys create alice")
def command() -> None:
    """Create, list and revoke API keys; once one exists, every request needs one."""


@command.command("create", epilog="Example: autotune keys create alice")
@click.argument("name")
@data_option
@jobs_db_option
@format_option
def create(name: str, data: Path, *, jobs_db: Address | None, output_format: str) -> None:
    """Create a key. It is shown once; only its hash is stored."""
    with job_database(data, jobs_db) as database:
        key, token = create_key(database, name)
    emit(output_format, {**dataclasses.asdict(key), "token": token}, lines=[token])


@command.command("list", epilog="Example: autotune keys list")
@data_option
@jobs_db_option
@format_option
def show(data: Path, jobs_db: Address | None, *, output_format: str) -> None:
    """List all keys, including revoked ones."""
    with job_database(data, jobs_db) as database:
        keys = list_keys(database)
    lines = [
        f"{key.id}  {_day(key.created_at)}  "
        f"{f'revoked {_day(key.revoked_at)}' if key.revoked_at else 'active':18s}  "
        f"{one_line(key.name)}"
        for key in keys
    ]
    emit(output_format, {"keys": [dataclasses.asdict(key) for key in keys]}, lines=lines)


@command.command("revoke", epilog="Example: autotune keys revoke 0123456789ab")
@click.argument("key_id")
@data_option
@jobs_db_option
@format_option
def revoke(key_id: str, data: Path, *, jobs_db: Address | None, output_format: str) -> None:
    """Revoke a key: requests with it are refused from now on."""
    with job_database(data, jobs_db) as database:
        revoke_key(database, key_id)
    emit(output_format, {"id": key_id, "revoked": True}, lines=[])


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
