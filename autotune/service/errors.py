"""Errors of the service, each with the HTTP status of its answers.

    AutotuneError                       (autotune.core.errors)
    └── ServiceError              400   a refused request, or a server that does not answer
        ├── ForbiddenError        401   no API key, or one that is wrong or revoked
        ├── NotFoundError         404
        ├── ConflictError         409
        │   └── LeaseLostError    409   a runner's job was given to another runner
        ├── TooLargeError         413
        ├── QuotaError            429
        └── BusyError             503   cannot be done now; the same request may succeed later

On the command line they all have exit code 1.
"""

from __future__ import annotations

from autotune.core.errors import AutotuneError, ExitCode


class ServiceError(AutotuneError):
    """The service refuses the request, or the server does not answer."""

    status = 400


class NotFoundError(ServiceError):
    """The job, file, device or page does not exist."""

    status = 404


class ForbiddenError(ServiceError):
    """The request carries no valid API key."""

    status = 401


class ConflictError(ServiceError):
    """The request contradicts the present state, such as a file that exists already."""

    status = 409


class TooLargeError(ServiceError):
    """The request is larger than the limit."""

    status = 413


class QuotaError(ServiceError):
    """A quota is used up, such as that of queued jobs."""

    status = 429


class BusyError(ServiceError):
    """The request cannot be answered now; the same one may succeed later."""

    status = 503
    exit_code = ExitCode.TRY_AGAIN


class LeaseLostError(ConflictError):
    """The job has been given to another runner."""
