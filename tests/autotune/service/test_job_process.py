"""How a job's process ended is what it reported, not what its log looks like."""

import os
import sys
import time

import pytest

from autotune.service import job_process
from autotune.service.job_process import JobProcess


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
        (("db", "import"), "give either a file or --device NAME"),
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
            for _ in range(200):  # until it is reaped
                os.kill(int(text), 0)
                time.sleep(0.05)
