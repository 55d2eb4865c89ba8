"""What `verify` checks, as records: one `Check` for each thing that was looked at."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.core.errors import AutotuneError
from autotune.core.text import first_line
from autotune.results.codec import encode
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.verdict import Verdict


class CheckKind(enum.StrEnum):
    """The kinds of checks, named for what they compare (`ranks`: whole forms)."""

    HASH = "hash"
    RANKS = "ranks"
    PARITY = "parity"
    LATENCY = "latency"
    QUALITY = "quality"
    ENGINE = "engine"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a check found; each kind of check has its own fields, which JSON shows."""


@dataclass(frozen=True, kw_only=True)
class FormFacts(Facts):
    """Number of layers that are not as the dense model has them."""

    layers: int


@dataclass(frozen=True, kw_only=True)
class ParityFacts(Facts):
    """Largest difference to the reference over all inputs that were tried."""

    worst: float


@dataclass(frozen=True, kw_only=True)
class EngineFacts(ParityFacts):
    """Parity of an engine, and its median latency in seconds."""

    latency_s: float


@dataclass(frozen=True, kw_only=True)
class TimingFacts(Facts):
    """An export timed alternately with the dense model: seconds, ratio and its 95 % interval."""

    latency_s: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, kw_only=True)
class LatencyFacts(Facts):
    """The ratio to dense now, when tuned, and as predicted; the verdict is that of now."""

    ratio: float
    ratio_low: float
    ratio_high: float
    tuned_ratio: float
    predicted_ratio: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class QualityFacts(Facts):
    """The quality figure now and when tuned."""

    metric: str
    value: float
    tuned: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What looking returned: facts, and the reason if the check does not hold."""

    facts: Facts = dataclasses.field(default_factory=Facts)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check, whether it holds, and the reason if it does not.

    `subject` is the file or graph that was checked, relative to the run folder; empty where the
    whole result was. `export` is the folder of the export that it belongs to, empty for what the
    tuning itself handed out; `phase` is the phase of a graph.
    """

    kind: CheckKind
    subject: str = ""
    export: str = ""
    phase: str = ""
    holds: bool = True
    reason: str = ""
    facts: Facts = dataclasses.field(default_factory=Facts)

    @property
    def title(self) -> str:
        """A file for hashes, else such as `parity of model.onnx` or `quality`."""
        if self.kind is CheckKind.HASH:
            return self.subject
        return f"{self.kind} of {self.subject}" if self.subject else str(self.kind)

    def facts_json(self) -> dict[str, Any]:
        """The numbers and names that the check found, as JSON."""
        return encode(self.facts)  # type: ignore[no-any-return]

    def to_json(self) -> dict[str, Any]:
        """A finding of `verify --format json`."""
        return {
            "check": self.title,
            "kind": self.kind.value,
            "subject": self.subject,
            "holds": self.holds,
            "reason": self.reason,
            **self.facts_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Every check of a run's or an export's folder.

    `quality_verdict` is that of the tuning, None for an export alone; `quality_lost` says that the
    quality is lost and that this was not allowed, `floor_missed` that it is below the floor that
    was asked for; `warnings` are no checks, and worth knowing.
    """

    folder: str
    checks: tuple[Check, ...]
    quality_verdict: QualityVerdict | None = None
    quality_lost: bool = False
    floor_missed: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether every check of the verification holds."""
        return all(check.holds for check in self.checks)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the budget is met by the latency now; None where nothing was timed for it."""
        found = (check.facts for check in self.checks)
        return next((facts.verdict for facts in found if isinstance(facts, LatencyFacts)), None)

    @property
    def within_budget(self) -> bool | None:
        """True, False, or None where the latency does not decide or was not timed."""
        return None if self.verdict is None else self.verdict.within_budget

    @property
    def exit_code(self) -> int:
        """1 where a check fails, a budget or floor is missed or the quality lost, else 5 or 0.

        5 is where only the latency is undecided.
        """
        if not self.valid or self.quality_lost or self.floor_missed:
            return Verdict.MISSED.exit_code
        return (self.verdict or Verdict.MET).exit_code

    def to_json(self) -> dict[str, Any]:
        """What `verify --format json` prints."""
        return {
            "folder": self.folder,
            "valid": self.valid,
            "verdict": encode(self.verdict),
            "within_budget": self.within_budget,
            "quality_verdict": encode(self.quality_verdict),
            "quality_lost": self.quality_lost,
            "floor_missed": self.floor_missed,
            "findings": [check.to_json() for check in self.checks],
            "warnings": list(self.warnings),
        }


def run_check(
    look: Callable[[], Finding],
    kind: CheckKind,
    *,
    subject: str = "",
    export: str = "",
    phase: str = "",
) -> Check:
    """Call `look` and record what it found; whatever it raises is why the check fails."""
    try:
        found = look()
    except AutotuneError as error:
        found = Finding(reason=str(error) or type(error).__name__)
    except MemoryError:
        raise
    except Exception as error:  # of the libraries that read and run the files
        kind_of, why = type(error).__name__, first_line(error)
        found = Finding(reason=why if why == kind_of else f"{kind_of}: {why}")
    return Check(
        kind=kind,
        subject=subject,
        export=export,
        phase=phase,
        holds=not found.reason,
        reason=found.reason,
        facts=found.facts,
    )
