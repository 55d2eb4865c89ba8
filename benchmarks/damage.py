"""Damaged files of a run folder: is anything wrong handed out, or anything but a sentence said?

    python benchmarks/damage.py [--log damage.jsonl] [--only factors] [--after KIND]

Tunes a tiny random Llama once. Then, for each kind of file in the run folder and each kind of
damage, a copy of the folder is damaged in that way and tuned again: cached files with the same
budget and with another one, which needs other files of the cache; files that were handed out with
the same budget. The outcome is compared with that of an undamaged folder: plan, quality, sizes, and
the bytes of the checkpoint and of the graphs. `--log` keeps a line for each case; a later run with
the same log leaves those out. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("AUTOTUNE_MEASURE_SECONDS", "0.2")

import autotune
from autotune.core.errors import AutotuneError
from autotune.core.files import file_sha256, files_of
from autotune.core.progress import Reporter
from autotune.results.result import TuneResult
from tests.conftest import LLAMA
from tests.damage import DAMAGES, save_model

BUDGETS = ("0.95x", "0.9x")
_COMPARED = ("plan", "quality", "parameters", "stored_bytes", "flops", "calibration", "budget")
# They hold what was measured, or the run's own time.
_VARYING = ("model/README.md", "result.json", "report.html")


@dataclass(frozen=True)
class Case:
    """One file, damaged in one way, and the budget that is asked for afterwards."""

    file: str
    damage: str
    budget: str

    @property
    def name(self) -> str:
        """The same for every run: hashes in names are left out."""
        return f"{_kind(self.file)} {self.damage} {self.budget}"


@dataclass(frozen=True)
class Outcome:
    """How a case ended: "same", "refused" in a sentence, "traceback", "wrong" or "damaged"."""

    case: str
    ended: str
    notes: tuple[str, ...] = ()
    text: str = ""


class Notes(Reporter):
    """Collects what a tuning notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)


def main() -> None:
    """Print a line for each case that does not end the same, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="JSON lines of the cases done; continued.")
    parser.add_argument("--only", default="", help="Only cases whose name contains this.")
    parser.add_argument("--after", default="", help="Only kinds of files that sort after this.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(count(Path(folder), arguments)))


def count(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Try all cases; how many ended in which way."""
    log: Path = arguments.log or folder / "log.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    seen = {entry["case"] for entry in done}
    bench = Bench(folder)
    for case in bench.cases():
        if case.name in seen or arguments.only not in case.name:
            continue
        if _kind(case.file) <= arguments.after:
            continue
        outcome = bench.try_case(case)
        done.append(asdict(outcome))
        with log.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        if outcome.ended != "same":
            print(f"{outcome.case}: {outcome.ended} {outcome.text}", flush=True)
    ended = Counter(entry["ended"] for entry in done)
    # Those notes begin with the file; others are warnings about a busy machine.
    named = sum(any(note.startswith("/") for note in entry["notes"]) for entry in done)
    return {"cases": len(done), "named_in_the_log": named, **ended}


class Bench:
    """Undamaged folders for both budgets, and copies of the first that are damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        save_model(folder / "model")
        self.good: dict[str, TuneResult] = {}
        for budget in reversed(BUDGETS):  # the base ends with the first budget's result
            self.tune(self.base, budget)
            shutil.copytree(self.base, folder / f"good-{budget}")
            self.good[budget] = self.tune(folder / f"good-{budget}", budget)

    def tune(self, output: Path, budget: str, *, notes: Notes | None = None) -> TuneResult:
        """The same tuning each time, but for its budget."""
        return autotune.tune(
            self.folder / "model",
            output=output,
            params_budget=budget,
            database=self.folder / "latency.sqlite",
            batch_size=2,
            isl=16,
            calibration=LLAMA / "heldout.txt",
            calibration_samples=8,
            trials=2,
            sensitivity_rounds=1,
            rounds=1,
            threads=1,
            device="cpu",
            reporter=notes or Notes(),
        )

    def cases(self) -> Iterator[Case]:
        """Every kind of file in the folder, in every kind of damage."""
        kinds: set[str] = set()
        for path in files_of(self.base):
            file = path.relative_to(self.base).as_posix()
            if _kind(file) in kinds or path.name == "lock":
                continue
            kinds.add(_kind(file))
            for damage in DAMAGES:
                cached = file.startswith(".cache")
                for budget in BUDGETS if cached else BUDGETS[:1]:
                    yield Case(file, damage, budget)

    def try_case(self, case: Case) -> Outcome:
        """Damage a copy, tune again, compare."""
        output, notes = self.folder / "work", Notes()
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(self.base, output)
        path = output / case.file
        damaged = DAMAGES[case.damage](path.read_bytes())
        path.write_bytes(damaged)
        try:
            result = self.tune(output, case.budget, notes=notes)
        except AutotuneError as error:
            return Outcome(case.name, "refused", tuple(notes.lines), str(error))
        except Exception:
            return Outcome(
                case.name, "traceback", tuple(notes.lines), traceback.format_exc()[-900:]
            )
        ended, text = self.compared(result, case)
        return Outcome(case.name, ended, tuple(notes.lines), text)

    def compared(self, result: TuneResult, case: Case) -> tuple[str, str]:
        """Whether a result is that of the undamaged folder, and what is not."""
        good = self.good[case.budget]
        found, expected = result.record.to_json(), good.record.to_json()
        wrong = [key for key in _COMPARED if found.get(key) != expected.get(key)]
        if not _plausible(found, expected):
            wrong.append("latency")
        names = {*result.record.files, *good.record.files}
        damaged = [name for name in sorted(names) if not _is_whole(name, result, good=good)]
        if damaged:
            return "damaged", ", ".join(damaged)
        return ("wrong", ", ".join(wrong)) if wrong else ("same", "")


def _plausible(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether a latency, which may have been measured anew, is one at all."""
    pairs = [(found[key], expected[key]) for key in ("dense_latency_s", "measured_latency_s")]
    return all(one > 0 and abs(math.log(one / other)) < math.log(20) for one, other in pairs)


def _is_whole(name: str, result: TuneResult, *, good: TuneResult) -> bool:
    """Whether a file that was handed out is there, as its result says and as it ought to be."""
    path = result.folder / name
    if not path.is_file() or file_sha256(path) != result.record.files.get(name):
        return False
    same: bool = file_sha256(path) == good.record.files.get(name)
    return same or name in _VARYING


def _kind(file: str) -> str:
    return re.sub(r"-[0-9a-f]{16}", "", file)


if __name__ == "__main__":
    main()
