"""Every benchmark imports what it needs and answers --help, so that none goes stale unnoticed."""

import runpy
import sys

import pytest

from tests.benchmarks.conftest import BENCHMARKS

pytestmark = pytest.mark.duration(20)
SCRIPTS = sorted(
    path.name for path in BENCHMARKS.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_answers_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {name}" in capsys.readouterr().out


def test_there_are_scripts():
    assert "methods.py" in SCRIPTS
