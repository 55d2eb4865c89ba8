"""Limits of a server's connections, and the address that a client is counted by."""

from __future__ import annotations

import ipaddress
import resource
from contextlib import suppress
from dataclasses import dataclass

_SPARE_FILES = 256  # descriptors for databases, files and the processes of jobs


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Limits of a server's connections.

    `head_s`: time for a whole request head; also how long a client may leave an answer unread.
    `most`: connections of all clients. `each`: connections of one client address; those that
    `proxies`, addresses or networks, pass on are counted by `Guard` under the client's address.
    """

    head_s: float = 30.0
    most: int = 2_000
    each: int = 100
    proxies: tuple[str, ...] = ("127.0.0.1", "::1")

    def trusts(self, address: str) -> bool:
        """Whether the address is that of a proxy, so that many clients may share it."""
        try:
            found = ipaddress.ip_address(address)
            return any(found in ipaddress.ip_network(each, strict=False) for each in self.proxies)
        except ValueError:
            return False


def client_group(address: str) -> str:
    """The address under which a client is counted: one client has a whole /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))


def raise_file_limit(most: int) -> int:
    """Allow this process as many files as it may have; returns how many connections they serve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(1, min(most, soft - _SPARE_FILES))
    return most
