"""A result that was edited by hand is one sentence, or means what it says."""

import json
import re

import pytest

from autotune.core.errors import UsageError
from autotune.results.record import TuneRecord
from autotune.results.result import read_result, result_text
from tests.conftest import DATA
from tests.security.edited import IMPOSSIBLE, RESULTS, put


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "result.json").write_text((DATA / "result-v3.json").read_text())
    return result_text(read_result(folder))


@pytest.mark.parametrize("name", RESULTS)
def test_an_edited_result(tmp_path, whole, name):
    (tmp_path / "result.json").write_text(whole)
    RESULTS[name](tmp_path)
    try:
        found = read_result(tmp_path)
    except UsageError as error:
        assert "\n" not in str(error)
        assert str(tmp_path) in str(error)
    else:
        assert isinstance(found, TuneRecord)
        read = json.loads((tmp_path / "result.json").read_text())
        assert {**read, **found.to_json()}.items() >= read.items()


@pytest.mark.parametrize("place", IMPOSSIBLE)
def test_a_number_that_nothing_can_have_is_refused_by_its_place(tmp_path, whole, place):
    (tmp_path / "result.json").write_text(whole)
    IMPOSSIBLE[place](tmp_path)
    with pytest.raises(UsageError, match=re.escape(f"{place} must be at ")):
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
