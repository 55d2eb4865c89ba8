"""The process of a job: `autotune ARGUMENTS`, which ends with all it started when its runner does.

The runner holds the other end of standard input and says nothing; when it dies, however it dies,
the end of that pipe is what is left of it.
"""

from __future__ import annotations

import os
import signal
import threading


def end_with_runner(descriptor: int) -> None:
    """Wait for the end of the pipe, then kill this process's group."""
    while os.read(descriptor, 4096):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main() -> None:
    """Run the command line."""
    watched = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what the job starts reads from nobody
    threading.Thread(target=end_with_runner, args=(watched,), daemon=True).start()
    from autotune.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
