"""A child answers, or how it failed to is known: by signal, exit code, silence, or no start."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from autotune.core.child_errors import ChildDiedError, ChildStartError, ChildTimeoutError, Death
from autotune.core.childprocess import THREAD_VARIABLES, ChildProcess, kill_session

ECHO = """
import json, os, sys
for line in sys.stdin:
    print("a library says hello")
    print(json.dumps({"echo": json.loads(line), "environment": dict(os.environ)}), flush=True)
"""


def child(code, **options):
    return ChildProcess([sys.executable, "-c", code], **options)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_messages_go_both_ways_and_other_words_are_ignored():
    with child(ECHO, threads=3, environment={"EXTRA": "1"}) as process:
        for number in range(3):
            process.send({"number": number})
            answer = process.receive(60.0)
            assert answer["echo"] == {"number": number}
        assert answer["environment"]["EXTRA"] == "1"
        assert {answer["environment"][name] for name in THREAD_VARIABLES} == {"3"}
        process.close_input()
        with pytest.raises(ChildDiedError) as caught:
            process.receive(60.0)
    assert caught.value.death == Death(exit_code=0)


@pytest.mark.parametrize(
    ("code", "death", "text"),
    [
        ("import os; os.kill(os.getpid(), 11)", Death(signal=11), "ended with signal 11"),
        (
            "import sys; sys.exit('out of memory')",
            Death(exit_code=1, last_words="out of memory"),
            "ended with exit code 1: out of memory",
        ),
        ("", Death(exit_code=0), "ended with exit code 0"),
    ],
)
def test_a_death_is_typed_and_nothing_that_was_sent_is_lost(code, death, text):
    with child(f"print('{{\"last\": 1}}', flush=True)\n{code}") as process:
        assert process.receive(60.0) == {"last": 1}
        with pytest.raises(ChildDiedError) as caught:
            process.receive(60.0)
    assert caught.value.death == death
    assert str(death) == text


def test_a_silent_child_is_a_timeout_and_may_answer_later():
    with child("import sys\nsys.stdin.readline()\nprint('{}', flush=True)\n") as process:
        with pytest.raises(ChildTimeoutError, match="no answer within 0 s"):
            process.receive(0.2)
        process.send({})
        assert process.receive(60.0) == {}


def test_a_child_that_does_not_read_is_a_timeout_not_a_hang():
    with child("import time; time.sleep(600)") as process:
        with pytest.raises(ChildTimeoutError):
            process.send({"large": "x" * 1_000_000}, limit_s=0.2)


def test_a_program_that_is_not_there():
    with pytest.raises(ChildStartError, match="/nonexistent/python does not run"):
        ChildProcess(["/nonexistent/python"])


def test_a_helper_that_keeps_the_output_open_hides_no_death():
    """It inherits the pipe, so that the pipe never ends; and it ends with the child's group."""
    code = """
import os, subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print('{"helper": %d}' % helper.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    with child(code) as process:
        helper = process.receive(60.0)["helper"]
        with pytest.raises(ChildDiedError, match="signal 9"):
            process.receive(60.0)
        assert alive(helper)
    wait_until(lambda: not alive(helper))


def test_a_session_ends_with_all_groups_in_it():
    code = f"""
import os, sys
os.setsid()
sys.path[:0] = {sys.path!r}
from autotune.core.childprocess import ChildProcess
inner = ChildProcess([sys.executable, "-c", "import time; time.sleep(600)"])
print('{{"pids": [%d, %d]}}' % (os.getpid(), inner.pid), flush=True)
sys.stdin.readline()
"""
    # A leader of a group cannot start a session, so the one who does is a child of the child.
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    with child(outer) as process:
        session, inner = process.receive(60.0)["pids"]
        kill_session(session)
        wait_until(lambda: not alive(session) and not alive(inner))


def test_a_child_that_asks_for_it_ends_with_its_parent():
    inner = """
import time
from autotune.core.childprocess import end_with_parent
end_with_parent()
print("{}", flush=True)
time.sleep(600)
"""
    code = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from autotune.core.childprocess import ChildProcess
inner = ChildProcess([sys.executable, "-c", {inner!r}])
inner.receive(60.0)
print('{{"pid": %d}}' % inner.pid, flush=True)
sys.stdin.readline()
"""
    with child(code) as process:
        pid = process.receive(60.0)["pid"]
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))


def test_a_child_that_another_thread_closes_is_a_death():
    with child("import time; time.sleep(600)") as process:
        closer = threading.Timer(0.5, process.close)
        closer.start()
        with pytest.raises(ChildDiedError, match="signal 9"):
            process.receive()
        closer.join()
        process.send({"to": "nobody"})
        with pytest.raises(ChildDiedError, match="signal 9"):
            process.receive()
