"""The process of a job: `autotune ARGUMENTS`, bounded, and ended with all it started.

The runner holds the other end of standard input and never writes to it. However the runner dies,
that pipe is closed. A watcher waits for it in a process of its own: a thread could not act while
another one keeps the interpreter's lock, as a library may for hours.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
from contextlib import suppress
from pathlib import Path

from autotune.core.childprocess import end_with_parent, kill_session

MEMORY_VARIABLE = "AUTOTUNE_JOB_MEMORY"
_FIRST_TO_GO = "1000"  # the highest oom_score_adj: before the server and everything else


def start_watcher() -> None:
    """Fork the process that ends this one's session once the runner or this process has died."""
    here, _kept = os.pipe()  # the other end is closed when this process ends, however that happens
    if os.fork():
        os.close(here)
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the job, which may take a moment
        signal.signal(number, signal.SIG_IGN)
    os.dup2(here, 1)
    os.dup2(0, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    with selectors.DefaultSelector() as selector:
        for descriptor in (1, 2):
            selector.register(descriptor, selectors.EVENT_READ)
        while all(os.read(key.fd, 4096) for key, _ in selector.select()):
            pass
    kill_session(os.getsid(0))
    os._exit(0)


def limit_memory() -> None:
    """Keep to `$AUTOTUNE_JOB_MEMORY` bytes, and be the first to go when the machine has no more.

    RLIMIT_DATA counts what a process may write for itself. The address space, which RLIMIT_AS
    counts, says little: a process that uses a GPU reserves more of it than any machine has memory.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    limit = os.environ.pop(MEMORY_VARIABLE, "")
    if limit:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = int(limit) if hard == resource.RLIM_INFINITY else min(int(limit), hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def prepare() -> None:
    """Bind this process, before it has threads, to its runner and to its limits."""
    start_watcher()
    end_with_parent()
    limit_memory()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # children of the job have no input
    os.close(nothing)


def main() -> None:
    """Run the command line as a job, and end with its server."""
    prepare()
    from autotune.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
