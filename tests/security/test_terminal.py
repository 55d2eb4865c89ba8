"""Control characters of other people's models, jobs and keys never reach a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import autotune
from autotune.cli.main import echo
from autotune.core.errors import UsageError
from autotune.core.progress.terminal import TerminalReporter
from autotune.service.commands.follow import follow
from autotune.service.commands.jobs import _line
from autotune.service.jobs import JobDatabase
from autotune.service.keys import create_key, list_keys
from tests.conftest import LLAMA

EVIL = "\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202etxt.exe\rautotune: fine"
FORGED = "a\n0123456789ab  2026-01-01  active              root"


class Service:
    """As `autotune.service.client.Client`, of a server that says what it likes."""

    def events(self, job_id):
        yield {"event": "note", "data": {"text": EVIL + "\nstate  succeeded"}}

    def job(self, job_id):
        return {"error": EVIL}


def shown(capfd):
    out, err = capfd.readouterr()
    text = out + err
    assert not set(text) & set("\x1b\x07\x9b\u202e\r")
    return text


def test_echo(capfd):
    echo(EVIL)
    echo(EVIL, err=True)
    assert shown(capfd).count("\\x1b]0;PWNED\\x07") == 2


def test_events_of_a_job(capfd):
    follow(Service(), "1")
    lines = shown(capfd).splitlines()
    assert len(lines) == 2, "an event cannot forge another one"


def test_a_list_of_jobs(capfd):
    job = {"id": "1", "created_at": 0.0, "kind": "tune", "state": "failed", "error": EVIL + FORGED}
    echo(_line(job))
    assert len(shown(capfd).splitlines()) == 1


def test_the_name_of_a_key_is_one_line(tmp_path, cli):
    with JobDatabase(tmp_path / "jobs.sqlite") as database:
        for name in (FORGED, EVIL, "a\x00b"):
            with pytest.raises(UsageError, match="one line of printable text"):
                create_key(database, name)
        create_key(database, "alice ☕")
        assert [key.name for key in list_keys(database)] == ["alice ☕"]
        with database.transaction() as connection:  # a key of an older version
            connection.exec_driver_sql(
                "INSERT INTO api_key VALUES ('x', ?, 'y', 0.0, NULL)", (FORGED,)
            )
    done = cli("keys", "list", "--data", tmp_path)
    assert len(done.stdout.splitlines()) == 2, done


def test_notes_and_stages_of_a_tuning(capfd):
    reporter = TerminalReporter()
    with reporter.stage(f"[/red] {EVIL}"):
        reporter.note(f"[/red] {EVIL}")
    assert shown(capfd).count("[/red]") == 2


def test_a_model_type_on_a_real_terminal(tmp_path):
    """What transformers itself logs of a configuration passes the guard of the whole process."""
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(LLAMA / name)
    (tmp_path / "config.json").write_text('{"model_type": "\\u001b[2J\\u0007\\u202ex"}')
    ours, theirs = pty.openpty()
    args = ["tune", "--model", str(tmp_path), "--latency-budget", "0.9x", "-o", str(tmp_path / "o")]
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *args], stdout=theirs, stderr=theirs, stdin=theirs
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the end of a terminal
            break
        if not chunk:
            break
        text += chunk
    os.close(ours)
    assert process.wait() == 2, text
    for sequence in (b"\x1b[2J", b"\x07", "\u202e".encode()):
        assert sequence not in text
    assert b"autotune: " in text


def test_every_command_prints_through_the_guard():
    """`click.echo` by itself passes control characters; JSON and the option reference have none."""
    root = Path(autotune.__file__).parent
    files = {path for room in ("cli", "service") for path in (root / room).rglob("*.py")}
    found = {str(path.relative_to(root)) for path in files if "click.echo(" in path.read_text()}
    assert found == {"cli/main.py", "cli/reference.py", "cli/tune.py"}
