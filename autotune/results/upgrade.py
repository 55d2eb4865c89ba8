"""Older versions of `result.json`, rewritten step by step into the current one.

Each step takes the JSON object of one version and returns that of the next. Steps are never edited
after a release; a new version adds one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, low_rank
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.verdict import Verdict, latency_limit

SCHEMA_VERSION = 5
_Json = dict[str, Any]


def upgrade(values: Mapping[str, Any], version: int, *, where: str) -> _Json:
    """The object of schema `version` as one of the current version, without a version key.

    Args:
        values: The JSON object as it was read, without its `schema_version`.
        version: Its schema version.
        where: What was read, such as the path of the file, for the error message.

    Raises:
        UsageError: keys are missing that every result of that version has, or a dense latency is 0.
    """
    found = dict(values)
    for number in range(version, SCHEMA_VERSION):
        try:
            found = _STEPS[number](found)
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{where} is damaged: it does not have the keys of schema version {number} "
                f"({error}); run the tuning again"
            ) from error
        except ZeroDivisionError as error:
            raise UsageError(
                f"{where}: dense_latency_s must be above 0; run the tuning again"
            ) from error
    return found


def oldest_version() -> int:
    """The oldest schema version that can be read."""
    return min(_STEPS, default=SCHEMA_VERSION)


def upgrade_summary(values: Mapping[str, Any]) -> _Json:
    """The figures that the service kept of a tuning of any version, as of the current one."""
    found = dict(values)
    if "verdict" not in found:  # version 3
        found |= _verdict(found, found)
    return found if "quality_verdict" in found else _with_quality_verdict(found)


def _result_to_4(values: _Json) -> _Json:
    """Adds verdicts, the plan, and forms beside ranks.

    Version 3 called a budget met by the ratio alone. The verdict is found again from the recorded
    interval, so a result whose interval contains its limit is now undecided.
    """
    sites = [
        {**site, "form": _form(site["rank"])} if "group" in site else site
        for site in values["sites"]
    ]
    staircases = [
        {**curve, "points": [{**point, "form": _form(point["rank"])} for point in curve["points"]]}
        for curve in values["staircases"]
    ]
    return {
        **values,
        **_verdict(values, values),
        "plan": {site["name"]: site["form"] for site in sites if "group" in site},
        "sites": sites,
        "staircases": staircases,
        "rounds": [{**one, **_verdict(values, one)} for one in values["rounds"]],
    }


def _verdict(result: _Json, judged: _Json) -> _Json:
    """Verdict of a result or one of its rounds; absolute limits use the result's dense latency."""
    limit = latency_limit(result["budget"].get("latency"), result["dense_latency_s"])
    if judged["measured_ratio"] is None:
        ratio = judged["predicted_ratio"]  # no interval of it was kept
        verdict = Verdict.of_prediction(limit, ratio, ratio_low=ratio, ratio_high=ratio)
    else:
        verdict = Verdict.of(
            limit,
            judged["measured_ratio"],
            ratio_low=judged["measured_ratio_low"],
            ratio_high=judged["measured_ratio_high"],
        )
    return {"verdict": verdict.value, "within_budget": verdict.within_budget}


def _form(rank: int | None) -> str:
    return str(DENSE if rank is None else low_rank(rank))


def _with_quality_verdict(values: _Json) -> _Json:
    """Adds whether the quality is lost, which no version before 5 asked or allowed."""
    quality = values["quality"]
    verdict = QualityVerdict.of(
        quality["metric"],
        dense=quality["dense"],
        compressed=quality["compressed"],
        higher_is_better=quality["higher_is_better"],
    )
    return {**values, "quality_verdict": verdict.value, "allow_quality_loss": False}


_STEPS: dict[int, Callable[[_Json], _Json]] = {3: _result_to_4, 4: _with_quality_verdict}
