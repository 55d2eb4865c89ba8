"""Summary, verdict and model card in words, from real results."""

from dataclasses import replace

import pytest

from autotune.core.forms import parse_form
from autotune.report.card import model_card
from autotune.report.html import write_report
from autotune.report.summary import (
    bench_lines,
    loss_text,
    miss_text,
    outcome_text,
    summary,
    verdict_text,
)
from autotune.results.bench_record import BenchRecord
from autotune.results.job_summary import TuneSummary
from autotune.results.layer_timings import LayerTimings
from autotune.results.record import TuneRecord
from autotune.results.verdict import Verdict
from tests.records import PREDICTED, kept_record, stored_record

INTERVAL = "0.911 to 0.932"


def undecided():
    """The stored result under a budget that its interval contains."""
    record = kept_record()
    return replace(record, budget={"latency": "0.92x"}, verdict=Verdict.UNDECIDED)


def missed():
    return replace(kept_record(), budget={"latency": "0.9x"}, verdict=Verdict.MISSED)


def test_the_summary_of_a_measured_result(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "report.html").write_text("")
    lines = summary(stored_record(), tmp_path)
    assert lines[0].endswith("on AMD EPYC, onnxruntime-cpu, 1 × 32 tokens and 8 decode steps")
    assert lines[1] == "budget      latency 0.97x, parameters 0.8x: met"
    assert lines[2].startswith("latency     6.42 ms against 6.96 ms dense, paired ratio 0.919 (")
    assert [line.split()[0] for line in lines[3:5]] == ["prefill", "decode"]
    assert lines[6].startswith("parameters  2.78 M of 3.48 M, 11.1 MB of 13.9 MB; ")
    assert f"written     {tmp_path}/: model/, report.html" in lines


def test_settled_timings_and_the_load_are_in_the_summary_the_report_and_the_result(tmp_path):
    timings = LayerTimings(settled=52, total=66, load=5.8, cores=2)
    record = replace(stored_record(), layer_timings=timings)
    text = "52 of 66 layer timings settled; load 5.8 on 2 cores"
    assert f"timings     {text}" in summary(record, tmp_path)
    write_report(record, tmp_path / "report.html")
    assert f"{text}." in (tmp_path / "report.html").read_text()
    values = record.to_json()
    assert values["layer_timings"] == {"settled": 52, "total": 66, "load": 5.8, "cores": 2}
    assert TuneRecord.from_json(values) == record
    assert not any(line.startswith("timings") for line in summary(stored_record(), tmp_path))


def test_the_summary_of_a_prediction_names_its_sources(tmp_path):
    text = "\n".join(summary(stored_record(PREDICTED), tmp_path))
    assert "budget      parameters 0.8x: MISSED" in text
    assert "PREDICTED, the device is not present: 324 us (251 us to 397 us)" in text
    assert text.count("            from ") == 4


def test_an_undecided_budget_names_interval_and_limit(tmp_path):
    record = undecided()
    line = summary(record, tmp_path)[1]
    assert line == (
        f"budget      latency 0.92x: undecided: the interval {INTERVAL} contains the limit 0.920"
    )
    for text in (miss_text(record), verdict_text(record)):
        assert "does not decide" in text
        assert INTERVAL in text
        assert "limit 0.920" in text
    assert (
        outcome_text(TuneSummary.of_result(record.to_json())) == "0.919x of dense, budget undecided"
    )


def test_an_undecided_prediction_is_no_miss(tmp_path):
    record = stored_record(PREDICTED)
    (phase,) = record.phases
    phase = replace(phase, ratio=0.9, ratio_low=0.85, ratio_high=0.95)
    record = replace(
        record, budget={"latency": "0.92x"}, verdict=Verdict.UNDECIDED, phases=(phase,)
    )
    interval = f"{phase.ratio_low:.3f} to {phase.ratio_high:.3f}"
    for text in (miss_text(record), verdict_text(record), *summary(record, tmp_path)[1:2]):
        assert interval in text
        assert "miss" not in text
    assert "the prediction does not decide" in miss_text(record)


def test_a_miss_beside_other_work_says_so():
    calm = missed()
    busy = {"windows": 40, "disturbed_windows": 30}
    record = replace(calm, phases=tuple(replace(one, **busy) for one in calm.phases))
    assert "other work disturbed 60 of 80 windows" in miss_text(record)
    assert "disturbed" not in miss_text(calm)


@pytest.mark.parametrize(
    ("record", "miss", "verdict"),
    [
        (missed(), "misses the budget (ratio 0.919", "The measured model misses the budget."),
        (stored_record(PREDICTED), "predicted to miss", "is predicted to miss the budget."),
    ],
)
def test_a_miss_is_explained(record, miss, verdict):
    assert miss in miss_text(record)
    assert verdict in verdict_text(record)


def test_more_rounds_are_advised_only_where_all_were_used():
    """A loop that ended before its last round had no other plan."""
    assert "give more --rounds or a looser budget" in miss_text(missed())
    text = miss_text(missed(), rounds_left=True)
    assert "--rounds" not in text
    assert text.endswith("further rounds would build no other plan; give a looser budget")


