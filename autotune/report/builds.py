"""The part of report.html that says of every artefact what was predicted and what was measured.

Exports are made after the report; `verify` measures them and writes this part of the page anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.files import write_whole

START, END = "<!-- artefacts -->", "<!-- end of artefacts -->"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A model as somebody runs it, in one pass; None is what was not predicted or not measured.

    Ratios are to the dense model in the same form, with the ends of the 95 % interval; `parity` is
    the largest difference to the checkpoint; `wrong` says why it does not hold.
    """

    name: str
    run: str
    predicted_ratio: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    latency_s: float | None = None
    parity: float | None = None
    wrong: str = ""


def tuned_artefacts(record: Mapping[str, Any]) -> list[Artefact]:
    """What the tuning itself built and timed, pass by pass."""
    names = {run: Path(entry["compressed"]).name for run, entry in record["artefacts"].items()}
    return [
        Artefact(
            name=names[one["name"]], run=one["name"], predicted_ratio=one["predicted_ratio"],
            ratio=one["ratio"], ratio_low=one["ratio_low"], ratio_high=one["ratio_high"],
            latency_s=one["latency_s"],
        )
        for one in record["passes"]
        if one["name"] in names
    ]  # fmt: skip


def render_artefacts(rows: Sequence[Artefact]) -> str:
    """The table, between its marks."""
    from autotune.report.page import environment

    return environment().get_template("artefacts.html").render(rows=rows, start=START, end=END)


def put_artefacts(page: Path, rows: Sequence[Artefact]) -> bool:
    """Replace the part in a report; False where there is no page with such a part."""
    if not page.is_file():
        return False
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        return False
    whole = before + render_artefacts(rows).rstrip("\n") + after
    write_whole(page, lambda path: _write(path, whole))
    return True


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
