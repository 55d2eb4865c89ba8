"""Predicted and measured latency of the first plan beside a neighbour, by two versions in turn.

    git worktree add --detach BEFORE REVISION
    python benchmarks/first_round.py --before BEFORE --rows FILE --runs 20

A row is two tunings of tests/data/code-llama-3m to 0.9x, one of the version in BEFORE and one of
this, each with an empty latency database and beside benchmarks/neighbour.py with the row's seed, as
a user who may not raise priorities. Both have plain pairs in fp32, since BEFORE may know no other
form. What is compared is the first round: predicted before anything was built, then measured. Rows
that the file holds are not run again. The last line is one JSON document: of each version the
median and the largest relative difference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from busy import ENVIRONMENT, TUNINGS, neighbour, run

_OWN = ("--precision", "native", "--factors", "plain")
_VERSIONS = ("before", "now")


def main() -> None:
    """One line a row, and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="a checkout of another version")
    parser.add_argument("--rows", type=Path, required=True, help="the file that rows are added to")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    file: Path = options.rows
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    roots = {"before": options.before.resolve(), "now": Path(__file__).resolve().parents[1]}
    for number in range(len(known), options.runs):
        first, second = _VERSIONS if number % 2 == 0 else _VERSIONS[::-1]
        row = {"number": number} | {
            version: _first_round(roots[version], version=version, seed=number)
            for version in (first, second)
        }
        known.append(row)
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    print(json.dumps({version: _summary([row[version] for row in known]) for version in _VERSIONS}))


def _first_round(root: Path, *, version: str, seed: int) -> dict[str, float]:
    """Tune with one version beside the neighbour; its first round."""
    own = _OWN if version == "now" else ()
    with tempfile.TemporaryDirectory() as text, neighbour(seed):
        home = Path(text)
        places = ("--output", str(home / "out"), "--db", str(home / "busy.sqlite"))
        options = ("--rounds", "1", *own, *places)
        record = run(
            "tune", *TUNINGS["small"], *options, environment=ENVIRONMENT["small"], root=root
        )
    first = record["rounds"][0]
    return {name: first[f"{name}_ratio"] for name in ("predicted", "measured")}


def _summary(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """How far the measured ratio is from the predicted one."""
    apart = [each["measured"] / each["predicted"] - 1 for each in rounds]
    return {
        "runs": len(apart),
        "median": statistics.median(apart),
        "median_absolute": statistics.median(map(abs, apart)),
        "largest": max(map(abs, apart)),
        "measured_above_0.9": sum(each["measured"] > 0.9 for each in rounds),
    }


if __name__ == "__main__":
    main()
