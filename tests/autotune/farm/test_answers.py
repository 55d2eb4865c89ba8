"""A worker's answer is used only if it is of the task that was sent, and possible."""

import json
import math

import pytest

from autotune.core.errors import MeasurementError, UsageError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.core.types import Fingerprint
from autotune.farm.answers import (
    AnswerError,
    cut,
    read_abilities,
    read_fingerprint,
    read_losses,
    read_outcome,
    read_profile,
    worker_error,
)
from autotune.profiler.measure.tasks import layer_task
from autotune.profiler.measure.timing import TimingPolicy
from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner

DENSE = LayerShape(tokens=16, in_features=64, out_features=96)
TASK = layer_task(DENSE, (low_rank(8),), policy=TimingPolicy())


@pytest.fixture(scope="module")
def answer():
    """What a worker that does its work sends."""
    (outcome,) = SimulatedRunner(simulated_hardware("cpu-like"), seed=0).run([TASK])
    return json.loads(json.dumps(outcome.to_json()))


def read(values, *, index=0, task=TASK, device="cpu"):
    text = values if isinstance(values, str) else json.dumps(values)
    return read_outcome(text, task, index=index, device=device)


def with_timing(answer, **changes):
    return {**answer, "timing": {**answer["timing"], **changes}}


def test_a_true_answer_is_read_as_it_was_sent(answer):
    assert json.loads(json.dumps(read(answer).to_json())) == answer


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "[1]", "3", "null", '"text"', "{}", '{"index": 0}', "[" * 100_000]
)
def test_what_is_no_outcome_is_refused(text):
    with pytest.raises(AnswerError, match="a worker sent"):
        read(text)
    for other in (None, b"{}", 3, ["x"]):
        with pytest.raises(AnswerError):
            read_outcome(other, TASK, index=0, device="cpu")


@pytest.mark.parametrize("index", [1, -1, "0", None, 0.0, True, 10**30])
def test_the_outcome_of_another_task_is_refused(answer, index):
    with pytest.raises(AnswerError, match="another task"):
        read({**answer, "index": index})


