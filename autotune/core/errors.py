"""The errors that this package raises on purpose, and the exit codes of the command line.

Every error ends the command line with one sentence on stderr and the exit code of its class:

    AutotuneError                      1
    ├── UsageError (ValueError)        2   a value that the user gave cannot be used
    │   ├── QuantityError                  a size, time or ratio that does not parse
    │   ├── ModelError                     a missing, unreadable, non-finite or unsupported model
    │   ├── CalibrationError               text or tensors that cannot calibrate the model
    │   ├── RunFolderError                 an output folder that cannot be written
    │   │   └── RunFolderBusyError    75       another process is using it; a later call may succeed
    │   └── OptionError                    a value that its option does not admit (core.options)
    │       └── BudgetError                a limit of a budget that does not parse (core.workload)
    ├── StorageError                   2   the disk is full, or the file system refused a write
    ├── DatabaseError                  2   a database is corrupted, newer or inconsistent
    │   └── DatabaseUnreachableError  75   it does not answer or is locked; a later call may succeed
    ├── BudgetInfeasibleError          3   no plan meets the budgets; carries the reachable minimum
    ├── DeviceMissingError             4   the device, or the backend for it, is not on this machine
    ├── EngineError                    4   an engine cannot be built or run here
    ├── ParityError                    1   an exported file computes something else than its model
    ├── MeasurementError               1   a measurement failed, so the budget cannot be checked
    │   ├── AnswerError                    a worker's answer makes no sense (autotune.farm.answers)
    │   └── NotPricedError             2   no table prices a layer that was asked for
    ├── DeviceBusyError               75   another measurement holds the device (devices.lock)
    ├── ChildError                     1   a child process did not do its work (core.childprocess)
    │   ├── ChildStartError                it cannot be started
    │   ├── ChildTimeoutError              it does not answer in time
    │   └── ChildDiedError                 it has ended; carries how
    ├── FarmUnreachableError          75   the farm does not answer (autotune.farm.errors)
    ├── WorkerLostError               75   a worker of the farm went silent (autotune.farm.errors)
    ├── OutOfMemoryError               1   the work does not fit into memory
    └── ServiceError                   1   the service refused a request (autotune.service.errors,
                                           whose subclasses carry an HTTP status; 75 where a later
                                           call may succeed)

A command that ends without an error exits with 0; with 1 where a measured or predicted result
misses the budget or has lost its quality, or a check failed; and with 5 where the measurement does
not decide whether the budget is met. An error that is none of these is a fault of this program: it
ends with 70, and its traceback is kept in a file (`autotune.core.crash`).

Each message states what was given, what is allowed, and what to do next. It names an option by
`option_name("search.trials")`, at any level of the program; whoever hands the error to its caller
has the name spelled as that caller writes it (`autotune.core.option_names`).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Self

from autotune.core.text import cause_line

_NAME = re.compile(r"\{option:([a-z_.]+)\}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "cannot allocate memory")


class ExitCode(IntEnum):
    """What the command line ends with."""

    DONE = 0
    FAILED = 1  # a budget was missed, a check failed, or an error without a code of its own
    UNUSABLE = 2  # wrong usage, or a place that cannot be read or written
    INFEASIBLE = 3
    MISSING = 4
    CRASHED = 70  # EX_SOFTWARE of sysexits.h: an unexpected error, whose traceback is kept
    TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later
    INTERRUPTED = 130  # 128 + SIGINT, as shells count


def option_name(path: str) -> str:
    """What stands for the option at `path`, such as `search.trials`, in the message of an error."""
    return f"{{option:{path}}}"


def fill_names(template: str, names: Callable[[str], str] = str) -> str:
    """A message in which `names` spells every option by its path; unless given, it is the path."""
    return _NAME.sub(lambda found: names(found[1]), template)


class AutotuneError(Exception):
    """Base of every error that this package raises on purpose.

    `exit_code` is what the command line ends with.
    """

    exit_code: int = ExitCode.FAILED
    _names: Callable[[str], str] | None = None

    @property
    def template(self) -> str:
        """The message with `option_name(path)` for every option."""
        return super().__str__()

    def name_options(self, names: Callable[[str], str]) -> Self:
        """The same error, its options spelled by `names` instead of by their paths."""
        self._names = names
        return self

    def __str__(self) -> str:
        return fill_names(self.template, self._names or str)


class UsageError(AutotuneError, ValueError):
    """A value given by the user cannot be used."""

    exit_code = ExitCode.UNUSABLE


class QuantityError(UsageError):
    """A latency, size or ratio does not parse."""


class ModelError(UsageError):
    """The model cannot be loaded or tuned."""


class CalibrationError(UsageError):
    """The calibration data cannot calibrate this model."""


class RunFolderError(UsageError):
    """The output folder of a tuning cannot be written."""


class RunFolderBusyError(RunFolderError):
    """Another process is using the output folder; the same call may succeed later."""

    exit_code = ExitCode.TRY_AGAIN


class StorageError(AutotuneError):
    """The file system refused a write (disk full, quota, permission, I/O error)."""

    exit_code = ExitCode.UNUSABLE


class DatabaseError(AutotuneError):
    """A database is corrupted, of a newer schema, or inconsistent."""

    exit_code = ExitCode.UNUSABLE


class DatabaseUnreachableError(DatabaseError):
    """The database does not answer now; the same call may succeed later."""

    exit_code = ExitCode.TRY_AGAIN


class BudgetInfeasibleError(AutotuneError):
    """No plan meets the budgets; `reachable` maps each resource to its smallest reachable value."""

    exit_code = ExitCode.INFEASIBLE

    def __init__(self, message: str, reachable: dict[str, float] | None = None) -> None:
        super().__init__(message)
        self.reachable = reachable or {}


class DeviceMissingError(AutotuneError):
    """The device, or the backend that would measure it, is not on this machine."""

    exit_code = ExitCode.MISSING


class EngineError(AutotuneError):
    """An engine cannot be built here, or was built by another TensorRT or for another GPU."""

    exit_code = ExitCode.MISSING


class ParityError(AutotuneError):
    """An exported file does not compute what the checkpoint computes."""


class MeasurementError(AutotuneError):
    """A measurement failed or timed out."""


class NotPricedError(MeasurementError):
    """A layer was asked for that no measurement or table prices."""

    exit_code = ExitCode.UNUSABLE


@contextmanager
def foreign_code(message: str, kind: type[AutotuneError] = ModelError) -> Iterator[None]:
    """Raise `message` as an error of `kind` for whatever a model's own code raises inside.

    `<why>` in it stands for the reason, in one line. Code of a model may raise anything, also what
    is a mistake elsewhere; our own errors and an exhausted memory pass through.
    """
    try:
        yield
    except AutotuneError:
        raise
    except Exception as error:
        if memory_refusal(error) is not None:
            raise
        raise kind(message.replace("<why>", cause_line(error))) from error


class OutOfMemoryError(AutotuneError):
    """The work does not fit into the memory that this process may use."""


def file_system_refusal(error: OSError) -> AutotuneError | None:
    """A sentence for a file that the system refuses to open, read or write; None for other errors.

    For whoever handles errors last: code that knows what it writes uses `storage_errors`.
    """
    if error.errno in _FULL:
        return _full(Path(str(error.filename or "a file")))
    if error.errno in _REFUSED and error.filename is not None:
        return StorageError(
            f"cannot use {error.filename} ({error.strerror}); check its permissions, or "
            f"{ANOTHER_PATH}"
        )
    return None


def memory_refusal(error: BaseException) -> OutOfMemoryError | None:
    """A sentence for an allocation that failed, as Python, torch and onnxruntime report it."""
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or any(word in text for word in _OUT_OF_MEMORY):
        return OutOfMemoryError(
            "out of memory; use a smaller batch, input length or model, or a machine with more "
            "memory"
        )
    return None


ANOTHER_PATH = "choose a path that can be written"


def refused_write(
    path: Path,
    error: OSError,
    *,
    advice: str = ANOTHER_PATH,
    kind: type[AutotuneError] = StorageError,
) -> AutotuneError:
    """The error to raise when the file system refuses to write `path`.

    `advice` ends the sentence with what the user can do about it. A full disk is a StorageError,
    all else an error of `kind`.
    """
    if error.errno in _FULL:
        return _full(path)
    return kind(f"cannot write {path} ({error.strerror or error}); {advice}")


@contextmanager
def storage_errors(path: Path, advice: str = ANOTHER_PATH) -> Iterator[None]:
    """Turn a write to `path` or below it that the file system refuses into one clear error.

    Other errors pass through, also those of reading files.

    Raises:
        StorageError: the disk is full, or the place is read-only, not permitted or no folder.
    """
    try:
        yield
    except AutotuneError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # Libraries written in other languages raise their own type with the system's words.
        text = str(error)
        if number in _FULL or "No space left" in text or "File too large" in text:
            raise _full(path) from error
        if isinstance(error, OSError) and number in _REFUSED:
            raise refused_write(path, error, advice=advice) from error
        raise


def _full(path: Path) -> StorageError:
    return StorageError(
        f"no space left while writing {path}; free some space and run the same command again, it "
        "continues where it stopped"
    )
