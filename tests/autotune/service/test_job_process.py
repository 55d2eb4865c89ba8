"""How a job's process ended is what it reported, not what its log looks like."""

import dataclasses
import os
import sys
import threading
import time

import pytest

from autotune.core.runfolder import RunFolder
from autotune.devices.lock import device_lock
from autotune.service import job_process
from autotune.service.job_process import JobProcess
from autotune.service.job_schema import JOB
from autotune.service.runner import Runner
from tests.autotune.service.conftest import TUNE


def ending(tmp_path, *arguments):
    with JobProcess(arguments, tmp_path, environment={}) as process:
        while process.alive:
            process.listen(0.1)
        return process.ending()


def script(monkeypatch, code):
    monkeypatch.setattr(job_process, "COMMAND", (sys.executable, "-c", code))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tune", "--no-such-option"), "No such option"),
        (("db", "import"), "give a file, --device NAME, or both"),
        (("devices", "show", "abacus"), "unknown device 'abacus'"),
    ],
)
def test_an_error_of_the_command_is_reported_and_not_tried_again(tmp_path, arguments, says):
    found = ending(tmp_path, *arguments)
    assert (found.exit_code, found.again, found.result) == (2, False, None)
    assert says in found.error
    assert not found.error.startswith("autotune:")


def test_a_result_is_the_last_line_of_the_output(tmp_path):
    found = ending(tmp_path, "devices", "--format", "json")
    assert found.exit_code == 0
    assert "cpu" in found.result["here"]


@pytest.mark.parametrize("code", [1, 5])
def test_a_verification_that_is_invalid_or_undecided_has_a_result(tmp_path, monkeypatch, code):
    script(monkeypatch, f'print(\'{{"valid": true, "verdict": "?"}}\')\nraise SystemExit({code})')
    found = ending(tmp_path, "verify")
    assert (found.exit_code, found.again, found.error) == (code, False, None)
    assert found.result == {"valid": True, "verdict": "?"}


def test_a_death_is_not_explained_by_a_line_that_looks_like_an_error(tmp_path, monkeypatch):
    script(
        monkeypatch,
        "import os, sys; sys.stderr.write('autotune: a note\\nlast'); sys.stderr.flush(); "
        "os.kill(os.getpid(), 9)",
    )
    found = ending(tmp_path)
    assert (found.error, found.again) == ("the job's process ended with signal 9: last", True)


def test_many_messages_are_all_read(tmp_path, monkeypatch):
    script(
        monkeypatch,
        "import os\nfrom autotune.core.progress.pipe import PipeReporter, VARIABLE, report_error\n"
        "reporter = PipeReporter(int(os.environ[VARIABLE]))\n"
        "for i in range(3000): reporter.note(f'{i:040d}')\n"
        "report_error('UsageError', 'the reason', exit_code=2)\nraise SystemExit(2)",
    )
    notes = []
    with JobProcess((), tmp_path, environment={}) as process:
        while process.alive:
            notes += process.listen(0.1)
        notes += process.listen(0.0)
        found = process.ending()
    assert [int(text) for _, text in notes] == list(range(3000))
    assert (found.error, found.again) == ("the reason", False)


def test_children_in_groups_of_their_own_end_with_the_job(tmp_path, monkeypatch):
    script(
        monkeypatch,
        "import sys, time\nfrom autotune.core.childprocess import ChildProcess\n"
        "inner = ChildProcess([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(inner.pid, flush=True)\ntime.sleep(600)",
    )
    with JobProcess((), tmp_path, environment={}) as process:
        while not (text := (tmp_path / "stdout.txt").read_text()):
            assert process.alive
            time.sleep(0.05)
        process.kill()
        with pytest.raises(ProcessLookupError):
            for _ in range(1200):  # until it is reaped
                os.kill(int(text), 0)
                time.sleep(0.05)


CRASH = "import sys; sys.argv = ['autotune', 'devices']; import autotune.cli.main as m\n"


