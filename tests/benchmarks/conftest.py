"""Benchmarks are scripts: they import each other, and what they import, from their own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module path of `python benchmarks/NAME.py`; what scripts add to it is taken off again."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
