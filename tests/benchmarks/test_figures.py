"""The figures of the README are those of the tables beside them."""

import json
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


def test_predict_answers_what_the_readme_shows_of_ranks(cli):
    """The same points, to two digits, from the shipped database."""
    page = (BENCHMARKS.parent / "README.md").read_text()
    (found,) = re.findall(r"Rank (\d+) takes ([\d.]+) of dense, rank (\d+) takes ([\d.]+)", page)
    shown = {int(found[0]): found[1], int(found[2]): found[3]}
    ranks = [word for rank in shown for word in ("--rank", str(rank))]
    layer = ("--device", "h200", "--tokens", "2048", "--shape", "4096x4096")
    done = cli("predict", *layer, *ranks, "--format", "json")
    answers = {row["form"]: row for row in json.loads(done.stdout)["estimates"]}
    for rank, ratio in shown.items():
        answer = answers[f"rank={rank}"]
        assert (f"{answer['ratio']:.2f}", answer["source"]) == (ratio, "measured")
