"""Threads that claim and run jobs, and one that requeues jobs whose runner timed out."""

from __future__ import annotations

import logging
import threading

from autotune.core.errors import AutotuneError
from autotune.service.jobs import JobDatabase
from autotune.service.runner import Runner
from autotune.service.settings import Settings
from autotune.service.silence import SilenceWatch

LOG = logging.getLogger(__name__)
_IDLE_S = 0.5


class Dispatcher:
    """Runs queued jobs in `settings.slots` threads. Use as a context manager.

    Each job is a separate process; the threads only wait for them. Leaving the context stops the
    processes and returns their jobs to the queue.
    """

    def __init__(self, settings: Settings, database: JobDatabase) -> None:
        self.settings, self.database = settings, database
        self.stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), name=f"slot-{number}")
            for number in range(settings.slots)
        ]
        self._threads.append(threading.Thread(target=self._keep_house, name="housekeeping"))

    def __enter__(self) -> Dispatcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def _serve(self, number: int) -> None:
        runner = Runner(
            self.settings,
            self.database,
            name=f"{self.settings.server}/{number}",
            stopping=self.stopping,
        )
        while not self.stopping.is_set():
            try:
                job = self.database.claim(runner.name)
                if job is not None:
                    runner.run(job)
                    continue
            except AutotuneError as error:
                LOG.warning("%s", error)
            except Exception:
                LOG.exception("slot %d: unexpected error, continuing", number)
            self.stopping.wait(_IDLE_S)

    def _keep_house(self) -> None:
        stale_s = self.settings.stale_s
        every_s = min(stale_s / 3, 5.0)
        watch = SilenceWatch(stale_s, every_s=every_s)
        while not self.stopping.wait(every_s):
            try:
                watch.look(self.database.heartbeats())
                for job_id in self.database.requeue_stale(
                    stale_s, self.settings.losses, is_silent=watch.is_silent
                ):
                    LOG.warning("job %s requeued: runner timed out", job_id)
            except AutotuneError as error:
                LOG.warning("%s", error)
            except Exception:
                LOG.exception("housekeeping: unexpected error, continuing")
