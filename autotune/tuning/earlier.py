"""The result that a run folder already holds, the request it answers, and the rounds it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autotune.compress.calibration import CalibrationData
from autotune.core.errors import UsageError
from autotune.core.forms import Plan, plan_from_json, plan_to_json
from autotune.core.options_json import to_json
from autotune.core.runfolder import RunFolder
from autotune.core.types import Estimate, canonical_json, digest
from autotune.predictor.network.model import NetworkModel
from autotune.results.measured import Measured, MeasuredPass
from autotune.results.record import TuneRecord
from autotune.results.result import read_result
from autotune.search.problem import Allocation
from autotune.tuning.machine import Machine
from autotune.tuning.model import TracedModel
from autotune.tuning.request import TuneRequest
from autotune.tuning.rounds import Round

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


def note_answer(folder: RunFolder, key: str, *, rounds: Sequence[Round]) -> None:
    """Note that the result in the folder answers the request of this key, after these rounds."""
    record = read_result(folder.path)  # numbers as they are read: 1 is 1.0 then
    answer = _answer(record, key)
    if not is_answered(folder, record, key=key):
        folder.write_text(folder.cache / _ANSWERED, canonical_json(answer))
    kept = [_round_to_json(each) for each in rounds]
    folder.json_stage("rounds", answer, compute=lambda: kept, reuse=bool)


def is_answered(folder: RunFolder, record: TuneRecord, *, key: str) -> bool:
    """Whether it is noted of the result in the folder that it answers the request of this key."""
    try:
        return (folder.cache / _ANSWERED).read_text() == canonical_json(_answer(record, key))
    except (OSError, ValueError):
        return False


def noted_rounds(
    folder: RunFolder,
    record: TuneRecord,
    *,
    network: NetworkModel,
    key: str,
    builds: Callable[[Plan], Mapping[str, Path]],
) -> list[Round]:
    """The rounds that led to the result in the folder, on the network model as it is now.

    Layers that were measured again during them are why they could not be repeated: another table
    may choose other plans. `builds` makes the compressed models of a plan, by phase.
    """
    found = folder.json_stage("rounds", _answer(record, key), compute=list, reuse=bool)
    return [_round_of_json(one, network, builds=builds) for one in found]


def _answer(record: TuneRecord, key: str) -> dict[str, str]:
    values = record.to_json()
    result = digest({name: value for name, value in values.items() if name not in _PASSING})
    return {"request": key, "result": result}


def _round_to_json(outcome: Round) -> dict[str, Any]:
    allocation = outcome.allocation
    looks = {"measured": outcome.measured, "second_look": outcome.second_look}
    return {
        "allocation": {**vars(allocation), "plan": plan_to_json(allocation.plan)},
        "corrections": outcome.corrections,
        "prediction": asdict(outcome.predicted),
        **{name: look and asdict(look) for name, look in looks.items()},
    }


def _round_of_json(
    found: Mapping[str, Any],
    network: NetworkModel,
    *,
    builds: Callable[[Plan], Mapping[str, Path]],
) -> Round:
    plan = plan_from_json(found["allocation"]["plan"])
    costs = tuple(found["allocation"]["costs"])
    return Round(
        allocation=Allocation(**{**found["allocation"], "plan": plan, "costs": costs}),
        network=network.corrected(found["corrections"]),
        measured=_look_of_json(found["measured"]),
        second_look=_look_of_json(found["second_look"]),
        prediction=Estimate(**found["prediction"]),
        builds=builds(plan),
    )


def _look_of_json(found: Mapping[str, Any] | None) -> Measured | None:
    if found is None:
        return None
    return Measured(passes=tuple(MeasuredPass(**one) for one in found["passes"]))


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
