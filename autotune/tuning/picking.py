"""Another point of a finished tuning: what was measured in its run is handed out in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autotune.core.errors import BudgetInfeasibleError, UsageError, option_name
from autotune.core.forms import NATIVE
from autotune.core.progress import Reporter
from autotune.core.types import Budget
from autotune.results.parts import MeasuredPoint
from autotune.results.record import TuneRecord
from autotune.results.result import TuneResult, read_result
from autotune.results.verdict import latency_limit
from autotune.tuning.opening import open_tuning
from autotune.tuning.record import CHOSEN
from autotune.tuning.rounds import Round
from autotune.tuning.session import Tuning
from autotune.tuning.stored_request import noted_request


def pick(
    folder: str | Path,
    reporter: Reporter | None = None,
    *,
    latency_budget: str | None = None,
    quality_floor: str | None = None,
) -> TuneResult:
    """Hand out another plan that a tuning measured: no layer and no network is measured again.

    Within a latency budget the one of best quality; under a quality floor alone the fastest.

    Args:
        folder: The folder of a tuning with `front` or reference points.
        reporter: Receives progress; nothing is reported without one.
        latency_budget: Such as `20ms` or `0.6x`.
        quality_floor: Such as `0.99` or `1.05x`, of the figure on held-out data.

    Raises:
        UsageError: the folder holds no such tuning, or neither limit was given.
        BudgetInfeasibleError: no plan that was measured is within the limits.
    """
    folder, reporter = Path(folder), reporter or Reporter()
    budget = Budget(latency=latency_budget, quality=quality_floor)
    record = read_result(folder)
    point = choose_point(record, budget)
    request = replace(noted_request(folder), output=folder, budget=budget)
    dtype = record.runtime_dtype or NATIVE
    with open_tuning(request, reporter, keep_timings=True, dtype=dtype) as tuning:
        _restore(tuning, record)
        final = _found(tuning, point)
        return tuning.hand_out(final, [final])


def choose_point(record: TuneRecord, budget: Budget) -> MeasuredPoint:
    """The best of the points that a tuning measured.

    Raises:
        UsageError: it measured none.
        BudgetInfeasibleError: none is within the limits; names the nearest.
    """
    points = [*record.front, *record.compared]
    if not points:
        raise UsageError(
            "this tuning measured no other plans; run it again with --front 8 (its layers are not "
            "measured again)"
        )
    within = [each for each in points if _holds(each, record, budget=budget)]
    if not within:
        raise BudgetInfeasibleError(_nearest_text(points, record, budget=budget), {})
    if budget.latency:
        return min(within, key=lambda each: _badness(each, record))
    return min(within, key=lambda each: each.ratio)


def _holds(point: MeasuredPoint, record: TuneRecord, *, budget: Budget) -> bool:
    floor = budget.floor()
    limit = latency_limit(budget.latency, record.dense_latency_s)
    kept = floor is None or replace(record.quality, compressed=point.quality).keeps(floor)
    return kept and (limit is None or point.ratio_high <= limit)


def _badness(point: MeasuredPoint, record: TuneRecord) -> float:
    """Less is better, whichever way the figure goes."""
    return -point.quality if record.quality.higher_is_better else point.quality


def _nearest_text(points: Sequence[MeasuredPoint], record: TuneRecord, *, budget: Budget) -> str:
    best = min(points, key=lambda each: _badness(each, record))
    fastest = min(points, key=lambda each: each.ratio_high)
    asked = ", ".join(
        f"{option_name(f'budget.{name}')} {text}"
        for name, text in (("latency", budget.latency), ("quality", budget.quality))
        if text
    )
    metric = record.quality.metric
    return (
        f"infeasible budget: {asked} was asked for and none of {len(points)} plans that were "
        f"measured is within it; the best has {metric} {best.quality:.4g} at {best.ratio:.3f} of "
        f"the dense latency, the fastest {metric} {fastest.quality:.4g} at {fastest.ratio:.3f} "
        f"(at most {fastest.ratio_high:.3f}); tune with that budget instead"
    )


def _restore(tuning: Tuning, record: TuneRecord) -> None:
    """Show again what the result showed, the plan that it handed out among the others."""
    points = [replace(each, name=_own_name(each)) for each in (*record.compared, *record.front)]
    rounds = {each.name: tuning.round_of(each) for each in points}
    references = {each.name for each in record.compared if each.name != CHOSEN}
    tuning.references = {name: one for name, one in rounds.items() if name in references}
    tuning.front = {name: one for name, one in rounds.items() if name not in references}


def _own_name(point: MeasuredPoint) -> str:
    """The plan that an allocator chose is one of several now."""
    return f"chosen at {point.ratio:.3f}" if point.name == CHOSEN else point.name


def _found(tuning: Tuning, point: MeasuredPoint) -> Round:
    """The restored round of a point."""
    return {**tuning.references, **tuning.front}[_own_name(point)]
