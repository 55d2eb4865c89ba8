"""How a child process ended, and the errors of talking with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core import errors
from autotune.core.errors import AutotuneError


@dataclass(frozen=True, kw_only=True)
class Death:
    """How a child ended: by a signal, or with an exit code; neither if it had to be killed.

    `last_words` is the last line that it wrote to stderr, at most 500 characters.
    """

    exit_code: int | None = None
    signal: int | None = None
    last_words: str = ""

    @staticmethod
    def of(returncode: int, last_words: str = "") -> Death:
        """From the return code of `subprocess`, which is negative for a signal."""
        if returncode < 0:
            return Death(signal=-returncode, last_words=last_words)
        return Death(exit_code=returncode, last_words=last_words)

    def __str__(self) -> str:
        """Such as "ended with signal 9: out of memory"."""
        how = "closed its output without ending"
        if self.signal is not None:
            how = f"ended with signal {self.signal}"
        elif self.exit_code is not None:
            how = f"ended with exit code {self.exit_code}"
        return f"{how}: {self.last_words}" if self.last_words else how


class ChildError(AutotuneError):
    """A child process did not do what was asked of it."""


class ChildStartError(ChildError):
    """The program cannot be started."""


class ChildTimeoutError(ChildError):
    """The child sent or took no message within `limit_s` seconds."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"no answer within {limit_s:.0f} s")
        self.limit_s = limit_s


class ChildDiedError(ChildError):
    """The child has ended, and `death` says how."""

    def __init__(self, death: Death) -> None:
        super().__init__(f"the process {death}")
        self.death = death


def error_json(error: AutotuneError) -> dict[str, str]:
    """An error as JSON for the parent: the class of the tree that it knows, and the message."""
    kinds = (each.__name__ for each in type(error).__mro__)
    kind = next(name for name in kinds if hasattr(errors, name))
    return {"kind": kind, "message": error.template}


def error_of(values: Mapping[str, Any]) -> AutotuneError:
    """The error in a JSON object that `error_json` made."""
    found: AutotuneError = getattr(errors, values["kind"])(values["message"])
    return found
