"""The result that a run folder already holds, and which request it answers."""

from __future__ import annotations

from dataclasses import replace

from autotune.compress.calibration import CalibrationData
from autotune.core.errors import UsageError
from autotune.core.options_json import to_json
from autotune.core.runfolder import RunFolder
from autotune.core.types import canonical_json, digest
from autotune.results.record import TuneRecord
from autotune.results.result import read_result
from autotune.tuning.machine import Machine
from autotune.tuning.model import TracedModel
from autotune.tuning.request import TuneRequest

_ANSWERED = "answered.json"
# Calibration and machine count by what they hold, and nothing else of a request changes its result.
_REQUESTED = ("workload", "budget", "method", "search", "seed")
# What differs from one tuning to the next that measures nothing.
_PASSING = ("cost", "layer_timings")


def request_key(
    request: TuneRequest, *, model: TracedModel, data: CalibrationData, machine: Machine
) -> str:
    """Equal for two requests where a result of one answers the other."""
    values = to_json(request)
    return digest(
        {
            **{name: values[name] for name in _REQUESTED},
            "model": model.key,
            "data": data.sha256,
            "fingerprint": machine.fingerprint.id,
            "measure_seconds": machine.measure_seconds,
        }
    )


def note_answer(folder: RunFolder, key: str) -> None:
    """Note that the result in the folder answers the request of this key."""
    record = read_result(folder.path)  # numbers as they are read: 1 is 1.0 then
    if not is_answered(folder, record, key=key):
        folder.write_text(folder.cache / _ANSWERED, _answer(record, key))


def is_answered(folder: RunFolder, record: TuneRecord, *, key: str) -> bool:
    """Whether it is noted of the result in the folder that it answers the request of this key."""
    try:
        return (folder.cache / _ANSWERED).read_bytes() == _answer(record, key).encode()
    except OSError:
        return False


def _answer(record: TuneRecord, key: str) -> str:
    values = record.to_json()
    result = digest({name: value for name, value in values.items() if name not in _PASSING})
    return canonical_json({"request": key, "result": result})


def earlier_result(folder: RunFolder) -> TuneRecord | None:
    """The result that the folder holds, if there is one."""
    try:
        return read_result(folder.path)
    except UsageError:
        return None


def is_same(record: TuneRecord, earlier: TuneRecord | None) -> bool:
    """Whether two tunings ended alike, but for what they cost and how busy the host was."""
    if earlier is None:
        return False
    return replace(record, cost=earlier.cost, layer_timings=earlier.layer_timings) == earlier
