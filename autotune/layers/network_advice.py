"""What to do with a network on a device, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.layers.network_records import Change, ChangeKind, NetworkPrediction, PhasePrediction


def advice(found: NetworkPrediction) -> str:
    """What is surely faster than the dense network, and the phases that differ from the whole.

    A ratio whose interval contains 1 is never called faster.
    """
    ranks, precisions = _of(found.changes, "rank"), _of(found.changes, "precision")
    first, *others = found.phases
    where = "over the request" if others else f"at {_tokens(first)}"
    clauses = [_precision(precisions), _rank(ranks, where)]
    if others:
        clauses += (_exception(phase, whole_pays=bool(_sure(ranks))) for phase in found.phases)
    if any(each.verdict == "faster" for each in found.changes):
        clauses.append("what it costs in quality only a tuning shows")
    return "; ".join(filter(None, clauses)) + "."


def _of(changes: Sequence[Change], kind: ChangeKind) -> list[Change]:
    return [each for each in changes if each.kind == kind]


def _sure(changes: Sequence[Change]) -> list[Change]:
    return [each for each in changes if each.verdict == "faster"]


def _fastest(changes: Sequence[Change]) -> Change | None:
    return min(changes, key=lambda each: each.ratio, default=None)


def _precision(precisions: Sequence[Change]) -> str:
    if best := _fastest(_sure(precisions)):
        by = f" as {_listed(best.stacks)}" if best.stacks else ""
        return f"use {best.name}{by} ({_ratio(best)} of the dense latency)"
    return "no precision that was timed is surely faster" if precisions else ""


def _rank(ranks: Sequence[Change], where: str) -> str:
    """From which share of the parameters on all that keep less are surely faster."""
    if fastest := _fastest(_sure(ranks)):
        if mildest := _mildest(ranks):
            return f"{where} ranks pay off that keep {mildest.keep:g} or less ({_ratio(mildest)})"
        return f"{where} the ranks of {fastest.name} pay off ({_ratio(fastest)})"
    likely = _fastest([each for each in ranks if each.ratio < 1])
    if likely is None:
        return f"{where} no rank pays off"
    return (
        f"{where} no rank surely pays off ({likely.name} is undecided, {_ratio(likely)}: tune or "
        "measure on the device)"
    )


def _mildest(ranks: Sequence[Change]) -> Change | None:
    """The last of those that are surely faster, beginning with the ranks that keep least."""
    found = None
    for each in sorted(ranks, key=lambda one: one.keep or 0.0):
        if each.verdict != "faster":
            break
        found = each
    return found


def _exception(phase: PhasePrediction, *, whole_pays: bool) -> str:
    """That no rank surely pays off in a phase, and what does, or that ranks do.

    Empty where the phase is like the whole.
    """
    ranks = _of(phase.changes, "rank")
    if bool(_sure(ranks)) == whole_pays:
        return ""
    if not whole_pays:
        return _rank(ranks, f"in {phase.name} ({_tokens(phase)})")
    said = f"in {phase.name} ({_tokens(phase)}) no rank surely pays off"
    best = _fastest(_sure(_of(phase.changes, "precision")))
    return f"{said}, and {best.name} does ({_ratio(best)})" if best else said


def _tokens(phase: PhasePrediction) -> str:
    return f"{phase.tokens} token{'s' if phase.tokens > 1 else ''}"


def _ratio(change: Change) -> str:
    return f"{change.ratio:.2f}, {change.ratio_low:.2f} to {change.ratio_high:.2f}"


def _listed(stacks: Sequence[str]) -> str:
    """What serving stacks do, without their versions."""
    *first, last = [name.partition(" ")[0] for name in stacks]
    return f"{', '.join(first)} and {last} run it" if first else f"{last} runs it"
