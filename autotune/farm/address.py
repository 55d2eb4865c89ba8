"""The address of a farm's coordinator."""

from __future__ import annotations

import ipaddress
import re

from autotune.core.errors import UsageError

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
