"""The processes of a farm: its coordinator, and a worker on every host with devices.

Both are Ray processes, started with token authentication: Ray listens on every interface of its
host and by default serves anyone who can connect.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from autotune.core.errors import UsageError
from autotune.core.files import write_whole
from autotune.farm.address import split_address
from autotune.farm.local import LocalExecutor
from autotune.farm.ray_executor import RESOURCE

TOKEN_VARIABLE = "AUTOTUNE_FARM_TOKEN"  # noqa: S105 (a name)
_LEAST_TOKEN = 32


def read_token(file: Path | None) -> str:
    """The farm token, from the environment or else from a file.

    Raises:
        UsageError: there is no token, or it is too short to be secret.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token and file is not None and file.is_file():
        token = file.read_text().strip()
    if len(token) < _LEAST_TOKEN:
        place = f", or put that file at {file}" if file is not None else ""
        raise UsageError(
            f"a farm token of at least {_LEAST_TOKEN} characters is required: set {TOKEN_VARIABLE} "
            f"to that in the file which `autotune farm` wrote{place}"
        )
    return token


def make_token(file: Path) -> str:
    """The token in the file, which is created if it does not exist, readable by its owner only."""
    if not file.is_file():

        def write(path: Path) -> None:
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32) + "\n")

        write_whole(file, write, private=True)
    return read_token(file)


def start_coordinator(address: str, token: str) -> subprocess.Popen[bytes]:
    """Start the farm's coordinator, which runs no tasks itself and serves no dashboard."""
    host, port = split_address(address)
    return _ray(
        token,
        *("--head", "--node-ip-address", host, "--port", str(port), "--num-cpus", "0"),
        *("--num-gpus", "0", "--include-dashboard", "false"),
    )


def start_worker(address: str, token: str) -> subprocess.Popen[bytes]:
    """Start a worker that offers every device of this host, each as one Ray resource."""
    split_address(address)
    resources = {f"{RESOURCE}{d.name}": d.count for d in LocalExecutor().devices()}
    return _ray(
        token, "--address", address, "--num-cpus", "1", "--resources", json.dumps(resources)
    )


def _ray(token: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Run `ray start` in the foreground; SIGTERM ends it."""
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ray = Path(sys.executable).with_name("ray")
    return subprocess.Popen(
        [str(ray), "start", *arguments, "--block", "--disable-usage-stats", "--log-color", "false"],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
