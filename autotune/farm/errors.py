"""Errors that only a farm of devices raises."""

from __future__ import annotations

from autotune.core.errors import AutotuneError, ExitCode


class FarmUnreachableError(AutotuneError):
    """The farm does not respond; the same call may succeed later."""

    exit_code = ExitCode.TRY_AGAIN


class WorkerLostError(AutotuneError):
    """A worker did not answer in time; others may."""

    exit_code = ExitCode.TRY_AGAIN
