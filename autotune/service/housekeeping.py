"""What a server tidies up while it runs: leftovers of killed servers, and what has expired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi.concurrency import run_in_threadpool

from autotune.core.errors import AutotuneError
from autotune.service.errors import ServiceError
from autotune.service.jobs import JobDatabase
from autotune.service.removal import finish_removals, old_jobs, remove_job
from autotune.service.sessions import remove_expired_sessions
from autotune.service.settings import Settings
from autotune.service.upload_names import free_unused_names
from autotune.service.upload_parts import remove_dead_parts
from autotune.service.uploads import old_uploads, remove_upload

LOG = logging.getLogger(__name__)
_EVERY_S = 600.0


@asynccontextmanager
async def keeping_house(settings: Settings, database: JobDatabase) -> AsyncIterator[None]:
    """Tidy up now and from time to time while the context is open; parts are gone before that."""
    await run_in_threadpool(_remove_parts, settings)
    task = asyncio.create_task(_keep(settings, database))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep(settings: Settings, database: JobDatabase) -> None:
    while True:
        try:
            await run_in_threadpool(tidy, settings, database)
        except (AutotuneError, OSError) as error:
            LOG.warning("housekeeping: %s", error)
        await asyncio.sleep(_EVERY_S)


def _remove_parts(settings: Settings) -> None:
    for path in remove_dead_parts(settings.uploads):
        LOG.warning("removed %s, which its server did not finish", path)


def tidy(settings: Settings, database: JobDatabase) -> None:
    """Remove what nobody finishes or may use any more, and what is older than is kept."""
    _remove_parts(settings)
    for parent in (settings.uploads, settings.data / "jobs"):
        finish_removals(parent)
    free_unused_names(settings.uploads)
    remove_expired_sessions(database)
    quotas = settings.quotas
    if quotas.keep_jobs_days is not None:
        for job_id in old_jobs(database, quotas.keep_jobs_days):
            with suppress(ServiceError):  # another job still needs it, or another server removed it
                remove_job(settings, database, job_id=job_id)
                LOG.info("removed job %s, which has expired", job_id)
    if quotas.keep_uploads_days is not None:
        for name in old_uploads(settings, quotas.keep_uploads_days):
            with suppress(ServiceError):
                remove_upload(settings, database, name=name)
                LOG.info("removed the uploaded model %s, which has expired", name)
