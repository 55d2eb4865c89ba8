"""The command in processes of its own that need not import the libraries first.

Each is forked from one process (multiprocessing's fork server) that has imported them and has done
nothing else, so it is as fresh as a new interpreter and starts in a tenth of the time.
"""

import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

# One server a test process, whoever asks: what it imports is set here alone.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preload"])


def flags(**options):
    """Options as the command takes them: `batch_size=1` is `--batch-size 1`."""
    pairs = ((f"--{name.replace('_', '-')}", value) for name, value in options.items())
    return [each for pair in pairs for each in pair]


def run_command(*args, cwd=None, env=None, timeout=600, file_bytes=None, fresh=False):
    """`python -m autotune` as `subprocess.run` gives it; no file may grow beyond `file_bytes`.

    `fresh` starts a new interpreter, which reads `PYTHONPATH` again.
    """
    if fresh:
        command = [sys.executable, "-m", "autotune", *map(str, args)]
        return subprocess.run(
            command, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, check=False
        )
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        environment = dict(os.environ if env is None else env)
        arguments = list(map(str, args))
        place = (str(cwd or Path.cwd()), environment, file_bytes, output, errors)
        process = SERVER.Process(target=_run, args=(arguments, *place))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout)
        return subprocess.CompletedProcess(
            arguments, process.exitcode, output.read_text(), errors.read_text()
        )


def _run(arguments, cwd, environment, file_bytes, output, errors):
    for path, descriptor in ((output, 1), (errors, 2)):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.argv = ["autotune", *arguments]
    runpy.run_module("autotune", run_name="__main__", alter_sys=True)
