"""What a farm may answer instead of results."""

from __future__ import annotations

from autotune.core.errors import AutotuneError


class FarmUnreachableError(AutotuneError):
    """The farm does not answer now; the same call may succeed later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h
