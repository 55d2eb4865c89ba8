"""The process of a job: `autotune ARGUMENTS`; it and its children end when its runner dies.

The runner holds the other end of standard input and never writes to it. However the runner dies,
the pipe is closed, and the end of file on it ends the job's session.
"""

from __future__ import annotations

import os
import signal
import threading

from autotune.core.childprocess import kill_session


def end_with_runner(descriptor: int) -> None:
    """Wait for the end of the pipe, then kill this process's session and this process."""
    while os.read(descriptor, 4096):
        pass
    kill_session(os.getsid(0))
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the command line, watched by a thread that ends it when the runner dies."""
    watched = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # children of the job have no input
    threading.Thread(target=end_with_runner, args=(watched,), daemon=True).start()
    from autotune.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
