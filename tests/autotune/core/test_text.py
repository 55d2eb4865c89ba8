"""Control characters become visible; everything that a person may read stays as it is."""

import logging
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.text import first_line, one_line, printable


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text):
    shown = printable(text)
    found = {unicodedata.category(character) for character in shown if character not in "\n\t"}
    assert not found & {"Cc", "Cs", "Zl", "Zp"}
    assert "\n" not in one_line(text)
    assert "\t" not in one_line(text)
    shown.encode()
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["", "Größe 3 µs ≤ 4 · 中文 🚀", "a\n\tb"])
def test_what_is_readable_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("character", "\x00\x07\r\x1b\x7f\x9b\u202e\u2066\u2028\ud800")
def test_each_becomes_an_escape(character):
    assert printable(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


def test_a_reason_is_one_line_of_bounded_length():
    assert first_line(ValueError("  \n")) == "ValueError"
    assert first_line(ValueError("one\x1b[2J\ntwo")) == "one\\x1b[2J"
    assert len(first_line(ValueError("x" * 10_000))) < 310


def test_logs_and_warnings_of_any_library_are_guarded():
    """In a process of its own, as the guard is for the whole process."""
    factory = logging.getLogRecordFactory()  # of this process, where Ray may have set its own
    code = (
        "import logging, warnings\nfrom autotune.core.text import guard_logs\n"
        "guard_logs()\nlogging.getLogger('a').warning('%s', 'l\\x1b[2J')\n"
        "warnings.warn('w\\x1b[2J')\n"
        "logging.getLogger('a').error('m', exc_info=ValueError('e\\x1b[2J\\n\\x9b'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr
    assert "l\\x1b[2J" in done.stderr
    assert "w\\x1b[2J" in done.stderr
    assert "ValueError: e\\x1b[2J\n\\x9b" in done.stderr
    assert logging.getLogRecordFactory() is factory
