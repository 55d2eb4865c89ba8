"""Everything that docs/testing.md shows runs, as a third party would run it."""

import re
import subprocess
import sys

import pytest

from autotune.testing import suites
from tests.docs.pages import ROOT, blocks

PAGE = "docs/testing.md"
SNIPPETS = [text for language, text in blocks(PAGE) if language == "python"]
TESTS = [text for text in SNIPPETS if "Suite)" in text]


@pytest.mark.parametrize("text", [each for each in SNIPPETS if each not in TESTS])
def test_what_the_page_shows_runs(text, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_suites_that_the_page_shows_pass(tmp_path):
    """In a folder of its own, without this project's conftest."""
    for number, text in enumerate(TESTS):
        (tmp_path / f"test_shown_{number}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
    shown = {name for text in TESTS for name in re.findall(r"class Test\w+\((\w+)\)", text)}
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > 5 * len(shown)


def test_the_page_names_every_suite():
    text = (ROOT / PAGE).read_text()
    for abstract, suite in suites.SUITES.items():
        assert f"| `{abstract}` | `{suite}` |" in text


def test_the_page_shows_a_suite_for_whatever_has_entry_points():
    shown = {name for text in TESTS for name in re.findall(r"class Test\w+\((\w+)\)", text)}
    for part in ("Backend", "Metric", "Factorizer", "Allocator", "Precision"):
        assert f"{part}Suite" in shown
