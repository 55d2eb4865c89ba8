"""A tuning that is run again in the folder of its result."""

import dataclasses

from autotune.core.runfolder import RunFolder
from autotune.results.layer_timings import LayerTimings
from autotune.results.result import result_text
from autotune.tuning.session import _earlier, _is_same
from tests.records import stored_record


def test_a_tuning_that_ends_as_its_folder_did_is_the_same_result(tmp_path):
    record = stored_record()
    cost = dataclasses.replace(record.cost, seconds=record.cost.seconds + 1)
    timings = LayerTimings(settled=1, total=2, load=5.8, cores=2)
    again = dataclasses.replace(record, cost=cost, layer_timings=timings)
    with RunFolder(tmp_path) as folder:
        assert _earlier(folder) is None
        (tmp_path / "result.json").write_text(result_text(record))
        assert _is_same(again, _earlier(folder))
        assert not _is_same(dataclasses.replace(again, measured_ratio=0.9), _earlier(folder))
    assert not _is_same(again, None)