@pytest.mark.parametrize(
    "latency_s", [1e-12, 0.0, -1.0, math.nan, math.inf, 1e6, "1", None, True, [1.0]]
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_latency_that_no_device_has_is_refused(answer, latency_s, place):
    latencies = list(answer["timing"]["latencies_s"])
    latencies[place] = latency_s
    with pytest.raises(AnswerError):
        read(with_timing(answer, latencies_s=latencies))


def test_a_latency_below_what_the_devices_peak_rates_allow_is_refused(answer):
    large = LayerShape(tokens=4096, in_features=8192, out_features=8192, dtype="bf16")
    task = layer_task(large, (), policy=TimingPolicy())
    one = {name: value[:1] for name, value in answer["timing"].items() if isinstance(value, list)}
    alone = with_timing(answer, **one)
    for device, too_short, possible in (("h200", 1e-4, 1e-2), ("cpu", 1e-7, 1e-2)):
        with pytest.raises(AnswerError, match="below the"):
            read(with_timing(alone, latencies_s=[too_short]), task=task, device=device)
        read(with_timing(alone, latencies_s=[possible]), task=task, device=device)


@pytest.mark.parametrize(
    "changes",
    [
        {"latencies_s": []},
        {"latencies_s": [1e-5] * 3, "ratios": [1.0] * 3},
        {"latencies_s": "text"},
        {"ratios": [1.0, 0.001]},
        {"ratios": [1.0, math.nan]},
        {"ratio_lows": [1.0, 99.0]},
        {"ratio_highs": [1.0, 0.0]},
        {"samples_s": [[1e-5], [-1e-5]]},
        {"samples_s": [[1e-5] * 100_000] * 2},
        {"samples_s": [[[1e-5]], [[1e-5]]]},
        {"samples_s": [[1e-5]]},
        {"quantiles_s": [[1e-5], [1e-5]]},
        {"rounds": "many"},
        {"rounds": 1.5},
        {"converged": 1},
        {"unknown": 1},
    ],
)
def test_a_timing_of_another_shape_is_refused(answer, changes):
    with pytest.raises(AnswerError):
        read(with_timing(answer, **changes))


def test_an_error_is_one_short_line_without_control_characters():
    text = "\x1b]0;title\x07\x1b[2J" + "x" * 5_000_000 + "\nautotune: forged"
    found = read({"index": 0, "error": text, "died": False})
    assert found.error.startswith(r"\x1b]0;title\x07\x1b[2J")
    assert len(found.error) < 520
    assert found.error.isprintable()
    for wrong in (3, None, ["x"], {"a": 1}):
        with pytest.raises(AnswerError):
            read({"index": 0, "error": wrong, "died": False})
    assert cut("a\nb") == r"a\nb"


def test_the_clocks_beside_a_timing_are_checked_too(answer):
    clock = {
        "moment": "before",
        "read_at": "2026-01-01",
        "sm_mhz": 1,
        "memory_mhz": 1,
        "temperature_c": 1,
        "power_w": 1.0,
        "reasons": 0,
    }
    assert len(read({**answer, "clocks": [clock]}).clocks) == 1
    for wrong in ({"moment": "\x1b[31m"}, {"power_w": math.inf}, {"sm_mhz": "fast"}, {"x": 1}):
        with pytest.raises(AnswerError):
            read({**answer, "clocks": [clock | wrong]})


def test_a_profile_is_of_the_sites_that_were_asked_for():
    good = {"total_s": 1.0, "sites_s": {"a": 0.25, "b": 0.5}}
    assert read_profile(json.dumps(good), ["a", "b"]).sites_s == good["sites_s"]
    assert read_profile(json.dumps(None), ["a", "b"]) is None
    for wrong in (
        {"sites_s": {"a": 0.25}},
        {"sites_s": {"a": 0.25, "b": 0.5, "c": 0.1}},
        {"sites_s": {"a": 0.75, "b": 0.5}},
        {"sites_s": {"a": -0.1, "b": 0.5}},
        {"sites_s": [["a", 0.25]]},
        {"total_s": math.nan},
        {"total_s": "1"},
    ):
        with pytest.raises(AnswerError):
            read_profile(json.dumps(good | wrong), ["a", "b"])


def test_a_fingerprint_is_of_the_device_that_was_asked_for():
    good = Fingerprint(
        device="cpu", device_name="x", backend="b", dtype="fp32", threads=1, versions={"o": "1"}
    )
    values = good.to_json()
    assert read_fingerprint(json.dumps(values), device="cpu") == good
    for wrong in ({"device": "h200-sxm"}, {"threads": "1"}, {"versions": {"o": 1}}, {"extra": 1}):
        with pytest.raises(AnswerError):
            read_fingerprint(json.dumps(values | wrong), device="cpu")


def test_abilities_are_of_what_was_asked_for():
    asked = ["dense", "dense:int8-static", "rank=1:pivoted"]
    good = {"forms": asked[:2], "dtypes": ["fp32", "bf16"], "cpu_features": ["avx2"]}
    found = read_abilities(json.dumps(good), dtype="fp32", forms=asked)
    assert found.forms == ("dense", "dense:int8-static")
    assert found.dtypes == ("fp32", "bf16")
    for wrong in (
        {"forms": ["dense:int3"]},
        {"forms": "dense"},
        {"forms": [["dense"]]},
        {"dtypes": []},
        {"dtypes": ["bf16", "fp32"]},
        {"dtypes": ["fp32", "fp1"]},
        {"cpu_features": ["sse9"]},
        {"extra": []},
    ):
        with pytest.raises(AnswerError):
            read_abilities(json.dumps(good | wrong), dtype="fp32", forms=asked)


def test_losses_are_sums_and_counts():
    assert read_losses("[[1.5, 64], [2.0, 64.0]]") == [[1.5, 64], [2.0, 64.0]]
    for wrong in ("[]", "{}", "[1]", "[[1]]", "[[1, NaN]]", '[[1, "2"]]', "x", "[[1, true]]"):
        with pytest.raises(AnswerError):
            read_losses(wrong)


def test_an_error_of_a_worker_is_ours_or_one_sentence():
    ours = worker_error(UsageError("threads must be 1 to 2, got 4096"))
    assert type(ours) is UsageError
    assert str(ours) == "threads must be 1 to 2, got 4096"
    assert len(str(worker_error(UsageError("x" * 5_000_000)))) < 520
    other = worker_error(RuntimeError("\x1b[31m" + "y" * 5_000_000))
    assert type(other) is MeasurementError
    assert str(other).startswith(r"a worker failed: RuntimeError: \x1b[31my")
    assert len(str(other)) < 600
