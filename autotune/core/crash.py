"""What becomes of an error that nobody foresaw: a sentence, and a private file with the traceback.

`$AUTOTUNE_DEBUG` set to anything shows the traceback on stderr as well.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from autotune.core.paths import state_folder
from autotune.core.text import first_line, printable
from autotune.core.version import __version__

DEBUG = "AUTOTUNE_DEBUG"


def crash_sentence(error: BaseException) -> str:
    """Keep the traceback of an unexpected error; the sentence that says so."""
    report = crash_text(error)
    if os.environ.get(DEBUG):
        sys.stderr.write(report)
    path = _kept(report)
    where = f"its traceback is in {path}" if path else f"set {DEBUG}=1 to see its traceback"
    return (
        f"unexpected error {type(error).__name__}: {first_line(error)}; this is a fault of "
        f"lowrank-autotune, {where}; please report it"
    )


def crash_text(error: BaseException) -> str:
    """Versions and traceback of an error, without the command's arguments and the environment."""
    lines = [
        f"lowrank-autotune {__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}",
        time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "",
        *traceback.format_exception(error),
    ]
    return printable("\n".join(lines).rstrip() + "\n")


def _kept(text: str) -> Path | None:
    """A new file of mode 0600 in the user's state folder, else in the temporary one."""
    for folder in (state_folder() / "crashes", Path(tempfile.gettempdir())):
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stamp = time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime())
            descriptor, name = tempfile.mkstemp(".txt", f"autotune-crash-{stamp}", folder)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            return Path(name)
    return None
