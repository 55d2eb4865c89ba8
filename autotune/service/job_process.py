"""A job's process, seen from its runner: started in its own group, read, and ended whole."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autotune.cli.main import INTERRUPTED
from autotune.core.errors import DatabaseUnreachableError
from autotune.core.progress.pipe import VARIABLE
from autotune.results.verdict import Verdict
from autotune.service.job_records import Ending

COMMAND = (sys.executable, "-m", "autotune.service.child")
_GRACE_S = 5.0
_SAID = "autotune: "
# With these a command ends with a result: met or valid, missed or invalid, undecided.
_RESULT_CODES = tuple(verdict.exit_code for verdict in Verdict)
# Interrupted by somebody, or something that it needs did not answer: EX_TEMPFAIL.
_AGAIN = (INTERRUPTED, DatabaseUnreachableError.exit_code)


class JobProcess:
    """`autotune ARGUMENTS` in `folder`, its words in log.txt. Use as a context manager.

    `stage`, `done` and `total` are what it last said of its progress.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.stage, self.done, self.total = "", 0, 0
        self._buffer = b""
        self._pipe, theirs = os.pipe()
        self._stdout = folder / "stdout.txt"
        with (folder / "log.txt").open("ab") as log, self._stdout.open("wb") as out:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*COMMAND, *arguments], stdin=subprocess.PIPE, stdout=out, stderr=log, cwd=folder,
                start_new_session=True, pass_fds=(theirs,),
                env={**os.environ, **environment, VARIABLE: str(theirs)},
            )  # fmt: skip
        os.close(theirs)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)

    def __enter__(self) -> JobProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._selector.close()
        os.close(self._pipe)

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def listen(self, seconds: float) -> list[tuple[str, str]]:
        """Wait for its words; stages and notes it told, in order."""
        if not self._selector.get_map():
            time.sleep(seconds)  # the pipe is closed and the process about to end
            return []
        if not self._selector.select(seconds):
            return []
        chunk = os.read(self._pipe, 65536)
        if not chunk:
            self._selector.unregister(self._pipe)
            return []
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [told for line in lines if (told := self._heard(line))]

    def _heard(self, line: bytes) -> tuple[str, str] | None:
        message: dict[str, Any] = json.loads(line)
        if "stage" in message:
            self.stage, self.done, self.total = message["stage"], 0, 0
            return "stage", self.stage
        if "note" in message:
            return "note", str(message["note"])[:2000]
        self.done, self.total = message["done"], message["total"]
        return None

    def stop(self) -> None:
        """Ask it to end, then make it, with everything that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """End its whole group at once; a group outlives its leader."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def ending(self) -> Ending:
        """How it ended: its last line of output, or its last words."""
        code = self._process.wait()
        lines = self._stdout.read_text(errors="replace").splitlines()
        if code in _RESULT_CODES and lines:
            with suppress(ValueError):
                found = json.loads(lines[-1])
                if isinstance(found, dict):
                    return Ending(exit_code=code, result=found)
        said = self._last_words()
        again = code < 0 or code in _AGAIN or said is None
        if said is None:
            said = self._crash(code)
        return Ending(exit_code=code, error=said, again=again)

    def _last_words(self) -> str | None:
        """Our own sentence; None when it ended without one."""
        ours = [line.removeprefix(_SAID) for line in self._log() if line.startswith(_SAID)]
        return ours[-1][:2000] if ours else None

    def _crash(self, code: int) -> str:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        said = self._log()[-1:]
        return f"the job's process ended with {how}" + (f": {said[0][:500]}" if said else "")

    def _log(self) -> list[str]:
        """The last lines of this attempt."""
        with (self.folder / "log.txt").open("rb") as log:
            log.seek(self._log_start)
            return log.read()[-20_000:].decode(errors="replace").strip().splitlines()
