"""A result that was edited by hand is one sentence, or means what it says."""

import json
import re

import pytest

from autotune.core.errors import UsageError
from autotune.core.progress import Reporter
from autotune.report.summary import bench_lines, miss_text, summary
from autotune.results.record import TuneRecord
from autotune.results.result import read_result, result_text
from autotune.tuning import bench as module
from autotune.tuning.bench import bench
from tests.conftest import DATA
from tests.records import stored_record
from tests.security.edited import EMPTY, IMPOSSIBLE, RESULTS, put


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "result.json").write_text((DATA / "result-v3.json").read_text())
    return result_text(read_result(folder))


def time_again(folder, record, monkeypatch):
    """What reads most of a result, with the timings that it has itself."""
    for build in record.builds.values():
        for path in (build.dense, build.compressed, build.inputs):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
    timings = {phase.name: phase.timing for phase in stored_record().phases}
    monkeypatch.setattr(module, "time_pass", lambda *_, phase, **__: timings[phase])
    assert summary(record, folder)
    assert miss_text(record)
    if record.measured is not None:
        assert bench_lines(bench(folder, Reporter()))


@pytest.mark.parametrize("name", RESULTS)
def test_an_edited_result(tmp_path, whole, name, monkeypatch):
    (tmp_path / "result.json").write_text(whole)
    RESULTS[name](tmp_path)
    try:
        found = read_result(tmp_path)
    except UsageError as error:
        assert "\n" not in str(error)
        assert str(tmp_path) in str(error)
    else:
        assert isinstance(found, TuneRecord)
        time_again(tmp_path, found, monkeypatch)
        read = json.loads((tmp_path / "result.json").read_text())
        assert {**read, **found.to_json()}.items() >= read.items()


@pytest.mark.parametrize("place", IMPOSSIBLE)
def test_a_number_that_nothing_can_have_is_refused_by_its_place(tmp_path, whole, place):
    (tmp_path / "result.json").write_text(whole)
    IMPOSSIBLE[place](tmp_path)
    with pytest.raises(UsageError, match=re.escape(f"{place} must be at ")):
        read_result(tmp_path)


@pytest.mark.parametrize("name", EMPTY)
def test_what_is_empty_or_zero_is_refused_by_its_place(tmp_path, whole, name):
    (tmp_path / "result.json").write_text(whole)
    EMPTY[name](tmp_path)
    place = re.escape(f"{tmp_path / 'result.json'}: {name.split()[0]} must ")
    with pytest.raises(UsageError, match=place):
        read_result(tmp_path)


def test_a_dense_latency_of_zero_in_an_older_result_is_refused(tmp_path):
    values = json.loads((DATA / "result-v3.json").read_text())
    edited = {**values, "budget": {"latency": "20ms"}, "dense_latency_s": 0}
    (tmp_path / "result.json").write_text(json.dumps(edited))
    with pytest.raises(UsageError, match="dense_latency_s must be above 0"):
        read_result(tmp_path)


def test_layers_that_overlap_leave_less_than_nothing(tmp_path, whole):
    """`rest_latency_s` is a difference, which is negative there."""
    (tmp_path / "result.json").write_text(whole)
    put(-0.001, "rest_latency_s")(tmp_path)
    assert read_result(tmp_path).rest_latency_s == -0.001


def test_most_of_them_are_refused(tmp_path, whole):
    """The test above would pass if nothing were checked."""
    refused = 0
    for change in RESULTS.values():
        (tmp_path / "result.json").write_text(whole)
        change(tmp_path)
        try:
            read_result(tmp_path)
        except UsageError:
            refused += 1
    assert refused > 0.8 * len(RESULTS)
