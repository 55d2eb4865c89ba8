"""What is handed out, timed at other shapes and in several streams."""

import dataclasses

import pytest

from autotune.core.types import Workload
from autotune.report.html import write_report
from autotune.report.summary import summary
from autotune.tuning.other_shapes import other_workloads
from tests.autotune.tuning.small import small_home, tune_small


def sizes(workload):
    return [(each.batch_size, each.sequence_length) for each in other_workloads(workload)]


@pytest.mark.parametrize(
    ("own", "others"),
    [
        ((8, 128), [(1, 128), (8, 32), (1, 32)]),
        ((1, 512), [(4, 512), (1, 128), (4, 128)]),
        ((1, 16), [(4, 16), (1, 8), (4, 8)]),
        ((2, 4), [(1, 4)]),
    ],
)
def test_one_and_several_sequences_and_shorter_ones(own, others):
    assert sizes(Workload(batch_size=own[0], sequence_length=own[1])) == others


def test_other_shapes_keep_the_rest_of_the_workload():
    own = Workload(batch_size=1, sequence_length=64, output_length=8, phase="decode")
    assert {(each.output_length, each.phase) for each in other_workloads(own)} == {(8, "decode")}


@pytest.mark.slow
@pytest.mark.duration(60)
def test_a_result_shows_other_shapes_and_streams(tmp_path):
    home = small_home(tmp_path)
    given = {"memory_budget": "0.8x", "other_shapes": True, "threads": 2}
    result = tune_small(home, "out", allow_quality_loss=True, **given)
    found = result.record.other_shapes
    assert [(one.batch_size, one.sequence_length, one.streams) for one in found] == [
        (1, 16, 1),
        (2, 8, 1),
        (1, 8, 1),
        (2, 16, 2),
    ]
    for one in found:
        assert one.ratio_low <= one.ratio <= one.ratio_high
        assert one.measured.dense_latency_s > 0
        assert one.throughput_gain == pytest.approx(1 / one.ratio)
    lines = summary(result.record, result.folder)
    assert any(line.startswith("shapes      ratio at 1 x 16: ") for line in lines)
    assert any(line.startswith("streams     2 at once: ") for line in lines)
    assert "2 streams at once" in (result.folder / "report.html").read_text()
    again = tune_small(home, "out", allow_quality_loss=True, **given)
    assert again.record.other_shapes == found  # kept, not timed anew
    without = dataclasses.replace(result.record, other_shapes=())
    write_report(without, tmp_path / "without.html")
    assert "at once" not in (tmp_path / "without.html").read_text()
