"""The figures of the README are those of the tables beside them."""

import re
import runpy

import pytest

from tests.benchmarks.conftest import BENCHMARKS


def words(path):
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


@pytest.mark.parametrize("name", ["alternatives", "staircase"])
def test_a_figure_shows_its_table(tmp_path, name):
    drawn = tmp_path / f"{name}.svg"
    runpy.run_path(str(BENCHMARKS / f"{name}_figure.py"))["draw"](drawn)
    assert len(words(drawn)) > 10
    assert words(drawn) == words(BENCHMARKS.parent / "docs" / f"{name}.svg")
