"""The error tree.

    AutotuneError                  exit code
    ├── UsageError (ValueError)        2   a value the user gave cannot be used
    │   ├── QuantityError                  a size, time or ratio that does not parse
    │   ├── ModelError                     missing, unreadable, non-finite or unsupported model
    │   ├── CalibrationError               text or tensors that cannot calibrate the model
    │   └── RunFolderError                 an output folder that cannot be written or is in use
    ├── StorageError                   2   the disk is full, or a file system refused a write
    ├── DatabaseError                  2   a database is corrupted, newer or inconsistent
    │   └── DatabaseUnreachableError  75   it does not answer, or is locked: later it may
    ├── BudgetInfeasibleError          3   no plan meets the budgets; carries the reachable minimum
    ├── DeviceMissingError             4   the device, or the backend for it, is not on this machine
    ├── EngineError                    4   an engine cannot be built or run here
    ├── ParityError                    1   an exported file does not compute what it should
    └── MeasurementError               1   a measurement failed, so the promise cannot be checked

A command that ends without an error exits with 0; with 1 where a measured or predicted result
misses the budget, or a check failed; and with 5 where the measurement does not decide whether the
budget is met.

Each message says what was given, what is allowed and what to do next.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class AutotuneError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is the CLI's."""

    exit_code = 1


class UsageError(AutotuneError, ValueError):
    """A value given by the user cannot be used."""

    exit_code = 2


class QuantityError(UsageError):
    """A latency, size or ratio does not parse."""


class ModelError(UsageError):
    """The model cannot be loaded or tuned."""


class CalibrationError(UsageError):
    """The calibration data cannot calibrate this model."""


class RunFolderError(UsageError):
    """The output folder cannot be written or is in use."""


class StorageError(AutotuneError):
    """The file system refused a write (disk full, quota, I/O error)."""

    exit_code = 2


class DatabaseError(AutotuneError):
    """The latency database is corrupted, of a newer schema, or inconsistent."""

    exit_code = 2


class DatabaseUnreachableError(DatabaseError):
    """The database does not answer now; the same call may succeed later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class BudgetInfeasibleError(AutotuneError):
    """No plan meets the budgets; `reachable` maps each resource to its smallest reachable value."""

    exit_code = 3

    def __init__(self, message: str, reachable: dict[str, float] | None = None) -> None:
        super().__init__(message)
        self.reachable = reachable or {}


class DeviceMissingError(AutotuneError):
    """The device, or the backend that would measure it, is not on this machine."""

    exit_code = 4


class EngineError(AutotuneError):
    """An engine cannot be built here, or is of another TensorRT or GPU."""

    exit_code = 4


class ParityError(AutotuneError):
    """An exported file does not compute what the checkpoint computes."""


class MeasurementError(AutotuneError):
    """A measurement failed or timed out."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a refused write below `path` into one clear error.

    Raises:
        StorageError: the disk is full or the device failed.
        RunFolderError: the folder is read-only or not permitted.
    """
    try:
        yield
    except AutotuneError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # Libraries written in other languages raise their own type with the system's words.
        said = str(error)
        if number in _FULL or "No space left" in said or "File too large" in said:
            raise StorageError(
                f"no space left while writing below {path}; free some space and run the same "
                "command again, it continues where it stopped"
            ) from error
        if number in _REFUSED:
            raise RunFolderError(
                f"cannot write below {path} ({os.strerror(number)}); give a writable folder with "
                "--output"
            ) from error
        raise
