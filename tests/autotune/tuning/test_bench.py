"""The same measurement has the same verdict in the tuning and in a later bench (defect D8)."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, low_rank
from autotune.core.progress import Reporter
from autotune.core.types import Budget
from autotune.results.measured import Measured
from autotune.results.result import result_text
from autotune.results.verdict import Verdict
from autotune.tuning import bench as module
from autotune.tuning.bench import bench
from autotune.tuning.loop import ClosedLoop
from autotune.tuning.planner import Planner
from autotune.tuning.rounds import Round
from tests.records import PREDICTED, stored_record

# Ratio and interval of both phases, and the verdicts under a budget of 0.95x and without one.
TIMINGS = [
    ((0.90, 0.89, 0.91), Verdict.MET, Verdict.MET),
    ((0.94, 0.93, 0.96), Verdict.UNDECIDED, Verdict.MET),
    ((0.99, 0.98, 1.01), Verdict.MISSED, Verdict.MET),
    ((1.005, 0.99, 1.02), Verdict.MISSED, Verdict.UNDECIDED),  # tune said met, bench MISSED
    ((1.05, 1.03, 1.06), Verdict.MISSED, Verdict.MISSED),
]


def verdict_of_tuning(budget, measured):
    """What the closed loop decides about a round with this measurement."""
    unused = dict.fromkeys(("compression", "builder", "machine", "networks", "workspace"))
    loop = ClosedLoop(planner=planner_of(budget), rounds=1, **unused)
    allocation = SimpleNamespace(plan={"a": low_rank(8)})
    network = SimpleNamespace(dtype="fp32", weight_dtype="fp32")
    return loop.verdict(Round(allocation=allocation, network=network, measured=measured, builds={}))


def planner_of(budget):
    """Only its budget matters here."""
    parts = ("model", "errors", "network", "totals", "allocator", "evidence", "storage", "margin")
    return Planner(budget=budget.limits(), **dict.fromkeys(parts))


def verdict_of_bench(budget, measured, folder, monkeypatch, *, dense=False):
    """What bench decides when it measures the same, where the dense model was handed out or not."""
    record = stored_record()
    if dense:
        record = replace(record, sites=tuple(replace(one, form=DENSE) for one in record.sites))
    phases = tuple(
        replace(one, **asdict(timing))
        for one, timing in zip(record.phases, measured.passes, strict=True)
    )
    texts = {name: limit.text for name, limit in budget.limits().items()}
    folder.mkdir()
    for build in record.builds.values():
        for path in (build.dense, build.compressed, build.inputs):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
    (folder / "result.json").write_text(result_text(replace(record, phases=phases, budget=texts)))
    timings = {timing.name: timing for timing in measured.passes}
    monkeypatch.setattr(module, "time_pass", lambda *_, phase, **__: timings[phase])
    found = bench(folder, Reporter())
    assert found.ratio == pytest.approx(measured.ratio)
    assert found.to_json()["within_budget"] is found.verdict.within_budget
    return found.verdict


def test_the_dense_model_is_not_slower_than_itself(tmp_path, monkeypatch):
    passes = tuple(
        replace(one.timing, ratio=1.01, ratio_low=0.98, ratio_high=1.04, latency_s=latency_s)
        for one in stored_record().phases
        for latency_s in [1.01 * one.timing.dense_latency_s]
    )
    measured = Measured(passes=passes)
    for budget, expected in [
        (Budget(quality="0.99"), Verdict.MET),
        (Budget(latency="1x"), Verdict.UNDECIDED),
    ]:
        folder = tmp_path / str(expected)
        assert verdict_of_bench(budget, measured, folder, monkeypatch, dense=True) is expected


@pytest.mark.parametrize(("timing", "relative", "without"), TIMINGS)
def test_tune_and_bench_agree(timing, relative, without, tmp_path, monkeypatch):
    ratio, low, high = timing
    measured = Measured(
        passes=tuple(
            replace(
                one.timing,
                ratio=ratio,
                ratio_low=low,
                ratio_high=high,
                latency_s=ratio * one.dense_latency_s,
            )
            for one in stored_record().phases
        )
    )
    absolute = f"{0.95 * measured.dense_latency_s * 1e6:.4f}us"
    for i, (budget, expected) in enumerate(
        [
            (Budget(latency="0.95x"), relative),
            (Budget(latency=absolute), relative),
            (Budget(parameters="0.8x"), without),
        ]
    ):
        assert verdict_of_tuning(budget, measured) is expected
        found = verdict_of_bench(budget, measured, tmp_path / str(i), monkeypatch)
        assert found is expected


def test_what_was_not_measured_cannot_be_measured_again(tmp_path):
    (tmp_path / "result.json").write_text(result_text(stored_record(PREDICTED)))
    with pytest.raises(UsageError, match="A100 SXM4 80 GB, which was not present"):
        bench(tmp_path, Reporter())


def test_removed_builds_are_named(tmp_path):
    record = stored_record()
    (tmp_path / "result.json").write_text(result_text(record))
    with pytest.raises(UsageError, match=r"model_decode\.onnx has been removed"):
        bench(tmp_path, Reporter())
