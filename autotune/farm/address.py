"""The address of a farm's coordinator."""

from __future__ import annotations

import ipaddress
import re
import socket
import time

from autotune.core.errors import UsageError
from autotune.farm.errors import FarmUnreachableError

LISTENS_WITHIN_S = 30.0
_CONNECT_S = 5.0
_PAUSE_S = 0.5
# Ports that Ray takes itself: dashboard, agents, clients, and the range of its workers.
_OF_RAY = (8265, 10001, 52365, *range(10002, 20000))
_ADDRESS = re.compile(r"([0-9.]+|\[[0-9a-f:]+\]):([0-9]{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an explicit, private address.

    Raises:
        UsageError: the text is not IP:PORT, or the address is public.
    """
    match = _ADDRESS.fullmatch(address)
    try:
        host = ipaddress.ip_address(match[1].strip("[]")) if match else None
    except ValueError:
        host = None
    if match is None or host is None or not 0 < int(match[2]) < 65536:
        raise UsageError(
            f"{address!r} is not a valid address; use IP:PORT, for example 10.0.0.1:6380"
        )
    if not (host.is_private or host.is_loopback):
        raise UsageError(
            f"{address} is a public address; a farm must use a private one, for example "
            "10.0.0.1:6380, or a tunnel"
        )
    return str(host), int(match[2])


def check_own(address: str) -> None:
    """Refuse an address at which a coordinator cannot listen on this host.

    Raises:
        UsageError: a port that Ray takes itself or that is in use, or another host's address.
    """
    host, port = split_address(address)
    if port in _OF_RAY:
        raise UsageError(
            f"port {port} of {address} is one that Ray uses itself (8265, 10001 to 19999, 52365); "
            "choose another one, for example 6380"
        )
    try:
        with socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ):
            pass
    except OSError as error:
        raise UsageError(
            f"cannot listen on {address} ({error.strerror}); give an address of this host and a "
            "free port"
        ) from error


def await_listener(address: str, limit_s: float = LISTENS_WITHIN_S) -> None:
    """Wait until something accepts connections at the address, as a coordinator does.

    Raises:
        FarmUnreachableError: nothing does within `limit_s`.
    """
    place, deadline = split_address(address), time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection(place, timeout=_CONNECT_S).close()
            return
        except OSError as error:
            if time.monotonic() + _PAUSE_S >= deadline:
                raise FarmUnreachableError(
                    f"no farm responds at {address} within {limit_s:.0f} s "
                    f"({error.strerror or error}); check the address, and that `autotune farm` is "
                    "running there"
                ) from error
        time.sleep(_PAUSE_S)
