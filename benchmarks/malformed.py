"""Malformed model folders and edited results: every one ends in a sentence, none in a traceback.

    python benchmarks/malformed.py --rows malformed.jsonl

Each row is one command in a process of its own: `tune` on a malformed model folder, `bench` on a
finished tuning whose result.json was edited, `verify` on one whose checkpoint was. The cases are
those of tests/security/malformed.py and edited.py. Rows that the file holds are not run again.
The last line is one JSON document: how many rows ended how. A traceback is exit code 70, or one on
stderr; `timeout` is a command that ran for more than ten minutes.
"""

from __future__ import annotations

import argparse
import collections
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.commands import run_command
from tests.conftest import LLAMA
from tests.security.edited import CHECKPOINTS, RESULTS
from tests.security.malformed import FOLDERS, make

_LIMIT_S = 600.0
_TUNE = (
    *("--params-budget", "0.9x", "--batch-size", "1", "--isl", "32", "--threads", "1"),
    *("--calibration", str(LLAMA / "heldout.txt"), "--calibration-samples", "8", "--trials", "0"),
    *("--sensitivity-rounds", "0", "--rounds", "1", "--measure-seconds", "0.3", "--quiet"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: which command on what."""

    kind: str
    name: str
    command: str
    prepare: Callable[[Path], object]


def _make(folder: Path, *, change: Any) -> object:
    return make(folder, change)


def cases(finished: Path) -> Iterator[Case]:
    """Every row; `finished` is the folder of a tuning that is copied and edited."""
    for name, change in FOLDERS.items():
        yield Case(
            kind="folder",
            name=name,
            command="tune",
            prepare=partial(_make, change=change),
        )
    for kind, command, changes in (
        ("result", "bench", RESULTS),
        ("checkpoint", "verify", CHECKPOINTS),
    ):
        for name, change in changes.items():

            def prepare(folder: Path, change: Callable[[Path], None] = change) -> None:
                shutil.copytree(finished, folder)
                change(folder)

            yield Case(kind=kind, name=name, command=command, prepare=prepare)


def run(case: Case, home: Path) -> dict[str, object]:
    """Make the case's folder, and run its command on it."""
    folder = home / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(home / "out", ignore_errors=True)
    case.prepare(folder)
    arguments = [case.command, folder]
    if case.command == "tune":
        arguments = ["tune", "--model", folder, *_TUNE, "--output", home / "out"]
    try:
        done = run_command(*arguments, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"exit_code": None, "outcome": "timeout", "said": ""}
    lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or [""]
    said = lines[-1].replace(str(home), "")
    return {"exit_code": done.returncode, "outcome": outcome(done), "said": said[:300]}


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    """`refused`, `ran`, or `traceback`."""
    code = done.returncode
    if code not in (0, 1, 2, 3, 4, 5, 75) or "Traceback (most" in done.stderr:
        return "traceback"
    return "refused" if code in (2, 3, 4) else "ran"


def main() -> None:
    """One line a row, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="the file that rows are added to")
    rows = parser.parse_args().rows
    known = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    done = {(row["kind"], row["name"]) for row in known}
    with tempfile.TemporaryDirectory() as text, rows.open("a") as out:
        home = Path(text)
        finished = run_command("tune", "--model", LLAMA, *_TUNE, "--output", home / "finished")
        assert finished.returncode in (0, 1, 5), finished.stderr
        for case in cases(home / "finished"):
            if (case.kind, case.name) in done:
                continue
            about = {"kind": case.kind, "name": case.name, "command": case.command}
            row = {**about, **run(case, home)}
            known.append(row)
            out.write(json.dumps(row) + "\n")
            out.flush()
            print(row["outcome"], row["exit_code"], case.kind, case.name, "->", row["said"])
    counts = collections.Counter(f"{row['kind']} {row['outcome']}" for row in known)
    print(json.dumps({"rows": len(known), **dict(sorted(counts.items()))}))


if __name__ == "__main__":
    main()
