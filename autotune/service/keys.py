"""API keys: shown once, stored as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from autotune.core.errors import UsageError
from autotune.core.text import one_line
from autotune.service.errors import ForbiddenError, NotFoundError
from autotune.service.job_schema import API_KEY
from autotune.service.jobs import JobDatabase

_TOKEN = re.compile(r"atk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key without its secret; times are seconds since 1970."""

    id: str
    name: str
    created_at: float
    revoked_at: float | None


def create_key(database: JobDatabase, name: str) -> tuple[ApiKey, str]:
    """Create a key; returns it with its token, which is not stored and cannot be read again.

    The secret has 256 random bits, so a plain hash of it cannot be reversed by trying secrets.

    Raises:
        UsageError: a name with a control character, which could forge a line of `keys list`.
    """
    if one_line(name) != name:
        raise UsageError(f"the name of a key is one line of printable text, got {one_line(name)!r}")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    insert = API_KEY.insert().values(
        id=key_id, name=name, sha256=_sha256(secret), created_at=database.dialect.now()
    )
    with database.transaction() as connection:
        connection.execute(insert)
    made = next(key for key in list_keys(database) if key.id == key_id)
    return made, f"atk_{key_id}_{secret}"


def list_keys(database: JobDatabase) -> list[ApiKey]:
    """All keys, including revoked ones, oldest first."""
    columns = (API_KEY.c.id, API_KEY.c.name, API_KEY.c.created_at, API_KEY.c.revoked_at)
    query = sa.select(*columns).order_by(API_KEY.c.created_at)
    with database.transaction() as connection:
        return [ApiKey(**row._mapping) for row in connection.execute(query)]


def revoke_key(database: JobDatabase, key_id: str) -> None:
    """Revoke a key; it stops working immediately.

    Raises:
        NotFoundError: no such key.
    """
    revoke = API_KEY.update().where(API_KEY.c.id == key_id)
    first = sa.func.coalesce(API_KEY.c.revoked_at, database.dialect.now())
    with database.transaction() as connection:
        if not connection.execute(revoke.values(revoked_at=first)).rowcount:
            raise NotFoundError(f"no API key {key_id!r}; `autotune keys list` shows all keys")


def key_of(database: JobDatabase, token: str) -> str:
    """The id of the key that `token` belongs to.

    Raises:
        ForbiddenError: the token is unknown or its key was revoked; the error is the same for both.
    """
    match = _TOKEN.fullmatch(token)
    query = sa.select(API_KEY.c.sha256).where(
        API_KEY.c.id == (match[1] if match else ""), API_KEY.c.revoked_at.is_(None)
    )
    with database.transaction() as connection:
        known = connection.execute(query).scalar()
    same = hmac.compare_digest(_sha256(match[2] if match else ""), known or _NOBODY)
    if not (same and known and match):
        raise ForbiddenError("invalid or revoked API key; ask your administrator for a new one")
    return match[1]


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def any_key(database: JobDatabase) -> bool:
    """Whether a key was ever created; from then on, every request needs one."""
    with database.transaction() as connection:
        return connection.execute(sa.select(API_KEY.c.id).limit(1)).first() is not None


def refused_keys(database: JobDatabase, callers: Collection[str]) -> set[str]:
    """Those of the `callers`, ids of keys, that may do nothing any more.

    The empty one stands for whoever came before the first key.
    """
    valid = sa.select(API_KEY.c.id).where(
        API_KEY.c.id.in_(list(callers)), API_KEY.c.revoked_at.is_(None)
    )
    with database.transaction() as connection:
        found = set(connection.execute(valid).scalars())
    if "" in callers and not any_key(database):
        found.add("")
    return set(callers) - found