def test_an_unexpected_error_is_final_and_leaves_a_private_report(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    script(monkeypatch, f"{CRASH}m.cli.main = lambda **_: {{}}['a\\x1b[2Jkey']\nm.main()")
    found = ending(tmp_path)
    assert (found.exit_code, found.again) == (70, False)
    assert "unexpected error KeyError" in found.error
    (report,) = (tmp_path / "state" / "autotune" / "crashes").iterdir()
    assert str(report) in found.error
    assert report.stat().st_mode & 0o777 == 0o600
    assert report.parent.stat().st_mode & 0o777 == 0o700
    assert "Traceback (most recent call last)" in report.read_text()
    log = (tmp_path / "log.txt").read_text()
    assert "Traceback" not in log
    assert "\x1b" not in log + found.error + report.read_text()


@pytest.mark.parametrize("error", ["MemoryError()", "RuntimeError('std::bad_alloc')"])
def test_out_of_memory_is_final(tmp_path, monkeypatch, error):
    script(
        monkeypatch,
        f"{CRASH}def fail(**_): raise {error}\nm.cli.main = fail\nm.main()",
    )
    found = ending(tmp_path)
    assert (found.exit_code, found.again) == (1, False)
    assert "out of memory" in found.error


def test_an_exit_without_a_word_is_that_of_a_library_and_tried_again(tmp_path, monkeypatch):
    """Errors of Python are words of ours; Ray ends the process where its head is gone."""
    script(monkeypatch, "import sys; sys.stderr.write('ImportError: x\\n'); sys.exit(1)")
    found = ending(tmp_path)
    assert (found.again, found.error) == (
        True,
        "the job's process ended with exit code 1: ImportError: x",
    )


def test_a_kill_by_the_kernel_for_want_of_memory_is_final(tmp_path, monkeypatch):
    counts = iter([3, 4])
    monkeypatch.setattr(job_process, "oom_kills", lambda: next(counts))
    script(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    found = ending(tmp_path)
    assert (found.exit_code, found.again) == (1, False)
    assert "ran out of memory" in found.error


def test_the_kernel_counts_its_kills():
    assert job_process.oom_kills() >= 0


def test_a_folder_in_use_is_waited_for(tmp_path, monkeypatch):
    script(
        monkeypatch,
        f"{CRASH}from autotune.core.runfolder import RunFolder\nfrom pathlib import Path\n"
        "m.cli.main = lambda **_: RunFolder(Path('out')).__enter__()\nm.main()",
    )
    with RunFolder(tmp_path / "out"):
        found = ending(tmp_path)
    assert (found.exit_code, found.again, found.waits) == (75, True, True)


def test_a_device_in_use_is_waited_for(tmp_path, monkeypatch):
    script(
        monkeypatch,
        f"{CRASH}from autotune.devices.lock import device_lock\n"
        "m.cli.main = lambda **_: device_lock('cpu').__enter__()\nm.main()",
    )
    monkeypatch.setenv("AUTOTUNE_LOCK_SECONDS", "0.2")
    with device_lock("cpu"):
        found = ending(tmp_path)
    assert (found.exit_code, found.again, found.waits) == (75, True, True)


@pytest.mark.parametrize(
    ("queued_s", "busy_s", "attempt"), [(0, None, 0), (7200, None, 0), (7200, 60, 0), (0, 7200, 1)]
)
def test_what_is_in_use_is_not_waited_for_for_ever(
    settings, database, monkeypatch, queued_s, busy_s, attempt
):
    """A job keeps its attempts until it has waited for as long as one may take, however long it
    was queued before; its tries are as far apart in either case."""
    script(
        monkeypatch,
        f"{CRASH}from autotune.core.errors import RunFolderBusyError\n"
        "def main(**_): raise RunFolderBusyError('in use')\nm.cli.main = main\nm.main()",
    )
    quotas = dataclasses.replace(settings.quotas, runtime_s=3600.0)
    settings = dataclasses.replace(settings, quotas=quotas)
    made, _ = database.submit("tune", TUNE, device="cpu")
    since = None if busy_s is None else made.created_at - busy_s
    aged = JOB.update().values(created_at=made.created_at - queued_s, busy_since=since)
    with database.transaction() as connection:
        connection.execute(aged)
    requeue, delays_s = database.requeue, []

    def noted(*args, delay_s, **how):
        delays_s.append(delay_s)
        requeue(*args, delay_s=delay_s, **how)

    monkeypatch.setattr(database, "requeue", noted)
    job = database.claim("me")
    Runner(settings, database, name="me", stopping=threading.Event()).run(job)
    left = database.get(job.id)
    assert (left.state, left.attempt, delays_s) == ("queued", attempt, [10.0])
    assert left.busy_since is not None
    assert since in (None, left.busy_since)


def test_control_characters_of_a_message_are_made_visible(tmp_path, monkeypatch):
    script(
        monkeypatch,
        "import os\nfrom autotune.core.progress.pipe import PipeReporter, VARIABLE, report_error\n"
        "reporter = PipeReporter(int(os.environ[VARIABLE]))\n"
        "reporter.note('a\\x1b[2J\\x00')\n"
        "report_error('UsageError', 'b\\x1b[2J\\x00', exit_code=2)\nraise SystemExit(2)",
    )
    with JobProcess((), tmp_path, environment={}) as process:
        events = []
        while process.alive:
            events += process.listen(0.1)
        events += process.listen(0.0)
        assert events == [("note", "a\\x1b[2J\\x00")]
        assert process.ending().error == "b\\x1b[2J\\x00"
