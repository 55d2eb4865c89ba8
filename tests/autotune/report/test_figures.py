"""The figures of real results: what is drawn is what the record holds."""

from dataclasses import replace

import pytest

from autotune.report.figures import comparison, heat_map, pareto, run_figures, waterfall_steps
from autotune.report.plotly_json import plotly_json
from tests.records import MEASURED, PREDICTED, stored_record


def test_figures_of_measurements_need_measurements():
    measured, predicted = (set(run_figures(stored_record(n))) for n in (MEASURED, PREDICTED))
    assert measured - predicted == {"agreement", "rounds"}
    assert predicted == {"pareto", "heat_map", "waterfall", "staircases"}


@pytest.mark.parametrize("name", [MEASURED, PREDICTED])
def test_the_waterfall_adds_up_to_the_compressed_latency(name):
    record = stored_record(name)
    steps = waterfall_steps(record)
    assert sum(value for _, value, _ in steps[:-1]) == pytest.approx(steps[-1][1])
    assert steps[-1][1] == pytest.approx(record.latency_s * 1e3)


def test_an_absolute_budget_is_drawn_as_its_ratio():
    record = stored_record()
    seconds = 0.9 * record.dense_latency_s
    (rule,) = pareto(replace(record, budget={"latency": f"{seconds * 1e3:.6f}ms"})).rules
    assert rule.at == pytest.approx(0.9, rel=1e-5)
    assert pareto(stored_record(PREDICTED)).rules == []


def test_the_heat_map_marks_dense_and_joint_sites():
    record = stored_record()
    cells = heat_map(record.sites).cells
    assert len(cells) == sum(len(site.layers) for site in record.sites)
    joint = next(site for site in record.sites if len(site.layers) == 2)
    assert sum(cell.text == f"={joint.rank}" for cell in cells) == 2
    dense = [cell for cell in cells if cell.shade is None]
    assert len(dense) == sum(site.rank is None for site in record.sites)
    assert {cell.text for cell in dense} == {"dense"}


def test_several_results_are_compared():
    chart = comparison({"a": stored_record(MEASURED), "b": stored_record(PREDICTED)})
    marks = [series.x for series in chart.series if series.mark == "D"]
    measured, predicted = stored_record(MEASURED), stored_record(PREDICTED)
    assert marks == [[measured.measured_ratio], [predicted.predicted_ratio]]
    assert len(plotly_json(chart)["data"]) == 4