def test_a_result_slower_than_dense_says_so():
    slow = {"ratio": 1.2, "ratio_low": 1.1, "ratio_high": 1.3}
    record = missed()
    record = replace(record, phases=tuple(replace(one, **slow) for one in record.phases))
    assert "slower than the dense one (ratio 1.200)" in miss_text(record)
    assert "slower than the dense model" in verdict_text(record)


def test_bench_prints_its_verdict():
    timing = stored_record().measured
    record = BenchRecord(
        folder="out",
        latency_s=timing.latency_s,
        dense_latency_s=timing.dense_latency_s,
        ratio=timing.ratio,
        ratio_low=timing.ratio_low,
        ratio_high=timing.ratio_high,
        phases=timing.passes,
        tuned_ratio=0.9,
        budget_ratio=0.92,
        verdict=Verdict.UNDECIDED,
    )
    first, last = bench_lines(record)
    assert "when tuned 0.900" in first
    assert last == f"budget undecided: the interval {INTERVAL} contains the limit 0.920"
    assert BenchRecord.from_json(record.to_json()) == record
    assert record.to_json()["within_budget"] is None
    assert [one["name"] for one in record.to_json()["passes"]] == ["prefill", "decode"]


@pytest.mark.parametrize("record", [kept_record(), kept_record(PREDICTED), undecided()])
def test_card_and_report_hold_the_figures_of_the_record(record, tmp_path):
    write_report(record, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f'class="verdict {record.verdict.value}"' in page
    assert f"<b>{record.predicted_ratio:.3f}</b>" in page
    assert page.count("<svg") == (5 if record.measured else 3) + len(record.staircases)
    for site in record.sites:
        assert f"<td>{site.form}</td>" in page
    assert all(one.reason.replace("'", "&#39;") in page for one in record.left_out)
    card = model_card(record)
    layers = sum(len(site.layers) for site in record.factorized)
    assert f"{layers} layers are pairs of low-rank factors" in card
    assert card.count("→") == len(record.factorized)
    assert ("latency, measured" in card) is (record.measured is not None)
    assert all(source in card for source in record.predicted_from)


def test_the_latencies_of_the_card_divide():
    """Also where the dense network was faster at the end than when the tuning began."""
    record = replace(kept_record(), dense_latency_s=0.002, predicted_ratio=0.75)
    (row,) = [line for line in model_card(record).splitlines() if "latency, predicted" in line]
    assert row == "| latency, predicted | 2 ms | 1.5 ms (ratio 0.750) |"


def outputs(record, folder):
    """What is said of a record, by place: summary, report, card, list of jobs."""
    write_report(record, folder / "report.html")
    return {
        "summary": next(line for line in summary(record, folder) if line.startswith("quality")),
        "report": (folder / "report.html").read_text(),
        "card": model_card(record),
        "jobs": outcome_text(TuneSummary.of_result(record.to_json())),
    }


@pytest.mark.slow
def test_a_lost_quality_is_said_in_every_output(tmp_path):
    said = outputs(stored_record(), tmp_path)
    assert (
        "(dense 69.1059): LOST, more than 2 times that of the dense model; per" in said["summary"]
    )
    sentence = (
        "The quality is lost (perplexity 154.5, dense 69.11): it is more than 2 times that of"
    )
    assert sentence in said["report"]
    assert sentence in said["card"]
    assert 'class="verdict missed"' in said["report"]
    assert said["jobs"] == "0.919x of dense, budget met, quality LOST"
    assert "--allow-quality-loss" in loss_text(stored_record())
    allowed = outputs(replace(stored_record(), allow_quality_loss=True), tmp_path)
    assert "LOST, more than 2 times that of the dense model (allowed)" in allowed["summary"]
    assert 'class="verdict met"' in allowed["report"]
    assert sentence in allowed["report"]


def test_a_reduced_quality_is_a_warning_and_a_kept_one_nothing(tmp_path):
    said = outputs(kept_record(ratio=1.2), tmp_path)
    assert "(dense 69.1059): reduced; perplexity" in said["summary"]
    for place in ("report", "card"):
        assert "The quality is visibly reduced (perplexity 82.93, dense 69.11)." in said[place]
    assert 'class="verdict met"' in said["report"]
    assert said["jobs"] == "0.919x of dense, budget met"
    kept = outputs(kept_record(), tmp_path)
    assert "(dense 69.1059); perplexity" in kept["summary"]
    assert all("he quality is" not in kept[place] for place in ("report", "card"))


def test_the_card_spells_whole_forms():
    """Structure and precision, and dense layers that are rounded."""
    record = stored_record()
    forms = ("rank=8:pivoted:int8-rows", "dense:int8-rows", "dense")
    sites = [replace(record.sites[0], name=f"at {form}", form=parse_form(form)) for form in forms]
    rows = model_card(replace(record, sites=tuple(sites))).splitlines()
    assert [row.split(" | ")[2] for row in rows if row.startswith("| at ")] == list(forms[:2])
