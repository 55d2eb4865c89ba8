"""How pages of README and docs are run: each command in the order in which a reader meets it."""

import contextlib
import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.autotune.service.browser import serving
from tests.outcomes import MET, MISSED, UNDECIDED, assert_finished
from tests.waiting import listens, wait_for

ROOT = Path(__file__).resolve().parents[2]
STAYS = ("serve", "farm", "worker")  # until they are told to end
WRITTEN = "http://127.0.0.1:8420"
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the reader stands: the example models beside, results of earlier pages kept.

    The example text is cut short, for time.
    """
    path = tmp_path_factory.mktemp("docs")
    model = path / "tests" / "data" / "code-llama-3m"
    model.mkdir(parents=True)
    for file in (ROOT / "tests" / "data" / "code-llama-3m").iterdir():
        if file.name == "heldout.txt":
            (model / file.name).write_text(file.read_text()[:40_000])
        else:
            shutil.copyfile(file, model / file.name)  # the service follows no links
    shutil.copytree(ROOT / "tests" / "data" / "llama-3-8b", model.parent / "llama-3-8b")
    return path


def run_page(page, folder, cli):
    """Everything that the page shows."""
    environment = os.environ | {"AUTOTUNE_DB": str(folder / "latency.sqlite")}
    found = blocks(page)
    assert found
    with contextlib.ExitStack() as staying:
        run_blocks(found, folder, cli, environment, staying)


def stay(arguments, folder, environment, staying):
    """Start what keeps running, with a port of its own; where the service listens."""
    if arguments[0] == "serve":
        place = folder / arguments[arguments.index("--data") + 1]
        rest = [each for each in arguments[1:] if each not in ("--data", "out/service")]
        server = staying.enter_context(serving(place, *rest, environment=environment, cwd=folder))
        environment["AUTOTUNE_SERVER"] = server.address
        return server.address
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the farm needs Ray")
    log = staying.enter_context((folder / f"{arguments[0]}.log").open("wb"))
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *arguments],
        cwd=folder,
        env=environment,
        stderr=log,
        start_new_session=True,
    )
    staying.callback(process.wait)
    staying.callback(process.terminate)
    if arguments[0] == "farm":
        # A reader starts the worker seconds later, when this listens and has made its token.
        address = arguments[arguments.index("--address") + 1]
        wait_for(lambda: listens(address))
    return None


def run_blocks(found, folder, cli, environment, staying):
    address = WRITTEN
    for language, text in found:
        text = text.replace(WRITTEN, address)
        if language == "python":
            commands = [[sys.executable, "-c", text]]
        else:
            commands = [
                shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")
            ]
        for command in commands:
            if command[0] == "make":
                assert f"\n{command[1]}:" in (ROOT / "Makefile").read_text()
                continue  # CI runs these two
            if command[0] == "autotune" and command[1] in STAYS:
                address = stay(command[1:], folder, environment, staying) or address
                continue
            if command[0] == "autotune":
                done = cli(*command[1:], cwd=folder, env=environment)
            else:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=600,
                )
            if "--farm" in command:
                again = functools.partial(cli, *command[1:], cwd=folder, env=environment)
                done = until_joined(done, again)
            check(command, done, folder)


def check(command, done, folder):
    """A command succeeds, or judges something and says how.

    A timing may miss its budget on a busy machine, and `doctor` warns of one: that is no mistake of
    the page. Nothing else may go wrong.
    """
    assert "Traceback" not in done.stderr
    if any(part.endswith(("-budget", "-floor")) for part in command):
        if "--output" in command:
            assert_finished(done, folder / command[command.index("--output") + 1])
            return
        judges = True
    else:
        judges = any(name in command for name in ("doctor", "bench", "drift", "verify"))
    assert done.returncode in ((MET, MISSED, UNDECIDED) if judges else (0,)), (command, done.stderr)
    if done.returncode:
        assert done.stdout.strip(), (command, done.stderr)  # the judgement, not an error message


def until_joined(done, again):
    """A farm and its workers take seconds to start."""
    deadline = time.monotonic() + 300
    while done.returncode in (2, 4, 75) and time.monotonic() < deadline:
        time.sleep(1)
        done = again()
    return done
