"""`autotune serve`: run the job server."""

from __future__ import annotations

import ipaddress
import logging
import re
import sys
from pathlib import Path
from typing import Any

import click

from autotune.cli.main import format_option
from autotune.cli.options import database_option, threads_option, token_option
from autotune.cli.schema import single
from autotune.core.errors import QuantityError, UsageError
from autotune.core.quantities import parse_quantity
from autotune.devices.memory import memory_bytes
from autotune.service.commands.options import data_option, job_database, jobs_db_option
from autotune.service.jobs import JobDatabase
from autotune.service.limits import ConnectionLimits, raise_file_limit
from autotune.service.settings import Quotas, Settings
from autotune.tuning.options import MachineOptions

_MEMORY_SHARE = 0.8
_LEAST_MEMORY = 512 << 20


@click.command("serve", epilog="Example: autotune serve --models ~/models")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8420,
    show_default=True,
    help="Port to listen on (0: any free one).",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Host name under which clients reach the server (repeatable).",
)
@data_option
@jobs_db_option
@database_option
@click.option(
    "--models",
    "roots",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of models and texts that jobs may read (repeatable).",
)
@click.option(
    "--hub-id", "hub_ids", multiple=True, help="Hub model that jobs may use (repeatable)."
)
@click.option(
    "--slots",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    help="Jobs to run at a time.",
)
@threads_option
@single(MachineOptions, "machine.farm")
@token_option
@click.option(
    "--stale",
    type=click.FloatRange(1),
    default=15.0,
    show_default=True,
    help="Seconds without a heartbeat after which a runner loses its job.",
)
@click.option(
    "--heartbeat",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Heartbeat interval of a runner, in seconds; at most a third of --stale.",
)
@click.option(
    "--max-queued",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    help="Limit on queued jobs.",
)
@click.option(
    "--max-queued-per-user",
    type=click.IntRange(1),
    help="Limit on the queued jobs of one API key.  [default: 80 % of --max-queued]",
)
@click.option(
    "--max-runtime",
    type=click.FloatRange(1),
    default=86_400,
    show_default=True,
    help="Time limit of one attempt at a job, in seconds.",
)
@click.option(
    "--max-upload", default="64GiB", show_default=True, help="Size limit of one uploaded file."
)
@click.option(
    "--max-uploaded", default="1TiB", show_default=True, help="Size limit of all uploads together."
)
@click.option(
    "--max-uploaded-per-user",
    help="Size limit of the uploads of one API key.  [default: 80 % of --max-uploaded]",
)
@click.option(
    "--max-artefacts", default="256GiB", show_default=True, help="Size limit of one job's folder."
)
@click.option(
    "--max-memory",
    help="Memory limit of one job, such as 16GiB.  [default: 80 % of this machine's, divided by "
    "--slots]",
)
@click.option(
    "--max-streams",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Limit on the open event streams of one user.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(8),
    default=2_000,
    show_default=True,
    help="Limit on open connections; lower if the process's file limit is lower.",
)
@click.option(
    "--max-connections-per-client",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Limit on the open connections of one client address.",
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    default=ConnectionLimits.proxies,
    show_default=True,
    help="Address or network of a reverse proxy that reports its clients' addresses (repeatable).",
)
@click.option(
    "--keep-jobs",
    type=click.FloatRange(0, min_open=True),
    show_default="never",
    help="Days after which a job that has ended is deleted.",
)
@click.option(
    "--keep-uploads",
    type=click.FloatRange(0, min_open=True),
    show_default="never",
    help="Days after which an uploaded model is deleted.",
)
@format_option
def command(host: str, port: int, *, output_format: str, **options: Any) -> int:
    """Run the job server: submit, watch and fetch jobs from a browser, from Python or over HTTP."""
    import uvicorn

    from autotune.service.announced import Announced
    from autotune.service.app import create_app
    from autotune.service.connections import uvicorn_settings
    from autotune.service.dispatcher import Dispatcher

    settings = settings_of(options)
    sys.setswitchinterval(0.0005)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with job_database(settings.data, settings.job_database) as database:
        _check_host(host, database)
        config = uvicorn.Config(
            create_app(settings, database),
            host=host,
            port=port,
            log_level="warning",
            timeout_graceful_shutdown=3,
            server_header=False,
            **uvicorn_settings(settings.connections),
        )
        dispatcher = Dispatcher(settings, database)
        server = Announced(config, output_format, on_end=dispatcher.stopping.set)
        with dispatcher:
            server.run()
        return 0 if server.started else 1


