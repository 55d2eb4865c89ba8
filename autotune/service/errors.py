"""What the service refuses; each has the HTTP status that says it.

AutotuneError
└── ServiceError                 exit code 1
├── NotFoundError                404
├── ForbiddenError               401   no key, a wrong or a revoked one
├── ConflictError                409
├── TooLargeError                413
├── QuotaError                   429
└── LeaseLostError               409   a runner's job was given to another
"""

from __future__ import annotations

from autotune.core.errors import AutotuneError


class ServiceError(AutotuneError):
    """Something that the service refuses, or a server that does not answer."""

    status = 400


class NotFoundError(ServiceError):
    """There is no such thing."""

    status = 404


class ForbiddenError(ServiceError):
    """The caller has not shown a key that holds."""

    status = 401


class ConflictError(ServiceError):
    """It contradicts what is there."""

    status = 409


class TooLargeError(ServiceError):
    """More bytes than are taken."""

    status = 413


class QuotaError(ServiceError):
    """More of something than anybody may have at a time."""

    status = 429


class LeaseLostError(ConflictError):
    """The job belongs to another runner by now."""
