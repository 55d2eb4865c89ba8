"""The processes of a farm: its coordinator, and a worker on every host with devices.

Both are Ray processes, started with token authentication: Ray listens on every interface of its
host and by default serves anyone who can connect.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from autotune.core.childprocess import last_line
from autotune.core.errors import UsageError
from autotune.core.files import write_whole
from autotune.farm.address import await_listener, check_own, split_address
from autotune.farm.answers import cut
from autotune.farm.errors import FarmUnreachableError
from autotune.farm.local import LocalExecutor
from autotune.farm.offers import RESOURCE
from autotune.farm.parcels import user_folder

TOKEN_VARIABLE = "AUTOTUNE_FARM_TOKEN"  # noqa: S105 (a name)
_LEAST_TOKEN = 32
_RAY = str(Path(sys.executable).with_name("ray"))
_ANSWERS_WITHIN_S = 60.0
_MOST_BYTES = 36  # of 107, as a session's folder and the name of a socket follow


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


@dataclass(frozen=True, kw_only=True)
class RayNode:
    """A running `ray start`, with what it writes to stderr."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def wait(self) -> int:
        """Wait for its end, which SIGTERM brings about; the exit code 0.

        Raises:
            FarmUnreachableError: it ended by itself, which it does when it cannot join or listen.
        """
        code = self.process.wait()
        if code not in (0, -signal.SIGTERM):
            raise FarmUnreachableError(
                f"this node of the farm ended with exit code {code}: {cut(last_line(self.log))}"
            )
        return 0

    def stop(self) -> None:
        """End it and everything that it started."""
        self.process.terminate()
        self.process.wait()
        self.log.close()


def start_coordinator(address: str, token: str) -> RayNode:
    """Start the farm's coordinator, which runs no tasks itself and serves no dashboard.

    Raises:
        UsageError: it cannot listen at the address.
    """
    check_own(address)
    host, port = split_address(address)
    return _start(
        token,
        *("--head", "--node-ip-address", host, "--port", str(port), "--num-cpus", "0"),
        # The monitor serves its metrics to anyone, and only scales clusters.
        *("--num-gpus", "0", "--include-dashboard", "false", "--no-monitor"),
    )


def start_worker(address: str, token: str) -> RayNode:
    """Start a worker that offers every device of this host, each as one Ray resource.

    Raises:
        FarmUnreachableError: no coordinator that accepts the token answers within a minute or two.
    """
    await_listener(address)
    _check_coordinator(address, token)
    resources = {f"{RESOURCE}{d.name}": d.count for d in LocalExecutor().devices()}
    return _start(
        token, "--address", address, "--num-cpus", "1", "--resources", json.dumps(resources)
    )


def _check_coordinator(address: str, token: str) -> None:
    """Ask whatever listens there for its version: `ray start` would ask for minutes.

    Raises:
        FarmUnreachableError: it is no coordinator, one of another version, or refuses the token.
    """
    command = [_RAY, "health-check", "--address", address]
    try:
        done = subprocess.run(
            command, env=_environment(token), capture_output=True, timeout=_ANSWERS_WITHIN_S
        )
    except subprocess.TimeoutExpired:
        why = f"no answer within {_ANSWERS_WITHIN_S:.0f} s"
    else:
        if done.returncode == 0:
            return
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = cut(lines[-1] if lines else f"exit code {done.returncode}")
    raise FarmUnreachableError(
        f"no farm that accepts this host responds at {address} ({why}); check the address and the "
        "token, and that `autotune farm` is running there"
    )


def ray_folder() -> Path:
    """The folder of Ray's sessions: below one that nobody else may enter, as Ray opens it to all.

    Its path is short, since the paths of sockets in it are limited to 107 bytes.

    Raises:
        StorageError: another user has taken its name.
    """
    chosen = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    fits = len(os.fsencode(chosen / f"autotune-{os.getuid()}" / "ray")) <= _MOST_BYTES
    return user_folder(chosen if fits else Path("/tmp")) / "ray"  # noqa: S108 (checked there)


def _environment(token: str) -> dict[str, str]:
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",  # of a busy host; Ray's own limit is 30 s
    }


def _start(token: str, *arguments: str) -> RayNode:
    """Run `ray start` in the foreground; SIGTERM ends it."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
    process = subprocess.Popen(
        [
            *(_RAY, "start", *arguments, "--temp-dir", str(ray_folder()), "--block"),
            *("--disable-usage-stats", "--log-color", "false"),
        ],
        env=_environment(token),
        stdout=subprocess.DEVNULL,
        stderr=log,
        umask=0o077,
    )
    return RayNode(process=process, log=log)
