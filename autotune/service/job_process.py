"""A job's process as its runner sees it: started in a session of its own, read, and ended whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autotune.core.child_errors import Death
from autotune.core.childprocess import (
    PARENT_VARIABLE,
    MessageReader,
    kill_session,
    last_line,
    session_memory,
)
from autotune.core.errors import ExitCode, OutOfMemoryError, RunFolderBusyError
from autotune.core.progress.pipe import VARIABLE
from autotune.core.text import printable
from autotune.devices.lock import DeviceBusyError
from autotune.results.verdict import Verdict
from autotune.service.child import MEMORY_VARIABLE
from autotune.service.job_records import Ending

COMMAND = (sys.executable, "-m", "autotune.service.child")
_GRACE_S = 5.0
# With these a command ends with a result: met or valid, missed or invalid, undecided.
_RESULT_CODES = tuple(verdict.exit_code for verdict in Verdict)
# After these, and after a signal, the same command may succeed: somebody interrupted it, or what it
# needs did not answer. Any other end is an answer: the next attempt would end the same way.
# Somebody else is at work: no fault of the job, so it waits instead of using up an attempt.
_BUSY = (RunFolderBusyError.__name__, DeviceBusyError.__name__)
_AGAIN = (ExitCode.INTERRUPTED, ExitCode.TRY_AGAIN)
_VMSTAT = Path("/proc/vmstat")
_ERROR_CHARACTERS = 2000


class JobProcess:
    """`autotune ARGUMENTS` in `folder`, its stderr in log.txt. Use as a context manager.

    `stage`, `done` and `total` are its latest progress. No process of it may use more than
    `memory_bytes`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str],
        memory_bytes: int | None = None,
    ) -> None:
        self.folder = folder
        self.stage, self.done, self.total = "", 0, 0
        self._error: str | None = None
        self._busy = False
        self._oom_kills = oom_kills()
        self._pipe, theirs = os.pipe()
        self._stdout = folder / "stdout.txt"
        with (folder / "log.txt").open("ab") as log, self._stdout.open("wb") as out:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                pass_fds=(theirs,),
                env={
                    **os.environ,
                    **environment,
                    VARIABLE: str(theirs),
                    PARENT_VARIABLE: str(os.getpid()),
                    MEMORY_VARIABLE: str(memory_bytes or ""),
                },
            )
        os.close(theirs)
        self._reader = MessageReader(self._pipe)

    def __enter__(self) -> JobProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reader.close()
        os.close(self._pipe)

    @property
    def pid(self) -> int:
        """The id of the process, of its group and of its session."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def used_bytes(self) -> int:
        """Memory that the process and all that it started use now, without files they read."""
        return session_memory(self.pid)

    def listen(self, seconds: float) -> list[tuple[str, str]]:
        """Wait at most `seconds` for messages; the stages and notes among all that have arrived.

        Each is a pair of "stage" or "note" and its text, in order.
        """
        if self._reader.ended:
            time.sleep(seconds)  # the pipe is closed and the process about to end
            return []
        found = []
        while not self._reader.ended and self._reader.wait(seconds):
            seconds = 0.0
            while (message := self._reader.take()) is not None:
                if (event := self._event(message)) is not None:
                    found.append(event)
        return found

    def _event(self, message: Mapping[str, Any]) -> tuple[str, str] | None:
        if "stage" in message:
            self.stage, self.done, self.total = printable(message["stage"]), 0, 0
            return "stage", self.stage
        if "note" in message:
            return "note", printable(message["note"])[:_ERROR_CHARACTERS]
        if "error" in message:
            self._error = printable(message["error"]["message"])[:_ERROR_CHARACTERS]
            self._busy = message["error"]["type"] in _BUSY
        if "done" in message:
            self.done, self.total = message["done"], message["total"]
        return None

    def stop(self) -> None:
        """Ask the process to end, then kill it with everything that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """Kill the process with its whole session at once; a session outlives its leader."""
        kill_session(self.pid)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def ending(self) -> Ending:
        """How the process ended: the last line of its output, or the error that it reported.

        One that was killed or interrupted, or that ended without a word of ours, may be tried
        again. One that the kernel killed for want of memory would be again, so it is not.
        """
        code = self._process.wait()
        self.listen(0.0)
        lines = self._stdout.read_text(errors="replace").splitlines()
        if code in _RESULT_CODES and lines:
            with suppress(ValueError):
                found = json.loads(lines[-1])
                if isinstance(found, dict):
                    return Ending(exit_code=code, result=found)
        if self._error is not None and code >= 0:
            again = code in _AGAIN
            return Ending(
                exit_code=code, error=self._error, again=again, waits=again and self._busy
            )
        if code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            error = "the job's process was killed because this host ran out of memory"
            return Ending(exit_code=OutOfMemoryError.exit_code, error=error)
        with (self.folder / "log.txt").open("rb") as log:
            death = Death.of(code, printable(last_line(log, self._log_start)))
        # Without a word of ours a library ended the process, as Ray does when its head is gone.
        again = code not in (ExitCode.UNUSABLE, ExitCode.CRASHED)
        return Ending(exit_code=code, error=f"the job's process {death}", again=again)


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 if unknown.

    The count is the host's, so that a process which dies at the same moment of another's SIGKILL
    may be taken for one of them; its job then fails with this reason rather than being repeated.
    """
    with suppress(OSError, ValueError):
        for line in _VMSTAT.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
