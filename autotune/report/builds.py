"""The part of report.html that compares every build: predicted, measured, and its parity.

Exports are made after the report. `verify` checks them and replaces this part of the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.core.files import write_text_whole
from autotune.results.checks import Check, CheckKind, EngineFacts, ParityFacts, TimingFacts
from autotune.results.record import TuneRecord

# Marks of the part in the page; reports of older versions have the same.
START, END = "<!-- artefacts -->", "<!-- end of artefacts -->"


@dataclass(frozen=True, kw_only=True)
class BuildRow:
    """One build in one phase; None where nothing was predicted or measured.

    Ratios are to the dense model in the same format, with the ends of the 95 % interval; `parity`
    is the largest difference to the checkpoint; `wrong` is the reason if a check failed.
    """

    name: str
    phase: str
    predicted_ratio: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    latency_s: float | None = None
    parity: float | None = None
    wrong: str = ""


def tuned_builds(record: TuneRecord) -> list[BuildRow]:
    """What the tuning itself built and timed, one row for each phase."""
    return [
        BuildRow(
            name=Path(record.builds[phase.name].compressed).name,
            phase=phase.name,
            predicted_ratio=phase.predicted_ratio,
            ratio=phase.ratio,
            ratio_low=phase.ratio_low,
            ratio_high=phase.ratio_high,
            latency_s=phase.latency_s,
        )
        for phase in record.phases
        if phase.name in record.builds
    ]


def build_rows(record: TuneRecord, checks: Iterable[Check]) -> list[BuildRow]:
    """The builds of the tuning as it recorded them, then every export as the checks found it."""
    exports: dict[str, BuildRow] = {}
    for check in checks:
        if not check.export or check.kind is CheckKind.HASH:
            continue
        row = exports.get(check.subject, BuildRow(name=check.subject, phase=check.phase))
        row = replace(row, wrong=row.wrong or check.reason)
        exports[check.subject] = _with_facts(row, check, record=record)
    return [*tuned_builds(record), *exports.values()]


def _with_facts(row: BuildRow, check: Check, *, record: TuneRecord) -> BuildRow:
    facts = check.facts
    if isinstance(facts, EngineFacts):
        row = replace(row, latency_s=facts.latency_s)
    if isinstance(facts, ParityFacts):
        row = replace(row, parity=facts.worst)
    if isinstance(facts, TimingFacts):
        row = replace(
            row,
            ratio=facts.ratio,
            ratio_low=facts.ratio_low,
            ratio_high=facts.ratio_high,
            latency_s=facts.latency_s,
        )
    if check.kind is CheckKind.LATENCY:  # timed as it was tuned, so the prediction covers it
        row = replace(row, predicted_ratio=record.phase(check.phase).predicted_ratio)
    return row


def render_builds(rows: Sequence[BuildRow]) -> str:
    """The table, between its marks."""
    from autotune.report.page import environment

    return environment().get_template("builds.html").render(rows=rows, start=START, end=END)


def put_builds(page: Path, rows: Sequence[BuildRow]) -> bool:
    """Replace the table in a report; False where there is no page with one."""
    if not page.is_file():
        return False
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        return False
    whole = before + render_builds(rows).rstrip("\n") + after
    write_text_whole(page, whole)
    return True
