"""Text that is safe to show: control characters of a model, a user or a library become visible.

A terminal obeys escape sequences, a carriage return hides what stands before it, bidirectional
overrides reorder what is read, and PostgreSQL refuses NUL. Whatever is printed, logged or stored as
a message passes through one of the functions here.
"""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

_KEPT = "\n\t"
# C0 and C1 controls, DEL, line and paragraph separators, bidirectional marks, lone surrogates.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_REASON_CHARACTERS = 300


def printable(text: object) -> str:
    r"""`text` with every control character but newline and tab written as an escape, `\x1b`."""
    return _CONTROL.sub(
        lambda found: found[0] if found[0] in _KEPT else _escaped(found[0]), str(text)
    )


def one_line(text: object) -> str:
    r"""As `printable`, and newlines and tabs too: a name cannot forge a further line."""
    return _CONTROL.sub(lambda found: _escaped(found[0]), str(text))


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, cut to 300 characters; its type if empty.

    A line that ends with a colon is followed by the next one.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines[:1] and lines[0].endswith(":") else 1])
    text = one_line(text) if text else type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS else f"{text[:_REASON_CHARACTERS]} …"


def cause_line(error: BaseException) -> str:
    """As `first_line`, of what a library raised at first: what is raised around it holds pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error).rstrip(":. ")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class _PrintableRecord(logging.LogRecord):
    """A log record whose text is printable, whichever library and handler it belongs to.

    That of an exception is set by the formatter, and read again when the line is put together.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("exc_text", "stack_info") and value is not None:
            value = printable(value)
        super().__setattr__(name, value)

    def getMessage(self) -> str:  # noqa: N802 (the name that logging gives it)
        return printable(super().getMessage())


def guard_logs() -> None:
    """From now on every log record and warning of this process is `printable`."""
    logging.setLogRecordFactory(_PrintableRecord)
    format_warning = warnings.formatwarning

    def printable_warning(*args: Any, **values: Any) -> str:
        return printable(format_warning(*args, **values))

    warnings.formatwarning = printable_warning
