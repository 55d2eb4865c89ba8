"""Other plans of a finished tuning."""

import dataclasses
import json
import shutil

import pytest

import autotune
from autotune.compress.loading import load_checkpoint
from autotune.core.errors import BudgetInfeasibleError, UsageError
from autotune.core.forms import parse_form
from autotune.core.types import Budget
from autotune.profiler.database.latency import LatencyDatabase
from autotune.report.summary import summary
from autotune.results.measured import MeasuredPass
from autotune.results.measured_points import MeasuredPoint
from autotune.results.result import read_result
from autotune.tuning.measuring import MeasuringMachine
from autotune.tuning.picking import choose_point, pick, points_of
from tests.autotune.tuning.small import small_home, tune_small
from tests.records import MEASURED, stored_record


def point(name, ratio, quality):
    timed = MeasuredPass(
        name="prefill",
        count=1,
        latency_s=ratio,
        dense_latency_s=1.0,
        ratio=ratio,
        ratio_low=ratio - 0.01,
        ratio_high=ratio + 0.01,
    )
    return MeasuredPoint(
        name=name,
        passes=(timed,),
        loss=0.0,
        quality=quality,
        forms={},
        plan={"a": parse_form("rank=8")},
    )


@pytest.fixture
def record():
    """A result whose figure is a cosine, with four points."""
    old = stored_record(MEASURED)
    quality = dataclasses.replace(
        old.quality, metric="cosine", dense=1.0, compressed=0.9, higher_is_better=True
    )
    points = (point("a", 0.3, 0.9), point("b", 0.5, 0.99), point("c", 0.6, 0.98))
    return dataclasses.replace(
        old, quality=quality, front=points, compared=(point("dense int8", 0.7, 0.999),)
    )


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        ({"latency": "0.65x"}, "b"),
        ({"latency": "0.72x"}, "dense int8"),
        ({"latency": "0.505x"}, "a"),  # the interval of b ends above
        ({"quality": "0.95"}, "b"),
        ({"quality": "0.995"}, "dense int8"),
        ({"quality": "0.85", "latency": "0.4x"}, "a"),
    ],
)
def test_the_best_point_within_the_limits(record, budget, name):
    assert choose_point(points_of(record), record, budget=Budget(**budget)).name == name


def test_limits_that_no_point_holds_name_the_nearest(record):
    with pytest.raises(BudgetInfeasibleError) as caught:
        choose_point(points_of(record), record, budget=Budget(latency="0.4x", quality="0.95"))
    text = str(caught.value)
    assert "0.4x" in text and "0.95" in text
    assert "the best has cosine 0.999 at 0.700" in text
    assert "the fastest cosine 0.9 at 0.300" in text


def test_a_tuning_without_other_plans_is_refused(record):
    with pytest.raises(UsageError, match=r"run it again with .* 8 \(its layers"):
        points_of(dataclasses.replace(record, front=()))


def measurements(path):
    """All that a latency database holds."""
    with LatencyDatabase(path) as database:
        return {name: database.rows(name) for name in database.fingerprints()}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    home = small_home(tmp_path_factory.mktemp("front"))
    return tune_small(
        home, "out", params_budget="0.95x", front=3, references=True, allow_quality_loss=True
    )


@pytest.mark.slow
@pytest.mark.duration(90)
class TestPicking:
    def test_the_front_is_measured_and_judged(self, tuned):
        front = tuned.record.front
        assert 1 <= len(front) <= 3
        assert all(each.passes and each.quality > 0 for each in front)
        assert "autotune pick" in "\n".join(summary(tuned.record, tuned.folder))

    def test_another_point_is_handed_out_without_measuring(self, tuned, monkeypatch):
        def refuse(*_, **__):
            raise AssertionError("nothing is to be measured")

        monkeypatch.setattr(MeasuringMachine, "compare", refuse)
        layers = measurements(tuned.folder.parent / "latency.sqlite")
        before = read_result(tuned.folder)
        other = min((*before.front, *before.compared), key=lambda each: each.ratio)
        # A limit in seconds is held against the dense model timed beside the plan; may be above 1x.
        limit_s = (other.ratio_high + 0.001) * other.measured.dense_latency_s
        picked = pick(tuned.folder, latency_budget=f"{1e3 * limit_s:.6f}ms")
        record = read_result(tuned.folder)
        assert picked.record == record
        handed = {n: str(f) for n, f in record.plan.items() if not f.is_unchanged}
        asked = Budget(latency=record.budget["latency"])
        found = choose_point(points_of(before), before, budget=asked)
        assert handed == {n: str(f) for n, f in found.plan.items()}
        assert record.measured_ratio == found.ratio
        assert record.quality.compressed == found.quality
        assert measurements(tuned.folder.parent / "latency.sqlite") == layers
        names = {each.name for each in (*record.front, *record.compared)}
        assert any(name.startswith("chosen at") for name in names)
        checked = autotune.verify(tuned.folder)
        wrong = {each.kind.value for each in checked.checks if not each.holds}
        assert wrong <= {"latency"}
        load_checkpoint(tuned.folder)

    def test_what_was_handed_out_first_can_be_picked_again(self, tuned):
        record = read_result(tuned.folder)
        names = {each.name for each in (*record.front, *record.compared)}
        pick(tuned.folder, latency_budget="100s")
        again = read_result(tuned.folder)
        assert {each.name for each in (*again.front, *again.compared)} >= names - {"chosen plan"}

    def test_what_was_tuned_elsewhere_is_not_picked_here(self, tuned, tmp_path):
        folder = tmp_path / "elsewhere"
        shutil.copytree(tuned.folder, folder)
        values = json.loads((folder / "result.json").read_text())
        values["device"]["versions"]["onnxruntime"] = "0.1"
        (folder / "result.json").write_text(json.dumps(values))
        with pytest.raises(UsageError, match=r"was tuned for .* onnxruntime 0\.1, and here is"):
            pick(folder, latency_budget="1x")

    def test_a_result_of_before_requests_were_kept_is_refused(self, tuned, tmp_path):
        folder = tmp_path / "older"
        shutil.copytree(tuned.folder, folder)
        (folder / ".cache" / "request.json").unlink()
        with pytest.raises(UsageError, match="its plans cannot be made again; tune again"):
            pick(folder, latency_budget="1x")
