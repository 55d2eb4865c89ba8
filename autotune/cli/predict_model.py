"""`autotune predict --model`: what a person reads of a model's prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from autotune.cli.main import emit
from autotune.core.quantities import format_bytes, format_count, format_seconds
from autotune.layers.network_advice import advice
from autotune.layers.network_records import (
    Change,
    LayerKind,
    NetworkPrediction,
    PhasePrediction,
)

INTERVALS = {
    "table": "90 % intervals, of this machine with this software",
    "transfer": "90 % intervals, of another board, driver, library and harness (transfer)",
}
_RANKS = (
    "break-even: in latency, the largest aligned rank predicted to be faster than the dense layer; "
    "surely: with its whole interval"
)
_RIGHT = ("count", "dense", "share", "break-even", "surely")


def show(found: NetworkPrediction, output_format: str) -> None:
    """Print a prediction as text, or as JSON that has all of it."""
    record = {**found.to_json(), "advice": advice(found)}
    emit(output_format, record, lines=list(lines(found)))


def lines(found: NetworkPrediction) -> Iterator[str]:
    """The text, line by line."""
    yield from _head(found)
    for phase in found.phases:
        yield ""
        yield from _phase(phase)
    yield ""
    yield from _changes(found)
    yield from _stacks(found)
    yield from (f"note: {note}" for note in found.notes)
    yield from (f"not priced: {name}: {why}" for name, why in found.refused.items())
    yield ""
    yield f"advice: {advice(found)}"
    yield _RANKS
    yield INTERVALS[found.interval]
    yield from (f"from {source}" for source in found.sources)


def _head(found: NetworkPrediction) -> Iterator[str]:
    yield (
        f"{found.model}: {found.task}, {format_count(found.parameters)} parameters, "
        f"{format_bytes(found.weight_bytes)} in {found.dtype}"
    )
    shared = f", {found.tensor_parallel} devices" if found.tensor_parallel > 1 else ""
    yield f"{found.device}, {found.backend}, {found.dtype}{shared}: {found.workload}"
    yield f"dense: {_seconds(found)}"


def _seconds(found: NetworkPrediction | PhasePrediction) -> str:
    seconds, low, high = map(format_seconds, (found.latency_s, found.low_s, found.high_s))
    return f"{seconds} ({low} to {high})"


def _phase(phase: PhasePrediction) -> Iterator[str]:
    often = f"{phase.count} × " if phase.count > 1 else ""
    yield f"{often}{phase.name}, dense: {_seconds(phase)}"
    head = ("layers", "count", "M×K×N", "dense", "share", "break-even", "surely")
    rest = ("all else", "", "", format_seconds(phase.rest_s), _percent(phase.rest_share), "", "")
    yield from _table([head, *map(_layer, phase.layers), rest], right=_RIGHT)


def _layer(kind: LayerKind) -> tuple[str, ...]:
    shape = kind.shape
    return (
        kind.name,
        str(kind.count),
        f"{shape.tokens}×{shape.in_features}×{shape.out_features}",
        format_seconds(kind.dense.latency_s),
        _percent(kind.share),
        _rank(kind.likely_rank),
        _rank(kind.faster_rank),
    )


def _changes(found: NetworkPrediction) -> Iterator[str]:
    """Ratios of each phase, and of the whole where there are several phases."""
    columns = [(phase.name, phase.changes) for phase in found.phases]
    if len(columns) > 1:
        columns.append(("request", found.changes))
    head = ("ratio to dense", *(name for name, _ in columns))
    rows = [
        (one.name, *(_ratio(changes[number]) for _, changes in columns))
        for number, one in enumerate(found.changes)
    ]
    yield from _table([head, *rows])


def _stacks(found: NetworkPrediction) -> Iterator[str]:
    """Who ran the precisions that this project has not measured."""
    by_stacks: dict[tuple[str, ...], list[str]] = {}
    for change in found.changes:
        if change.stacks:
            by_stacks.setdefault(change.stacks, []).append(change.name)
    for stacks, names in by_stacks.items():
        alone = "; others may differ by more than the interval" if len(stacks) == 1 else ""
        yield f"{', '.join(names)}: as run by {', '.join(stacks)}{alone}"


def _ratio(change: Change) -> str:
    interval = f"{change.ratio:.3f} ({change.ratio_low:.3f} to {change.ratio_high:.3f})"
    return f"{interval} {change.verdict}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _rank(rank: int | None) -> str:
    return "none" if rank is None else str(rank)


def _table(rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> Iterator[str]:
    """Aligned columns under the first row; those that it names in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(row, widths, rows[0], strict=True)
        ]
        yield "  ".join(cells).rstrip()