def _check_host(host: str, database: JobDatabase) -> None:
    """Refuse to serve other machines without API keys.

    Raises:
        UsageError: the host is reachable from other machines, and no key was created yet.
    """
    from autotune.service.keys import any_key

    if not _is_private(host) and not any_key(database):
        raise UsageError(
            f"--host {host} is reachable from other machines, but there is no API key yet; "
            "create one with `autotune keys create NAME`, or leave --host at 127.0.0.1"
        )


def settings_of(options: dict[str, Any]) -> Settings:
    """The settings that the command's options describe.

    Raises:
        UsageError: a size or the farm's address is not one, or the farm's token is missing.
    """
    data: Path = options["data"]
    uploaded = _bytes("--max-uploaded", options["max_uploaded"])
    uploaded_each = options["max_uploaded_per_user"]
    return Settings(
        data=data.resolve(),
        job_database=options["jobs_db"] or data.resolve() / "jobs.sqlite",
        latency_database=options["database"],
        model_roots=tuple(root.resolve() for root in options["roots"]),
        hub_ids=frozenset(options["hub_ids"]),
        hosts=(*Settings.hosts, *options["names"]),
        slots=options["slots"],
        stale_s=options["stale"],
        heartbeat_s=min(options["heartbeat"], options["stale"] / 3),
        threads=options["threads"],
        farm=options["farm"],
        farm_token=_farm_token(options["farm"], options["token_file"]),
        quotas=Quotas(
            queued_jobs=options["max_queued"],
            queued_jobs_each=options["max_queued_per_user"] or _share(options["max_queued"]),
            runtime_s=options["max_runtime"],
            upload_bytes=_bytes("--max-upload", options["max_upload"]),
            uploaded_bytes=uploaded,
            uploaded_bytes_each=_share(uploaded)
            if uploaded_each is None
            else _bytes("--max-uploaded-per-user", uploaded_each),
            artefact_bytes=_bytes("--max-artefacts", options["max_artefacts"]),
            memory_bytes=_memory_bytes(options["max_memory"], slots=options["slots"]),
            streams=max(Quotas.streams, options["max_streams"]),
            streams_each=options["max_streams"],
            keep_jobs_days=options["keep_jobs"],
            keep_uploads_days=options["keep_uploads"],
        ),
        connections=ConnectionLimits(
            most=raise_file_limit(options["max_connections"]),
            each=options["max_connections_per_client"],
            proxies=options["proxies"],
        ),
    )


def _share(limit: int) -> int:
    """What one user may take of a limit, so that something is left for the others."""
    return max(1, limit * 4 // 5)


def _farm_token(farm: str | None, file: Path) -> str | None:
    """The token, so that a server without it does not start instead of failing every job."""
    if not farm:
        return None
    from autotune.farm.address import split_address
    from autotune.farm.processes import read_token

    split_address(farm)
    return read_token(file)


def _bytes(option: str, text: str) -> int:
    try:
        found = parse_quantity(text, "weight_bytes")
    except QuantityError:
        found = None
    if found is None or found.relative:
        raise UsageError(f"{option} {text}: must be a size such as 64GiB")
    return int(found.value)


def _memory_bytes(text: str | None, *, slots: int) -> int:
    """The memory that one job may use: what is given, else a share of what there is."""
    if text is None:
        return int(_MEMORY_SHARE * memory_bytes()) // max(1, slots)
    found = _bytes("--max-memory", text)
    if found < _LEAST_MEMORY:
        raise UsageError(
            f"--max-memory {text}: a job needs at least {_LEAST_MEMORY >> 20} MiB to start"
        )
    return found


def _is_private(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(re.sub(r"[\[\]]", "", host)).is_loopback
    except ValueError:
        return False
