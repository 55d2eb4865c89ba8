"""A child process that speaks JSON lines: deadlines, a typed death, and an end with all it started.

    with ChildProcess([sys.executable, "-m", "some.module"], threads=2) as child:
        child.send({"question": 1})
        answer = child.receive(limit_s=60.0)

The child reads messages from stdin and writes them to stdout, one JSON object per line. Its stderr
is kept, and its last line explains a death. Other lines on stdout, such as a library may print, are
ignored.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from autotune.core.child_errors import (
    ChildDiedError,
    ChildStartError,
    ChildTimeoutError,
    Death,
)
from autotune.core.peak_memory import note_child

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
PARENT_VARIABLE = "AUTOTUNE_PARENT_PID"
_LOOK_S = 0.5  # a helper of a dead child may keep its output open, so the child itself is looked at
_END_S = 10.0
_LOG_BYTES = 20_000
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class MessageReader:
    """Reads JSON objects, one per line, from a descriptor; other lines are ignored."""

    def __init__(self, descriptor: int) -> None:
        self.ended = False
        self._descriptor = descriptor
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ)

    def close(self) -> None:
        """Stop reading; the descriptor stays open."""
        self._selector.close()

    def take(self) -> dict[str, Any] | None:
        """The next message of those that have arrived, or None."""
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    return message
        return None

    def wait(self, seconds: float) -> bool:
        """Wait until something arrives and buffer it; False after `seconds` without it.

        At the end of the input it returns True at once and sets `ended`.
        """
        if self.ended:
            return True
        if not self._selector.select(max(0.0, seconds)):
            return False
        chunk = os.read(self._descriptor, 65536)
        self.ended = not chunk
        # A line that was cut off by the end is complete if it parses.
        self._buffer += chunk or b"\n"
        return True


class ChildProcess:
    """A running child in a process group of its own. Use as a context manager.

    `environment` is added to this process's own, `threads` is put into the variables that numerical
    libraries read. One thread at a time may talk to a child; another one may close it meanwhile,
    upon which `receive` reports its death.

    Raises:
        ChildStartError: the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        count = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
        parent = {PARENT_VARIABLE: str(os.getpid())}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                env={**os.environ, **count, **parent, **(environment or {})},
                process_group=0,
            )
        except OSError as error:
            self._log.close()
            raise ChildStartError(f"{command[0]} does not run: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        self._reader = MessageReader(self._output.fileno())
        self._talking = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return self._process.pid

    def send(
        self, message: Mapping[str, Any], *, limit_s: float = 60.0, last: bool = False
    ) -> None:
        """Write one message; `last` closes the child's input after it.

        A child that has died is not an error here: the next `receive` reports it.

        Raises:
            ChildTimeoutError: the child does not read.
        """
        with self._talking:
            if not self._closed:
                self._send(json.dumps(message).encode() + b"\n", limit_s)
        if last:
            self.close_input()

    def _send(self, text: bytes, limit_s: float) -> None:
        data = memoryview(text)
        deadline = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector, suppress(BrokenPipeError):
            selector.register(self._input, selectors.EVENT_WRITE)
            while data:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ChildTimeoutError(limit_s)
                with suppress(BlockingIOError):
                    data = data[os.write(self._input.fileno(), data) :]

    def close_input(self) -> None:
        """Close the child's input, at which most children end."""
        self._input.close()

    def receive(self, limit_s: float | None = None) -> dict[str, Any]:
        """The child's next message; waits for it without a limit if None.

        Raises:
            ChildTimeoutError: none came within `limit_s`.
            ChildDiedError: the child has ended, and everything it sent was received.
        """
        with self._talking:
            if self._closed:
                raise ChildDiedError(Death.of(self._process.wait()))
            return self._receive(limit_s)

    def _receive(self, limit_s: float | None) -> dict[str, Any]:
        deadline = float("inf") if limit_s is None else time.monotonic() + limit_s
        while True:
            message = self._reader.take()
            if message is not None:
                note_child(self.pid)
                return message
            if self._reader.ended:
                raise ChildDiedError(self._death())
            left = deadline - time.monotonic()
            if self._reader.wait(min(left, _LOOK_S)):
                continue
            if left <= 0:
                raise ChildTimeoutError(limit_s or 0.0)
            if self._process.poll() is not None and not self._reader.wait(0.0):
                raise ChildDiedError(self._death())

    def _death(self) -> Death:
        words = self.last_words
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return Death(last_words=words)
        return Death.of(code, self.last_words)

    @property
    def last_words(self) -> str:
        """The last line on the child's stderr."""
        return last_line(self._log)

    def wait(self, limit_s: float) -> int:
        """Wait for the child's end; its return code.

        Raises:
            ChildTimeoutError: it still runs.
        """
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            raise ChildTimeoutError(limit_s) from error

    def close(self) -> None:
        """Kill the child with its whole process group, and release everything."""
        kill_group(self.pid)
        self._process.wait()
        with self._talking:  # whoever waits for a message learns of the death first
            if not self._closed:
                self._closed = True
                self._reader.close()
                for file in (self._input, self._output, self._log):
                    file.close()


def last_line(log: IO[bytes], start: int = 0) -> str:
    """The last line that is not empty after byte `start`, at most 500 characters of it."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(start, end - _LOG_BYTES))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:500] if lines else ""


def kill_group(group: int) -> None:
    """Kill a process group at once; a group may outlive its leader."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_session(session: int) -> None:
    """Kill every process of a session, whichever group it is in.

    Where there is no /proc, only the group of the session's leader is killed.
    """
    deadline = time.monotonic() + _END_S
    # A process may start another one while they are being killed.
    while members := _session_members(session):
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= deadline:  # one that waits for a device cannot be killed
            break
        time.sleep(0.01)
    kill_group(session)


def session_memory(session: int) -> int:
    """Bytes of memory that the other processes of a session hold for themselves (Linux, else 0)."""
    total = 0
    for pid in _session_members(session):
        with suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
    return total


def _session_members(session: int) -> list[int]:
    """Other living processes of a session, without those that only wait for their parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # pid (command) state parent group session …; the command may hold any character.
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            pid = int(path.parent.name)
            if int(fields[3]) == session and fields[0] not in "ZX" and pid != os.getpid():
                found.append(pid)
    return found


def end_with_parent() -> None:
    """In a child: be killed when the thread that started it ends, however that happens.

    A measurement that nobody waits for would disturb whatever is measured next. Linux only. Not for
    children that outlive the thread that starts them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = os.environ.pop(PARENT_VARIABLE, "")  # this process's, not its children's
        if parent and os.getppid() != int(parent):  # it ended before it could be watched
            os.kill(os.getpid(), signal.SIGKILL)
