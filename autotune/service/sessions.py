"""Sessions of browsers: a random id in a cookie stands for an API key, for a while."""

from __future__ import annotations

import hashlib
import secrets

import sqlalchemy as sa

from autotune.service.errors import ForbiddenError
from autotune.service.job_schema import API_KEY, SESSION
from autotune.service.jobs import JobDatabase

COOKIE = "autotune_session"
LIFE_S = 12 * 3600


def open_session(database: JobDatabase, key_id: str) -> str:
    """A new session of a key; its id is not stored and cannot be read again."""
    session = secrets.token_urlsafe(32)
    now = database.dialect.now()
    row = {"sha256": _sha256(session), "key_id": key_id, "expires_at": now + LIFE_S}
    with database.transaction() as connection:
        connection.execute(SESSION.insert().values(**row))
    return session


def key_of_session(database: JobDatabase, session: str) -> str:
    """The id of the key that signed in.

    Raises:
        ForbiddenError: there is no such session, it has expired, or its key was revoked.
    """
    query = sa.select(SESSION.c.key_id).join(API_KEY, API_KEY.c.id == SESSION.c.key_id)
    query = query.where(
        SESSION.c.sha256 == _sha256(session),
        SESSION.c.expires_at > database.dialect.now(),
        API_KEY.c.revoked_at.is_(None),
    )
    with database.transaction() as connection:
        found = connection.execute(query).scalar()
    if found is None:
        raise ForbiddenError(
            "the session has ended; sign in again at /login, or send an API key as "
            "`Authorization: Bearer KEY`"
        )
    return str(found)


def close_session(database: JobDatabase, session: str) -> None:
    """End a session; it is no error if there is none."""
    with database.transaction() as connection:
        connection.execute(SESSION.delete().where(SESSION.c.sha256 == _sha256(session)))


def remove_expired_sessions(database: JobDatabase) -> None:
    """Forget the sessions that nobody can use any more."""
    with database.transaction() as connection:
        connection.execute(SESSION.delete().where(SESSION.c.expires_at < database.dialect.now()))


def _sha256(session: str) -> str:
    return hashlib.sha256(session.encode(errors="replace")).hexdigest()
