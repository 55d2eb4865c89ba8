"""Options shared by the service's commands."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from autotune.core.files import make_folder
from autotune.core.paths import data_folder, database_address
from autotune.core.types import Address
from autotune.service.client import DEFAULT_SERVER, Client
from autotune.service.jobs import JobDatabase


def default_data() -> str:
    """`$AUTOTUNE_DATA`, or else a folder below the user's data folder."""
    return os.environ.get("AUTOTUNE_DATA") or str(data_folder() / "service")


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_data,
    help="Folder for jobs and uploads.  [default: $AUTOTUNE_DATA, else the user's data folder]",
)
jobs_db_option = click.option(
    "--jobs-db",
    type=str,
    callback=lambda _c, _p, text: database_address(text) if text else None,
    help="Job database: a SQLite file or postgresql://…  [default: jobs.sqlite in --data]",
)


def client_options(command: Any) -> Any:
    """Add --server and --key to a command."""
    for option in (
        click.option(
            "--key", envvar="AUTOTUNE_API_KEY", help="API key. [default: $AUTOTUNE_API_KEY]"
        ),
        click.option(
            "--server",
            envvar="AUTOTUNE_SERVER",
            default=DEFAULT_SERVER,
            help=f"Address of the service. [default: $AUTOTUNE_SERVER, else {DEFAULT_SERVER}]",
        ),
    ):
        command = option(command)
    return command


def make_client(server: str, key: str | None) -> Client:
    """A client of the server that the options name."""
    return Client(server, key)


def job_argument(client: Client, job_id: str) -> str:
    """The job's id; `last` stands for the newest job."""
    return client.last() if job_id == "last" else job_id


def job_database(data: Path, address: Address | None) -> JobDatabase:
    """The job database at `address`, by default in the data folder.

    From here on, nobody but its owner can read what this process and those that it starts write;
    what was in the data folder before is closed to others with the folder, and so is the file of
    a database elsewhere, which holds hashes of keys.
    """
    os.umask(0o077)
    folder = make_folder(data.resolve())
    with suppress(PermissionError):  # of another owner, who decides
        folder.chmod(0o700)
    place = address or folder / "jobs.sqlite"
    database = JobDatabase(place)
    if isinstance(place, Path):  # only now, as it is a job database
        file = place.resolve()
        for path in (file, *(file.with_name(f"{file.name}{end}") for end in ("-wal", "-shm"))):
            with suppress(FileNotFoundError, PermissionError):
                path.chmod(0o600)
    return database
