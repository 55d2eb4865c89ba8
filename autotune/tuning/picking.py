"""Another point of a finished tuning: what was measured in its run is handed out in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autotune.core.errors import BudgetInfeasibleError, UsageError, option_name
from autotune.core.forms import NATIVE
from autotune.core.paths import data_folder
from autotune.core.progress import Reporter
from autotune.core.types import Budget, Fingerprint
from autotune.results.measured_points import MeasuredPoint
from autotune.results.record import TuneRecord
from autotune.results.result import TuneResult, read_result
from autotune.results.verdict import latency_limit
from autotune.tuning.machines import find_machine
from autotune.tuning.opening import open_tuning
from autotune.tuning.request import TuneRequest
from autotune.tuning.rounds import CHOSEN, Round
from autotune.tuning.session import Tuning
from autotune.tuning.stored_request import noted_request


def pick(
    folder: str | Path,
    reporter: Reporter | None = None,
    *,
    latency_budget: str | None = None,
    quality_floor: str | None = None,
) -> TuneResult:
    """Hand out another plan that a tuning measured; its measurement is taken as it is.

    Within a latency budget the one of best quality; under a quality floor alone the fastest. The
    tuning's limits on sizes stand.

    Args:
        folder: The folder of a tuning with `front` or reference points.
        reporter: Receives progress; nothing is reported without one.
        latency_budget: Such as `20ms` or `0.6x`.
        quality_floor: Such as `0.99` or `1.05x`, of the figure on held-out data.

    Raises:
        UsageError: the folder holds no such tuning, or one of another machine or software; or
            neither limit was given.
        BudgetInfeasibleError: no plan that was measured is within the limits.
    """
    folder, reporter = Path(folder), reporter or Reporter()
    asked = Budget(latency=latency_budget, quality=quality_floor)
    record = read_result(folder)
    points = points_of(record)
    request = _request_of(folder, record, asked=asked)
    with open_tuning(
        request, reporter, keep_timings=True, dtype=record.runtime_dtype or NATIVE
    ) as tuning:
        rounds = {point.name: tuning.round_of(point) for point in points}
        fitting = [point for point in points if tuning.planner.fits(rounds[point.name].allocation)]
        chosen = choose_point(fitting, record, budget=asked)
        _restore(tuning, record, rounds=rounds)
        final = rounds[chosen.name]
        return tuning.hand_out(final, [final], answers=False)


def points_of(record: TuneRecord) -> list[MeasuredPoint]:
    """What a tuning measured, each under a name of its own.

    Raises:
        UsageError: it measured nothing but the plan that it handed out.
    """
    found: dict[str, MeasuredPoint] = {}
    for point in (*record.front, *record.compared):
        name = point.name
        if name == CHOSEN:  # which is one of several now
            name = f"chosen at {point.ratio:.3f}"
        while name in found:
            name += "'"
        found[name] = replace(point, name=name)
    if len(found) < 2:
        raise UsageError(
            f"this tuning measured no other plans; run it again with {option_name('search.front')} "
            "8 (its layers are not measured again)"
        )
    return list(found.values())


def choose_point(
    points: Sequence[MeasuredPoint], record: TuneRecord, *, budget: Budget
) -> MeasuredPoint:
    """The best of the points of a tuning.

    Raises:
        BudgetInfeasibleError: none is within the limits; names the nearest.
    """
    within = [each for each in points if _holds(each, record, budget=budget)]
    if not within:
        raise BudgetInfeasibleError(_nearest_text(points, record, budget=budget), {})
    if budget.latency:
        return min(within, key=lambda each: (_badness(each, record), each.ratio))
    return min(within, key=lambda each: each.ratio)


def _holds(point: MeasuredPoint, record: TuneRecord, *, budget: Budget) -> bool:
    floor = budget.floor()
    limit = latency_limit(budget.latency, point.measured.dense_latency_s)
    kept = floor is None or replace(record.quality, compressed=point.quality).keeps(floor)
    return kept and (limit is None or point.ratio_high <= limit)


def _badness(point: MeasuredPoint, record: TuneRecord) -> float:
    """Less is better, whichever way the figure goes."""
    return -point.quality if record.quality.higher_is_better else point.quality


def _nearest_text(points: Sequence[MeasuredPoint], record: TuneRecord, *, budget: Budget) -> str:
    asked = ", ".join(
        f"{option_name(f'budget.{name}')} {text}"
        for name, text in (("latency", budget.latency), ("quality", budget.quality))
        if text
    )
    if not points:
        return (
            f"infeasible budget: {asked} was asked for and no plan that was measured is within the "
            "other budgets of the tuning; tune with that budget instead"
        )
    best = min(points, key=lambda each: _badness(each, record))
    fastest = min(points, key=lambda each: each.ratio_high)
    metric = record.quality.metric
    return (
        f"infeasible budget: {asked} was asked for and none of {len(points)} plans that were "
        f"measured is within it; the best has {metric} {best.quality:.4g} at {best.ratio:.3f} of "
        f"the dense latency, the fastest {metric} {fastest.quality:.4g} at {fastest.ratio:.3f} "
        f"(at most {fastest.ratio_high:.3f}); tune with that budget instead"
    )


def _request_of(folder: Path, record: TuneRecord, *, asked: Budget) -> TuneRequest:
    """The request of the tuning in a folder, with other limits and on the same machine.

    Raises:
        UsageError: an older version made the result, or another machine or software.
    """
    request = noted_request(folder)
    machine = replace(request.machine, backend=record.backend, remeasure=False)
    if machine.farm:
        from autotune.farm.processes import read_token

        machine = replace(machine, farm_token=read_token(data_folder() / "farm-token"))
    with find_machine(machine) as found:
        inside = found.in_dtype(record.runtime_dtype) if record.runtime_dtype else found
        if inside.fingerprint != record.device:
            raise UsageError(
                f"{folder} was tuned for {_text(record.device)}, and here is "
                f"{_text(inside.fingerprint)}; pick there, or tune again"
            )
    budget = replace(request.budget, latency=asked.latency, quality=asked.quality)
    return replace(request, output=folder, machine=machine, budget=budget)


def _text(device: Fingerprint) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in sorted(device.versions.items()))
    return (
        f"{device.device_name}, {device.backend} {device.dtype}, {device.threads} threads, "
        f"{versions}"
    )


def _restore(tuning: Tuning, record: TuneRecord, *, rounds: Mapping[str, Round]) -> None:
    """Show again what the result showed, the plan that it handed out among the others."""
    references = {each.name for each in record.compared}
    tuning.references = {name: one for name, one in rounds.items() if name in references}
    tuning.front = {name: one for name, one in rounds.items() if name not in references}
    tuning.dense_latencies_s = record.dense_latencies_s
    tuning.knobs = dict(record.knobs)
